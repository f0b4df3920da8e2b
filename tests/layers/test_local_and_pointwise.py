"""Padding against numpy.pad, convolution against SciPy, pointwise maps, norms and conditioning against formulas."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from opkit.layers import ChannelMLP, Conv, FiLM, GroupNorm, Pointwise, SoftGating, make_skip, pad
from opkit.layers.local import _by_convolution, _by_products, _in_fast_layout

NUMPY = {"periodic": "wrap", "zero": "constant", "reflect": "reflect", "replicate": "edge"}
SCIPY = {"periodic": "wrap", "zero": "constant", "reflect": "mirror", "replicate": "nearest"}


@eqx.filter_jit
def call(layer, *inputs):
    return layer(*inputs)


def test_each_axis_is_padded_by_its_own_rule():
    u = np.random.default_rng(0).normal(size=(2, 4, 5, 6))
    halo, rules = (1, 2, 3), ("periodic", "reflect", "replicate")
    expected = u
    for axis, (width, rule) in enumerate(zip(halo, rules, strict=True), start=1):
        widths = [(width, width) if i == axis else (0, 0) for i in range(4)]
        expected = np.pad(expected, widths, mode=NUMPY[rule])
    np.testing.assert_array_equal(jax.jit(lambda u: pad(u, halo, rules))(u), expected)


@pytest.mark.parametrize("rule", NUMPY)
@pytest.mark.parametrize("dilation", [1, 2])
def test_a_convolution_is_scipys_correlation_with_its_boundary_rule(rule, dilation, key):
    conv = Conv(2, 3, (3, 5), boundary=rule, dilation=dilation, key=key)
    u = np.random.default_rng(0).normal(size=(2, 7, 9))
    expected = np.zeros((3, 7, 9)) + np.asarray(conv.bias)[:, None, None]
    for i, j in np.ndindex(3, 2):
        kernel = np.zeros((2 * dilation + 1, 4 * dilation + 1))
        kernel[::dilation, ::dilation] = conv.weight[i, j]
        expected[i] += ndimage.correlate(u[j], kernel, mode=SCIPY[rule])
    np.testing.assert_allclose(call(conv, u), expected, atol=1e-12)


@pytest.mark.parametrize("ndim", [1, 3])
def test_a_centred_unit_kernel_is_the_identity(ndim, key):
    conv = Conv(1, 1, (3,) * ndim, boundary="zero", key=key)
    unit = jnp.zeros_like(conv.weight).at[(0, 0, *(1,) * ndim)].set(1.0)
    conv = eqx.tree_at(lambda c: (c.weight, c.bias), conv, (unit, jnp.zeros(1)))
    u = jax.random.normal(key, (1, *range(4, 4 + ndim)))
    np.testing.assert_array_equal(call(conv, u), u)


def test_pointwise_maps_mix_channels_and_nothing_else(key):
    u = jax.random.normal(key, (3, 4, 5))
    layer = Pointwise(3, 2, key=key)
    expected = np.einsum("oi,ixy->oxy", layer.weight, u) + np.asarray(layer.bias)[:, None, None]
    np.testing.assert_allclose(call(layer, u), expected, atol=1e-14)
    mlp = ChannelMLP(3, 7, 2, activation=jnp.tanh, key=key)
    np.testing.assert_allclose(call(mlp, u), call(mlp.outer, jnp.tanh(call(mlp.inner, u))), atol=1e-14)
    gated = eqx.tree_at(lambda g: g.gate, SoftGating(3), jnp.array([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(gated(u), u * np.array([1.0, 2.0, 3.0])[:, None, None])
    np.testing.assert_array_equal(make_skip("identity", 3, key=key)(u), u)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_normalised_groups_have_mean_zero_and_unit_variance(groups, key):
    norm = GroupNorm(groups, 4, eps=0.0)
    v = call(norm, 3.0 + 2.0 * jax.random.normal(key, (4, 6, 5))).reshape(groups, -1)
    np.testing.assert_allclose(v.mean(axis=1), 0, atol=1e-13)
    np.testing.assert_allclose(v.var(axis=1), 1, atol=1e-12)


def test_normalisation_agrees_between_grids_that_resolve_the_field(key):
    x = jnp.arange(32) / 32
    u = jnp.stack([1 + jnp.sin(2 * jnp.pi * x), jnp.cos(6 * jnp.pi * x)])
    norm = GroupNorm(2, 2)
    np.testing.assert_allclose(call(norm, u)[:, ::2], call(norm, u[:, ::2]), atol=1e-13)


def test_film_starts_as_the_identity_and_then_scales_and_shifts(key):
    film = FiLM(2, 3, hidden=4, activation=jnp.tanh, key=key)
    u, a = jax.random.normal(key, (3, 5)), jnp.array([0.3, -1.2])
    np.testing.assert_array_equal(call(film, u, a), u)
    weight = jax.random.normal(key, (6, 4))
    film = eqx.tree_at(lambda f: f.outer.weight, film, weight)
    modulation = weight @ jnp.tanh(film.inner.weight @ a + film.inner.bias)
    np.testing.assert_allclose(call(film, u, a), (1 + modulation[:3, None]) * u + modulation[3:, None], atol=1e-13)


@pytest.mark.dtype
def test_precision_follows_the_input():
    key = jax.random.key(0)
    layers = [
        Pointwise(2, 2, key=key),
        ChannelMLP(2, 3, 2, key=key),
        SoftGating(2),
        GroupNorm(1, 2),
        Conv(2, 2, (3,), key=key),
        lambda u: FiLM(1, 2, hidden=2, key=key)(u, jnp.ones(1)),
    ]
    dtypes = [jnp.bfloat16, jnp.float32] + [jnp.float64] * jax.config.read("jax_enable_x64")
    for layer in layers:
        for dtype in dtypes:
            assert eqx.filter_eval_shape(layer, jnp.ones((2, 8), dtype)).dtype == dtype


@pytest.mark.plain
def test_errors_name_the_argument():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="`kernel` is \\(4,\\); expected one to three odd sizes"):
        Conv(1, 1, (4,), key=key)
    with pytest.raises(ValueError, match="`boundary` is 'circular'"):
        Conv(1, 1, (3,), boundary="circular", key=key)
    with pytest.raises(ValueError, match=r"`boundary` is .*for each of 2 axes"):
        Conv(1, 1, (3, 3), boundary=("zero",), key=key)
    with pytest.raises(ValueError, match="`dilation` is 0"):
        Conv(1, 1, (3,), dilation=0, key=key)
    with pytest.raises(ValueError, match="`u` has 2 channels on \\(8,\\) points; expected 1 channels"):
        Conv(1, 1, (3,), key=key)(jnp.ones((2, 8)))
    with pytest.raises(ValueError, match="`u` has 2 channels; expected 3"):
        Pointwise(3, 1, key=key)(jnp.ones((2, 8)))
    with pytest.raises(ValueError, match="`groups` is 2; expected a divisor of the 3 channels"):
        GroupNorm(2, 3)
    with pytest.raises(ValueError, match="`u` has 2 channels; expected 4"):
        GroupNorm(2, 4)(jnp.ones((2, 8)))
    with pytest.raises(ValueError, match="`kind` of skip is 'gate'"):
        make_skip("gate", 3, key=key)


@pytest.mark.parametrize(("shape", "dilation"), [((9,), 3), ((6, 8), 2), ((5, 4, 6), 1)])
def test_all_ways_to_convolve_agree_in_both_modes_of_differentiation(shape, dilation, key):
    x = jax.random.normal(key, (*shape, 2))
    weight = jax.random.normal(jax.random.fold_in(key, 1), (3, 2, *[3] * len(shape)))
    if min(shape) <= 2 * dilation:
        x = jnp.pad(x, [(dilation, dilation)] * len(shape) + [(0, 0)])

    def all_of(way):
        f = lambda x, weight: way(x, weight, dilation)
        square = lambda x, weight: jnp.sum(f(x, weight) ** 3)
        tangents = jnp.cos(x), jnp.cos(weight)
        return {
            "value": f(x, weight),
            "gradient": jax.grad(square, (0, 1))(x, weight),
            "tangent": jax.jvp(f, (x, weight), tangents)[1],
            "tangent of the features alone": jax.jvp(lambda x: f(x, weight), (x,), tangents[:1])[1],
            "tangent of the gradient": jax.jvp(jax.grad(square, (0, 1)), (x, weight), tangents)[1],
        }

    ways = [_by_products, _by_convolution] + [_in_fast_layout] * (len(shape) < 3)
    expected, *others = (jax.jit(partial(all_of, way))() for way in ways)
    for found in others:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-9), found, expected)
