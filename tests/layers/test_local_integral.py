"""LocalIntegral against the integral it approximates."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opkit.layers import LocalIntegral
from solvers import Grid


@eqx.filter_jit
def call(layer, u, grid):
    return layer(u, grid)


def gauss(low, high, count=40):
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return (low + high) / 2 + (high - low) / 2 * nodes, (high - low) / 2 * weights


def hat(rho, ring, rings):
    return np.maximum(0, 1 - np.abs(rho * rings - ring))


def waves(grid):
    x = np.asarray(grid.coordinates())
    return np.stack([np.cos(2 * np.pi * x.sum(0)), np.sin(2 * np.pi * x[0] + 0.3)])


@pytest.mark.parametrize(
    ("placement", "boundary"), [pytest.param("left", "periodic", marks=pytest.mark.slow), ("nodes", "zero")]
)
def test_on_a_line_it_converges_to_the_integral_at_second_order_up_to_the_walls(placement, boundary, key):
    radius, ends = 0.17, placement == "nodes"
    layer = LocalIntegral(2, 1, 1, radius=radius, boundary=boundary, key=key)
    points = np.arange(8 + ends) / 8
    exact = np.zeros(points.size)
    for i, point in enumerate(points):
        for piece in ([-1, -0.5], [-0.5, 0], [0, 0.5], [0.5, 1]):  # no kink within
            low, high = np.array(piece) * radius
            z, weights = gauss(*(np.clip([low, high], -point, 1 - point) if ends else (low, high)), 8)
            ring = hat(abs(z) / radius, 1, 2)
            psi = np.stack([hat(abs(z) / radius, 0, 2), ring, ring * np.sign(z)])
            u = np.stack([np.cos(2 * np.pi * (point + z)), np.sin(2 * np.pi * (point + z) + 0.3)])
            exact[i] += np.einsum("ib,bz,iz,z->", layer.weight[0], psi, u, weights) / (2 * radius)
    errors = []
    for n in (32, 256):
        grid = Grid(n + ends, placement=placement)
        found = call(layer, jnp.asarray(waves(grid)), grid)[0, :: n // 8]
        errors.append(np.sqrt(np.mean((found - exact) ** 2)))
    assert errors[1] < 0.01 * np.std(exact)
    assert np.log2(errors[0] / errors[1]) / 3 > 1.7


@pytest.mark.slow
@pytest.mark.parametrize("ndim", [2, 3])
def test_in_space_it_converges_to_the_integral_over_the_ball(ndim, key):
    """At one point, by quadrature in polar coordinates."""
    radius, degree = 0.23, 1 if ndim == 2 else 2
    layer = LocalIntegral(2, 1, ndim, radius=radius, degree=degree, key=key)
    rho, weights = (np.concatenate(parts) for parts in zip(gauss(0, 0.5), gauss(0.5, 1), strict=True))
    phi = 2 * np.pi * np.arange(64) / 64
    circle = np.stack([np.cos(phi), np.sin(phi)])
    if ndim == 2:
        direction, around = circle, np.full(64, 2 * np.pi / 64)
    else:
        height, width = gauss(-1, 1)
        flat = np.sqrt(1 - height**2)
        direction = np.stack([*(np.outer(flat, c) for c in circle), np.outer(height, np.ones(64))]).reshape(3, -1)
        around = np.outer(width, np.full(64, 2 * np.pi / 64)).ravel()
    harmonics = [np.ones(around.size), *direction]
    if degree == 2:
        x, y, z = direction
        harmonics += [x * y, y * z, z * x, (x * x - y * y) / 2, (3 * z * z - 1) / 12**0.5]
    psi = [np.outer(hat(rho, 0, 2), harmonics[0]), *(np.outer(hat(rho, 1, 2), h) for h in harmonics)]
    offset = radius * rho[:, None] * direction[:, None]
    u = np.stack([np.cos(2 * np.pi * offset.sum(0)), np.sin(2 * np.pi * offset[0] + 0.3)])
    volume = {2: np.pi, 3: 4 / 3 * np.pi}[ndim]
    exact = np.einsum("oib,bra,ira,r,a->o", layer.weight, psi, u, weights * rho ** (ndim - 1), around) / volume
    errors = []
    for n in {2: (16, 64), 3: (12, 24)}[ndim]:
        grid = Grid((n,) * ndim)
        found = call(layer, jnp.asarray(waves(grid)), grid)
        errors.append(abs(found[(0, *(0,) * ndim)] - exact[0]))
    assert errors[1] < 0.02 * np.abs(found).max()
    assert errors[1] < errors[0] / 2


def test_the_table_is_summed_as_written_on_boxes_of_uneven_shape(key):
    """Against the sum over pairs of points, wider than the periodic axis is long."""
    layer = LocalIntegral(1, 1, 2, radius=0.45, rings=1, degree=0, boundary=("periodic", "zero"), key=key)
    grid = Grid((5, 7), upper=(0.6, 1.5), placement=("left", "cells"))
    u = np.random.default_rng(0).normal(size=(1, 5, 7))
    h = grid.spacing
    expected = np.zeros((5, 7))
    for i, j, k in np.ndindex(5, 7, 7):
        for shift in range(-9, 10):
            distance = np.hypot(shift * h[0], (k - j) * h[1]) / 0.45
            expected[i, j] += np.maximum(0, 1 - distance) * u[0, (i + shift) % 5, k]
    expected *= float(layer.weight[0, 0, 0]) * h[0] * h[1] / (np.pi * 0.45**2)
    np.testing.assert_allclose(call(layer, jnp.asarray(u), grid)[0], expected, atol=1e-13)


@pytest.mark.dtype
def test_precision_follows_the_input():
    layer = LocalIntegral(2, 3, 1, radius=0.3, key=jax.random.key(0))
    for dtype in [jnp.bfloat16, jnp.float32] + [jnp.float64] * jax.config.read("jax_enable_x64"):
        assert eqx.filter_eval_shape(layer, jnp.ones((2, 8), dtype), Grid(8)).dtype == dtype


@pytest.mark.plain
def test_errors_name_the_argument():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="`radius` is -1"):
        LocalIntegral(1, 1, 1, radius=-1.0, key=key)
    with pytest.raises(ValueError, match="a degree from 0 to 1"):
        LocalIntegral(1, 1, 1, radius=0.1, degree=2, key=key)
    with pytest.raises(ValueError, match="`boundary` is 'extrapolate'"):
        LocalIntegral(1, 1, 1, radius=0.1, boundary="extrapolate", key=key)
    with pytest.raises(ValueError, match="`u` has 2 channels"):
        LocalIntegral(1, 1, 1, radius=0.1, key=key)(jnp.ones((2, 8)), Grid(8))
