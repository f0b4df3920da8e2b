"""Attention through tokens against its formula in NumPy, and as a ratio of integrals."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opkit.layers import LatentAttention, LatentSpectral

C, HEADS, TOKENS, N = 4, 2, 3, 10


@eqx.filter_jit
def call(layer, x, weights, mask):
    return layer.channels_last(x, weights, mask)


def by_hand(layer, x, weights):
    """One head after another."""
    size, outputs = C // HEADS, []
    maps = (layer.encode_keys, layer.encode_values, layer.decode_queries, layer.decode_keys, layer.decode_values)
    ek, ev, dq, dk, dv = (np.asarray(f.weight) for f in maps)
    tokens = np.zeros((TOKENS, C))
    for h in range(HEADS):
        part = slice(h * size, (h + 1) * size)
        kernel = weights * np.exp(np.asarray(layer.queries[h]) @ (x @ ek.T)[:, part].T / np.sqrt(size))
        tokens[:, part] = layer.queries[h] + kernel @ (x @ ev.T)[:, part] / kernel.sum(1, keepdims=True)
    for h in range(HEADS):
        part = slice(h * size, (h + 1) * size)
        kernel = np.exp((x @ dq.T)[:, part] @ (tokens @ dk.T)[:, part].T / np.sqrt(size))
        outputs.append(kernel / kernel.sum(1, keepdims=True) @ (tokens @ dv.T)[:, part])
    return np.concatenate(outputs, 1) @ np.asarray(layer.project.weight).T + np.asarray(layer.project.bias)


def test_attention_is_its_formula_and_knows_weights_masks_and_no_order(key):
    layer = LatentAttention(C, tokens=TOKENS, heads=HEADS, key=key)
    rng = np.random.default_rng(0)
    x, weights, mask = rng.normal(size=(N, C)), rng.uniform(0.1, 1, N), np.arange(N) < 7
    out = call(layer, x, weights, mask)
    np.testing.assert_allclose(out, by_hand(layer, x, np.where(mask, weights, 0)), atol=1e-13)
    # a masked point may hold anything finite
    other = np.where(mask[:, None], x, 1e3)
    np.testing.assert_allclose(call(layer, other, 5 * weights, mask)[:7], out[:7], atol=1e-13)
    order = rng.permutation(N)
    np.testing.assert_allclose(call(layer, x[order], weights[order], mask[order]), out[order], atol=1e-13)


@pytest.mark.slow
def test_gradients_are_finite_where_weights_are_zero(key):
    layer = LatentAttention(C, tokens=TOKENS, heads=HEADS, key=key)
    x, weights = np.random.default_rng(0).normal(size=(N, C)), np.where(np.arange(N) == 3, 0.0, 1.0)
    gradient = jax.jit(jax.grad(lambda x, w: jnp.sum(layer.encode(x, w) ** 2), (0, 1)))(x, weights)
    assert all(np.isfinite(g).all() for g in gradient)


@pytest.mark.slow
def test_a_block_converges_with_the_quadrature(key):
    block = LatentSpectral(C, tokens=TOKENS, heads=HEADS, harmonics=3, key=key)

    def output(n):
        x = 2 * np.pi * np.arange(n) / n
        u = np.stack([np.sin(x), np.cos(x), np.sin(2 * x), np.cos(3 * x)], 1)
        return call(block, u, np.full(n, 1 / n), None)

    coarse, fine = output(32), output(64)
    np.testing.assert_allclose(fine[::2], coarse, atol=1e-9)


def test_the_series_of_a_token_is_a_sum_of_sines_and_cosines(key):
    block = LatentSpectral(2, tokens=1, harmonics=2, key=key)
    tokens = np.array([[0.3, -0.7], [1.1, 0.2]])
    sines, cosines = np.asarray(block.sines), np.asarray(block.cosines)
    expected = sum(
        sines[:, k] * np.sin(np.pi * (k + 1) / 2 * tokens) + cosines[:, k] * np.cos(np.pi * k / 2 * tokens)
        for k in range(2)
    )
    np.testing.assert_allclose(jax.jit(lambda t: block.series(t))(tokens), expected, atol=1e-14)


@pytest.mark.plain
def test_errors_name_the_argument():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="`heads` is 3; expected a divisor of the 4 channels"):
        LatentAttention(4, tokens=2, heads=3, key=key)
    with pytest.raises(ValueError, match="`tokens` is 0"):
        LatentAttention(4, tokens=0, key=key)
    with pytest.raises(ValueError, match="`harmonics` is 0"):
        LatentSpectral(4, tokens=1, harmonics=0, key=key)
