"""Operators on periodic grids answer on other numbers of points of the same box."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opkit.operators import FNO, ResNet
from solvers import Grid, Points

GRID, FINE = Grid((6, 9), (0.0, -1.0), (2.0, 3.0)), Grid((13, 14), (0.0, -1.0), (2.0, 3.0))


def operators(key):
    return (
        FNO(1, 2, modes=(3, 3), width=4, depth=2, coordinates=False, key=key),
        ResNet(1, 2, ndim=2, width=4, depth=1, key=key),
    )


def polynomial_at(u, grid, points):
    """The trigonometric polynomial of values on `grid`, summed wavenumber by wavenumber."""
    spectrum = np.fft.fft2(u) / np.prod(grid.shape)
    total = np.zeros((len(u), points.shape[1]))
    unit = [(points[j] - grid.lower[j]) / grid.extent[j] for j in range(2)]
    for mode in np.ndindex(*grid.shape):
        pair = [q if 2 * q < n else q - n for q, n in zip(mode, grid.shape, strict=True)]
        # an even axis's Nyquist wavenumber is a cosine
        waves = [
            np.cos(2 * np.pi * q * x) if 2 * abs(q) == n else np.exp(2j * np.pi * q * x)
            for q, x, n in zip(pair, unit, grid.shape, strict=True)
        ]
        total += (spectrum[(slice(None), *mode, None)] * waves[0] * waves[1]).real
    return total


def test_the_output_on_other_grids_is_that_of_its_trigonometric_polynomial(key):
    u = jnp.asarray(np.random.default_rng(0).normal(size=(1, *GRID.shape)))
    few = Grid((3, 5), (0.0, -1.0), (2.0, 3.0))
    for op in operators(key):
        run = jax.jit(lambda u, op=op: (op(u, GRID), op(u, GRID, GRID), op(u, GRID, FINE), op(u, GRID, few)))
        plain, same, fine, coarse = run(u)
        points = np.asarray(FINE.coordinates()).reshape(2, -1)
        expected = polynomial_at(np.asarray(plain), GRID, points).reshape(2, *FINE.shape)
        np.testing.assert_allclose(fine, expected, atol=1e-12 * np.abs(expected).max())
        np.testing.assert_array_equal(plain, same)
        np.testing.assert_allclose(coarse.mean((1, 2)), plain.mean((1, 2)), atol=1e-13)


def test_gradients_go_through_the_query(key):
    rng = np.random.default_rng(0)
    u, direction = (jnp.asarray(rng.normal(size=(1, *GRID.shape))) for _ in range(2))
    op = operators(key)[1]
    run = jax.jit(jax.value_and_grad(lambda u: jnp.sum(op(u, GRID, FINE) ** 2)))
    h = 1e-5
    expected = (run(u + h * direction)[0] - run(u - h * direction)[0]) / (2 * h)
    np.testing.assert_allclose(jnp.sum(run(u)[1] * direction), expected, rtol=1e-7)


@pytest.mark.plain
def test_what_is_not_periodic_is_refused():
    key, u = jax.random.key(0), jnp.ones((1, 8, 8))
    grid, fine = Grid((8, 8)), Grid((16, 16))
    fno = FNO(1, 1, modes=(3, 3), width=4, depth=1, key=key)
    padded = FNO(1, 1, modes=(3, 3), width=4, depth=1, padding=0.25, key=key)
    walled = ResNet(1, 1, ndim=2, width=4, depth=1, boundary=("periodic", "zero"), key=key)
    resnet = ResNet(1, 1, ndim=2, width=4, depth=1, key=key)
    cells = Grid((8, 8), placement="cells")
    for call in (
        lambda: fno(u, cells, cells.resized((16, 16))),
        lambda: fno(u, grid, Grid((16, 16), 0.0, 2.0)),
        lambda: resnet(u, grid, Points(jnp.ones((5, 2)))),
        lambda: fno(u, grid, Grid(16)),
        lambda: padded(u, grid, fine),
        lambda: walled(u, grid, fine),
    ):
        with pytest.raises(ValueError, match="`query` differs from `domain`"):
            call()
