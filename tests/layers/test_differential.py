"""FDConv against derivatives: the order, any ratio of spacings, walls."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opkit.layers import FDConv
from solvers import Grid


@eqx.filter_jit
def call(layer, u, grid):
    return layer(u, grid)


def moments(conv):
    """`a`, `(d, out, in)`."""
    offsets = np.meshgrid(*(np.arange(k) - k // 2 for k in conv.weight.shape[2:]), indexing="ij")
    return np.stack([np.sum(conv.weight * j, axis=tuple(range(2, conv.weight.ndim))) for j in offsets])


def test_it_tends_to_a_derivative_at_first_order(key):
    """The relative error falls by the factor between the spacings: 16 from 32 to 512 points."""
    conv = FDConv(1, 1, (3,), length=0.1, key=key)
    errors = []
    for n in (32, 128, 512):
        x = 2 * np.pi * np.arange(n) / n
        exact = 0.1 * moments(conv)[0, 0, 0] * 2 * np.pi * np.cos(x)
        v = call(conv, jnp.sin(x)[None], Grid(n))[0]
        errors.append(np.linalg.norm(v - exact) / np.linalg.norm(exact))
    np.testing.assert_allclose([errors[0] / errors[1], errors[1] / errors[2]], 4, rtol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(64, 64), (32, 96)])
def test_the_limit_is_the_same_whatever_the_ratio_of_the_spacings(shape, key):
    conv = FDConv(2, 2, (3, 3), length=0.1, key=key)
    errors = []
    for factor in (1, 2):
        grid = Grid(tuple(factor * n for n in shape), upper=(1.0, 2.0))
        x, y = np.asarray(grid.coordinates())
        phase = 2 * np.pi * x + np.pi * y
        u, slope = np.stack([np.sin(phase), np.cos(phase)]), np.stack([np.cos(phase), -np.sin(phase)])
        exact = 0.1 * np.einsum("doi,d,ixy->oxy", moments(conv), [2 * np.pi, np.pi], slope)
        errors.append(np.abs(call(conv, jnp.asarray(u), grid) - exact).max())
    assert errors[1] < 0.1
    assert 0.9 < np.log2(errors[0] / errors[1]) < 1.1


def test_extrapolated_over_the_walls_linear_fields_have_their_slope_everywhere(key):
    conv = FDConv(1, 2, (3, 5), length=0.3, boundary="extrapolate", key=key)
    grid = Grid((6, 9), lower=(0.0, -1.0), upper=(2.0, 3.0), placement="nodes")
    u = jnp.tensordot(jnp.array([2.0, -3.0]), grid.coordinates(), 1)[None]
    slope = 0.3 * np.tensordot([2.0, -3.0], moments(conv)[:, :, 0], 1)
    np.testing.assert_allclose(call(conv, u, grid), np.tile(slope[:, None, None], (1, 6, 9)), atol=1e-12)


def test_at_its_length_it_is_a_convolution_of_differences_and_constants_vanish(key):
    conv = FDConv(1, 1, (3, 3), length=0.25, boundary=("periodic", "replicate"), key=key)
    u = np.random.default_rng(0).normal(size=(1, 4, 5))
    grid = Grid((4, 5), upper=(1.0, 1.0), placement=("left", "nodes"))
    padded = np.pad(np.pad(u[0], ((1, 1), (0, 0)), mode="wrap"), ((0, 0), (1, 1)), mode="edge")
    expected = sum(conv.weight[0, 0, i, j] * (padded[i : i + 4, j : j + 5] - u[0]) for i in range(3) for j in range(3))
    v, zero = eqx.filter_jit(jax.vmap(lambda u: conv(u, grid)))(jnp.stack([u, np.ones_like(u)]))
    np.testing.assert_allclose(v[0], expected, atol=1e-13)
    np.testing.assert_allclose(zero, 0, atol=1e-14)


@pytest.mark.dtype
def test_precision_follows_the_input():
    conv = FDConv(2, 3, (3,), length=0.1, key=jax.random.key(0))
    for dtype in [jnp.bfloat16, jnp.float32] + [jnp.float64] * jax.config.read("jax_enable_x64"):
        assert eqx.filter_eval_shape(conv, jnp.ones((2, 8), dtype), Grid(8)).dtype == dtype


@pytest.mark.plain
def test_errors_name_the_argument():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"`kernel` is \(4,\)"):
        FDConv(1, 1, (4,), length=0.1, key=key)
    with pytest.raises(ValueError, match="`boundary` is 'wall'"):
        FDConv(1, 1, (3,), length=0.1, boundary="wall", key=key)
    with pytest.raises(ValueError, match=r"`length` is 0\.0"):
        FDConv(1, 1, (3,), length=0.0, key=key)
    conv = FDConv(1, 1, (3,), length=0.1, key=key)
    with pytest.raises(ValueError, match="`u` has 2 channels"):
        conv(jnp.ones((2, 8)), Grid(8))
    with pytest.raises(ValueError, match="`spacing` is not constant"):
        conv(jnp.ones((1, 8)), Grid(8, placement="chebyshev"))
