"""The space-time decomposition against its definition, one network at a time."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from opkit.operators import FNO, Staggered
from solvers import Grid


class Affine(eqx.Module):
    """`a u + b`, at any points."""

    a: jax.Array
    b: jax.Array

    def __call__(self, u, domain, query=None, *, args=None, key=None):
        return self.a * u + self.b


def affine(count):
    return [Affine(jnp.asarray(1.0 + i), jnp.asarray(10.0 * i)) for i in range(count)]


def fnos(count, key):
    build = lambda key: FNO(1, 1, modes=(2, 2), width=4, depth=1, coordinates=False, key=key)
    return [build(k) for k in jax.random.split(key, count)]


@eqx.filter_jit
def apply(op, u, grid):
    return op(u, grid)


def two_states():
    return np.random.default_rng(0).normal(size=(2, 4, 6)), Grid((4, 6))


def test_the_number_of_a_point_and_the_state_say_which_operator_answers():
    u, grid = two_states()
    state, i, j = np.indices(u.shape)
    number = 4 * state + 2 * (i % 2) + j % 2
    made = apply(Staggered(affine(8), factor=(2, 2), frames=2), jnp.asarray(u), grid)
    np.testing.assert_allclose(made, (1 + number) * u + 10 * number, rtol=1e-15)


def test_identities_make_a_round_trip_that_is_exact():
    u, grid = two_states()
    same = [Affine(jnp.asarray(1.0), jnp.asarray(0.0))] * 8
    np.testing.assert_array_equal(apply(Staggered(same, factor=(2, 2), frames=2), jnp.asarray(u), grid), u)


@pytest.mark.slow
def test_a_point_of_the_answer_depends_on_the_points_of_its_part_alone(key):
    op, grid = Staggered(fnos(4, key), factor=(2, 2)), Grid((8, 8))
    slope = np.array(jax.jacrev(lambda u: op(u, grid)[0, 3, 4])(jax.random.normal(key, (1, 8, 8)))[0])
    assert (slope[1::2, ::2] != 0).all()
    slope[1::2, ::2] = 0
    assert (slope == 0).all()


@pytest.mark.slow
def test_four_devices_make_a_part_each_and_exchange_nothing(key):
    op, grid = Staggered(fnos(4, key), factor=(2, 2)), Grid((8, 8))
    mesh = Mesh(np.array(jax.devices()[:4]), ("part",))
    u = jax.random.normal(key, (4, 1, 4, 4))
    arrays, static = eqx.partition(op.ops, eqx.is_array)
    one = lambda arrays, v: jax.vmap(lambda a, v: eqx.combine(a, static)(v, Grid((4, 4))))(arrays, v)
    split = jax.jit(jax.shard_map(one, mesh=mesh, in_specs=(P("part"), P("part")), out_specs=P("part")))
    placed = jax.device_put((arrays, u), NamedSharding(mesh, P("part")))
    alone = np.stack([op.part(i)(u[i], Grid((4, 4))) for i in range(4)])
    np.testing.assert_allclose(split(*placed), alone, atol=1e-13)
    text = split.lower(*placed).compile().as_text()
    assert not any(word in text for word in ("all-gather", "all-reduce", "all-to-all", "collective-permute"))
    whole = op(u.reshape(2, 2, 1, 4, 4).transpose(2, 3, 0, 4, 1).reshape(1, 8, 8), grid)
    np.testing.assert_allclose(whole[0, 1::2, ::2], alone[2, 0], atol=1e-13)


@pytest.mark.plain
def test_what_does_not_fit_is_named(key):
    op = Staggered(affine(2), factor=(2,))
    cases = {
        r"`ops` are 3 with `factor` \(2,\) and `frames` 1; expected one": lambda: Staggered(affine(3), factor=(2,)),
        "`ops` differ in more than the values": lambda: Staggered([affine(1)[0], fnos(1, key)[0]], factor=(2,)),
        r"placement \('nodes',\); expected a periodic grid": lambda: op(jnp.ones((1, 4)), Grid(4, placement="nodes")),
        "`u` has 3 channels; expected those of 2 states": lambda: Staggered(affine(4), factor=(2,), frames=2)(
            jnp.ones((3, 4)), Grid(4)
        ),
    }
    for message, call in cases.items():
        with pytest.raises(ValueError, match=message):
            call()
