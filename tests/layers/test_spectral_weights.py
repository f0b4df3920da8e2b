"""Factorised weights against dense ones: the same layer, the counts, the variance."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opkit.layers import CP, SpectralConv, Tucker


@eqx.filter_jit
def call(*layers_and_u):
    *layers, u = layers_and_u
    return [layer(u) for layer in layers]


def count(module):
    return sum(x.size for x in jax.tree.leaves(module))


def hosvd(weight):
    """Core and orthogonal factors of every axis but the first, at full rank."""
    core, factors = weight, []
    for axis in range(1, weight.ndim):
        factors.append(np.linalg.svd(np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1))[0])
        core = np.moveaxis(np.tensordot(factors[-1].T, core, (1, axis)), 0, axis)
    return core, factors


def test_a_dense_weight_decomposed_at_full_rank_gives_the_same_layer(key):
    dense = SpectralConv(3, 2, (3, 2), key=key)
    core, (*modes, outer, inner) = hosvd(np.stack([dense.real, dense.imag]))
    factorised = SpectralConv(3, 2, (3, 2), factorisation="tucker", rank=(5, 2, 2, 3), key=key)
    where = lambda c: (c.factors.core, c.factors.modes, c.factors.outer, c.factors.inner)
    factorised = eqx.tree_at(where, factorised, jax.tree.map(jnp.asarray, (core, tuple(modes), outer, inner)))
    expected, found = call(dense, factorised, np.random.default_rng(0).normal(size=(3, 6, 7)))
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("factorisation", "ranks", "sum_over"),
    [
        ("tucker", [(2, 2, 1, 2), (4, 3, 4, 4)], "apqrs,xp,yq,or,is->axyoi"),
        pytest.param("cp", [2, 9], "ar,xr,yr,or,ir->axyoi", marks=pytest.mark.slow),
    ],
)
def test_factor_by_factor_or_composed_the_layer_is_that_of_the_dense_weight(factorisation, ranks, sum_over, key):
    """On a grid coarser than the modes; the low rank is contracted, the high one composed."""
    u, dense = jax.random.normal(key, (4, 4, 5)), SpectralConv(4, 4, (3, 3), key=key)

    @eqx.filter_jit
    def compare(layer):
        weight = layer.factors.dense()
        return weight, layer(u), eqx.tree_at(lambda c: (c.real, c.imag), dense, (weight[0], weight[1]))(u)

    for rank in ranks:
        layer = SpectralConv(4, 4, (3, 3), factorisation=factorisation, rank=rank, key=key)
        weight, found, expected = compare(layer)
        w = layer.factors
        np.testing.assert_allclose(weight, np.einsum(sum_over, w.core, *w.modes, w.outer, w.inner), atol=1e-13)
        np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("kind", [Tucker, CP])
@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.5, 1.0])
def test_a_fraction_of_the_dense_parameters_is_kept_to_and_nearly_used(kind, fraction):
    shape = (2, 23, 12, 32, 32)
    factors = eqx.filter_eval_shape(kind, shape, fraction, deviation=1.0, key=jax.random.key(0))
    assert 0.9 * fraction < count(factors) / np.prod(shape) <= fraction
    if kind is Tucker:
        ranks = factors.core.shape[1:]
        formula = 2 * np.prod(ranks) + sum(n * r for n, r in zip(shape[1:], ranks, strict=True))
    else:
        formula = factors.core.shape[1] * sum(shape)
    assert count(factors) == formula


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "rank"), [(Tucker, (5, 4, 6, 6)), (CP, 100)])
def test_the_composed_weight_has_the_variance_of_the_dense_one(kind, rank, key):
    """Over many draws, as the entries of one share factors."""
    draw = lambda key: jnp.mean(kind((2, 7, 5, 8, 8), rank, deviation=0.25, key=key).dense() ** 2)
    squares = jax.jit(jax.vmap(draw))(jax.random.split(key, 200))
    assert abs(np.mean(squares) * 16 - 1) < 3 * np.std(squares) * 16 / 200**0.5 < 0.15


@pytest.mark.dtype
@pytest.mark.parametrize("factorisation", ["tucker", "cp"])
def test_precision_follows_the_input(factorisation):
    conv = SpectralConv(2, 2, (3, 3), factorisation=factorisation, rank=0.5, key=jax.random.key(0))
    for dtype in [jnp.bfloat16, jnp.float32] + [jnp.float64] * jax.config.read("jax_enable_x64"):
        assert eqx.filter_eval_shape(conv, jnp.ones((2, 8, 8), dtype)).dtype == dtype


@pytest.mark.plain
def test_errors_name_the_argument():
    build = lambda f, r: SpectralConv(2, 2, (3, 3), factorisation=f, rank=r, key=jax.random.key(0))
    with pytest.raises(ValueError, match="`factorisation` is 'svd'"):
        build("svd", 0.1)
    with pytest.raises(ValueError, match=r"`rank` is 1\.5; expected a fraction"):
        build("tucker", 1.5)
    with pytest.raises(ValueError, match=r"`rank` is \(3, 3, 3\); .* from 1 to \(5, 3, 2, 2\)"):
        build("tucker", (3, 3, 3))
    with pytest.raises(ValueError, match="`rank` is 0; expected a fraction, or at least one term"):
        build("cp", 0)
