"""Sixteen bits in the layers, thirty-two in the weights and transforms; and memory for time."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opkit.operators import FNO
from opkit.training import MixedPrecision
from solvers import Grid

GRID = Grid(32)
KEY = jax.random.key(0)


@eqx.filter_jit
def operator(dtype, **options):
    fno = FNO(1, 1, modes=(8,), coordinates=False, key=KEY, **options)
    return jax.tree.map(lambda a: a.astype(dtype) if eqx.is_inexact_array(a) else a, fno)


def loss(op, u):
    return jnp.mean(op(u, GRID) ** 2)


def operations(jaxpr):
    """Each primitive with the dtype of its first operand, the inner ones included."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name, str(equation.invars[0].aval.dtype) if equation.invars else ""
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")
        ):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                yield from operations(getattr(inner, "jaxpr", inner))


def test_layers_compute_in_bfloat16_and_weights_gradients_results_and_transforms_stay_in_float32():
    u = jax.random.normal(KEY, (1, 32), jnp.float32)
    exact = operator(jnp.float32, width=4, depth=1, transform="fft")
    mixed = MixedPrecision(exact)
    both = lambda *ops: [eqx.filter_value_and_grad(loss)(op, u) for op in ops]
    (value, gradient), (expected, slope) = eqx.filter_jit(both)(mixed, exact)
    assert value.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(value, expected, rtol=2e-2)
    found, wanted = (jnp.concatenate([jnp.ravel(g) for g in jax.tree.leaves(t)]) for t in (gradient.op, slope))
    assert 0 < jnp.linalg.norm(found - wanted) < 2e-2 * jnp.linalg.norm(wanted)
    seen = set(operations(jax.make_jaxpr(lambda u: mixed(u, GRID))(u).jaxpr))
    assert ("fft", "float32") in seen
    assert ("dot_general", "bfloat16") in seen


def test_gradients_in_what_all_points_share_keep_growing_with_them():
    """A sum in bfloat16 stops at 256 times its terms; here it has 16,384."""
    u = 1 + jax.random.normal(KEY, (16, 1, 1024), jnp.float32) / 10
    exact = operator(jnp.float32, width=4, depth=1, conditioning=1)
    a = jnp.ones(1, jnp.float32)

    def total(op):
        return jnp.mean(jax.vmap(lambda u: jnp.mean(op(u, Grid(1024), args=a) + u))(u))

    both = lambda *ops: [eqx.filter_grad(total)(op) for op in ops]
    mixed, wanted = eqx.filter_jit(both)(MixedPrecision(exact), exact)
    for (path, found), expected in zip(
        jax.tree_util.tree_leaves_with_path(mixed.op), jax.tree.leaves(wanted), strict=True
    ):
        if found.ndim == 1:
            norm = jnp.linalg.norm(expected)
            assert jnp.linalg.norm(found - expected) < 5e-2 * norm + 1e-6, jax.tree_util.keystr(path)


@pytest.mark.slow
def test_checkpointed_blocks_have_the_same_gradient_and_keep_less_than_half_for_it():
    u = jax.random.normal(KEY, (32, 1, 32))
    plain = operator(float, width=4, depth=4)
    saving = eqx.tree_at(lambda m: m.blocks, plain, tuple(map(eqx.filter_checkpoint, plain.blocks)))

    def both(op):
        arrays, static = eqx.partition(op, eqx.is_array)
        batch = lambda arrays: jnp.mean(jax.vmap(lambda u: loss(eqx.combine(arrays, static), u))(u))
        kept = jax.eval_shape(lambda arrays: jax.vjp(batch, arrays)[1], arrays)
        return jax.tree.leaves(jax.jit(jax.grad(batch))(arrays)), sum(leaf.size for leaf in jax.tree.leaves(kept))

    (gradient, memory), (expected, whole) = both(saving), both(plain)
    for found, wanted in zip(gradient, expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-14)
    assert memory < whole / 2
