"""What is particular to one operator: design, conventions, errors."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opkit.operators import FNO, ResNet
from solvers import Grid, Points


def count(op):
    return sum(x.size for x in jax.tree.leaves(eqx.filter(op, eqx.is_inexact_array)))


def test_apart_from_its_modes_the_default_fno_has_the_parameters_of_neuraloperators(key):
    # neuraloperator 2.0: FNO(n_modes=(8, 8), hidden_channels=24) has 191,881, of which 2 * 8 * 5 * 24**2 * 4 are modes
    op = FNO(1, 1, modes=(5, 5), width=24, key=key)
    assert count(op) - 2 * 9 * 5 * 24**2 * 4 == 191_881 - 2 * 8 * 5 * 24**2 * 4


def test_without_coordinates_a_periodic_operator_commutes_with_translations(key):
    grid = Grid((8, 12))
    u = np.random.default_rng(0).normal(size=(1, 8, 12))
    fno = FNO(1, 1, modes=(3, 3), width=4, depth=2, coordinates=False, key=key)
    resnet = ResNet(1, 1, ndim=2, width=4, depth=2, key=key)
    for op in (fno, resnet):
        call = jax.jit(lambda u, op=op: op(u, grid))
        np.testing.assert_allclose(call(np.roll(u, (3, 5), (1, 2))), np.roll(call(u), (3, 5), (1, 2)), atol=1e-12)


@pytest.mark.parametrize(("placement", "n", "period"), [("left", 16, 20), ("cells", 16, 20), ("nodes", 17, 20)])
def test_padding_makes_the_same_period_of_the_box_at_any_placement(placement, n, period, key):
    op = FNO(1, 1, modes=(3,), width=3, depth=1, padding=0.25, key=key)
    seen = []
    spectral = op.blocks[0].spectral

    class Spy(eqx.Module):
        def channels_last(self, x, placement, axis_names):
            seen.append(x.shape)
            return spectral.channels_last(x)

    op = eqx.tree_at(lambda o: o.blocks[0].spectral, op, Spy())
    jax.eval_shape(lambda u: op(u, Grid(n, placement=placement)), jnp.ones((1, n)))
    assert seen == [(period, 3)]


def test_args_change_the_output_once_conditioning_is_trained(key):
    grid = Grid(8)
    for op in (
        FNO(1, 1, modes=(3,), width=4, depth=2, conditioning=1, key=key),
        ResNet(1, 1, ndim=1, width=4, depth=2, conditioning=1, key=key),
    ):
        call = eqx.filter_jit(lambda op, a: op(jnp.ones((1, 8)), grid, args=a))
        low, high = jnp.array([0.0]), jnp.array([1.0])
        np.testing.assert_array_equal(call(op, low), call(op, high))
        trained = eqx.tree_at(lambda o: o.blocks[0].film.outer.weight, op, replace_fn=lambda w: w + 0.3)
        assert not np.allclose(call(trained, low), call(trained, high), rtol=1e-6)


@pytest.mark.plain
@pytest.mark.parametrize("family", ["FNO", "ResNet"])
def test_errors_name_the_argument(family):
    key = jax.random.key(0)

    def build(**options):
        if family == "FNO":
            return FNO(1, 1, **({"modes": (3, 3), "width": 4, "depth": 1, "key": key} | options))
        return ResNet(1, 1, **({"ndim": 2, "width": 4, "depth": 1, "key": key} | options))

    grid, u = Grid((8, 8)), jnp.ones((1, 8, 8))
    op, conditioned = build(), build(conditioning=2)
    calls = {
        "`domain` is a Points": lambda: op(u, Points(jnp.ones((64, 2)))),
        "`domain` has 1 axes; this operator was built for 2": lambda: op(u, Grid(8)),
        "`domain` has placement .*'chebyshev'": lambda: op(u, Grid((8, 8), placement="chebyshev")),
        r"`u` has shape \(2, 8, 8\); expected \(1, 8, 8\)": lambda: op(jnp.ones((2, 8, 8)), grid),
        r"`u` has shape \(5, 1, 8, 8\)": lambda: op(jnp.ones((5, 1, 8, 8)), grid),
        r"`u` has shape \(1, 8, 9\)": lambda: jax.jit(lambda u: op(u, grid))(jnp.ones((1, 8, 9))),
        "`query` differs from `domain`": lambda: op(u, grid, Grid((16, 16), placement="cells")),
        "`args` was given": lambda: op(u, grid, args=jnp.ones(2)),
        "`args` is missing": lambda: conditioned(u, grid),
        r"`args` has shape \(3,\); expected \(2,\)": lambda: conditioned(u, grid, args=jnp.ones(3)),
        "`width` is 0": lambda: build(width=0),
        "`depth` is 0": lambda: build(depth=0),
        "`conditioning` is -1": lambda: build(conditioning=-1),
        "`groups` is 3": lambda: build(groups=3),
    }
    if family == "FNO":
        calls["`padding` is -0.1"] = lambda: build(padding=-0.1)
        calls[r"`padding` is \(0.1,\)"] = lambda: build(padding=(0.1,))
        calls["`modes` is"] = lambda: build(modes=(3, 3, 3, 3))
    else:
        calls["`ndim` is 4"] = lambda: build(ndim=4)
        calls["`kernel` is"] = lambda: build(kernel=2)
    for message, call in calls.items():
        with pytest.raises(ValueError, match=message):
            call()
