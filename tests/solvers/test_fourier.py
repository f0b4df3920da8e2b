"""The Fourier space: layout, derivatives, dealiasing, padding."""

from math import prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from solvers import Grid
from solvers.fourier import Fourier

GRIDS = [Grid(16, -1.0, 2.0), Grid((12, 15), 0.0, (2.0, 3.0)), Grid((7, 8, 10), 0.0, (1.0, 2.0, 5.0))]


def waves(grid, count, largest, seed=0):
    """Real fields `(1, *n)` of the wavenumbers up to `largest`, as functions that any grid on the box evaluates."""
    rng = np.random.default_rng(seed)
    k = rng.integers(-np.array(largest), np.array(largest) + 1, size=(count, grid.ndim))
    amplitude, phase = rng.normal(size=count), rng.uniform(0, 2 * np.pi, size=count)

    def evaluate(grid, derivative=None):
        x = np.asarray(grid.coordinates())
        scaled = 2 * np.pi * k / np.array(grid.extent)
        angle = np.tensordot(scaled, x, 1) + phase.reshape(-1, *[1] * grid.ndim)
        a = amplitude.reshape(-1, *[1] * grid.ndim)
        if derivative is None:
            return jnp.asarray((a * np.cos(angle)).sum(0))[None]
        factor = scaled[:, derivative].reshape(-1, *[1] * grid.ndim)
        return jnp.asarray((-a * factor * np.sin(angle)).sum(0))[None]

    return evaluate


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("real", [True, False])
def test_derivatives_of_waves_are_exact(grid, real):
    space = Fourier(grid, real=real)
    field = waves(grid, 5, [(n - 1) // 2 for n in grid.shape])
    u = field(grid)
    if not real:
        u = jnp.concatenate([u, 2 * u])
    coefficients = space.encode(u)
    assert coefficients.shape[1:] == space.shape
    np.testing.assert_allclose(space.decode(coefficients), u, atol=1e-13)
    for axis in range(grid.ndim):
        got = space.decode(space.derivative(axis) * coefficients)
        np.testing.assert_allclose(got[0], field(grid, axis)[0], atol=1e-11)
    square = sum(space.derivative(axis, 2) for axis in range(grid.ndim))
    np.testing.assert_allclose(square + 0 * space.laplacian, space.laplacian, rtol=1e-14)
    product = np.asarray(space.laplacian * space.inverse_laplacian)
    assert product.flat[0] == 0
    np.testing.assert_allclose(product.flat[1:], 1)


def test_third_derivative_and_nyquist():
    space = Fourier(Grid(8, 0.0, 2 * np.pi))
    x = np.arange(8) * np.pi / 4
    third = space.decode(space.derivative(0, 3) * space.encode(jnp.asarray(np.sin(2 * x))[None]))
    np.testing.assert_allclose(third[0], -8 * np.cos(2 * x), atol=1e-12)
    assert space.derivative(0, 3)[4] == 0
    assert space.derivative(0, 2)[4] == -16


@pytest.mark.parametrize("dealiasing", ["truncate", "pad"])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("degree", [2, 3])
def test_kept_coefficients_of_products_are_exact(grid, dealiasing, degree):
    space = Fourier(grid, degree=degree, dealiasing=dealiasing)
    field = waves(grid, 6, space.kept, seed=1)
    product = space.project(space.from_points(space.to_points(space.encode(field(grid))) ** degree))
    fine = grid.resized([4 * n for n in grid.shape])
    exact = np.fft.rfftn(np.asarray(field(fine))[0] ** degree) * prod(grid.shape) / prod(fine.shape)
    for index in zip(*np.nonzero(space.mask), strict=True):
        negative = [i - n if i > n // 2 else i for i, n in zip(index, grid.shape, strict=True)]
        np.testing.assert_allclose(product[0][index], exact[tuple(negative)], atol=1e-10)


def test_without_dealiasing_products_alias():
    space = Fourier(Grid(8, 0.0, 2 * np.pi), degree=2, dealiasing="none")
    x = np.arange(8) * np.pi / 4
    product = space.project(space.from_points(space.to_points(space.encode(jnp.asarray(np.cos(3 * x))[None])) ** 2))
    assert abs(product[0, 2]) == pytest.approx(2)  # cos(6x) is cos(2x) on eight points


@pytest.mark.parametrize("dealiasing", ["truncate", "pad", "none"])
@pytest.mark.dtype
def test_precision_follows_the_fields(dealiasing):
    grid = Grid((8, 9))
    for dtype in (jnp.float32, jnp.float64) if jax.config.read("jax_enable_x64") else (jnp.float32,):
        space = Fourier(grid, degree=2, dealiasing=dealiasing).cast(dtype)
        v = space.encode(jnp.ones((1, 8, 9), dtype))
        w = space.project(space.from_points(space.to_points(v * space.derivative(1)) ** 2)) * space.laplacian
        assert space.decode(w).dtype == dtype


@pytest.mark.plain
@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: Fourier(Grid(8, placement="nodes")), "`grid` has 1 axes of placement"),
        (lambda: Fourier(Grid(2), degree=2), "`grid` has .* use more points"),
        (lambda: Fourier(Grid(8), degree=0), "`degree` is 0"),
        (lambda: Fourier(Grid(8), dealiasing="cut"), "`dealiasing` is 'cut'"),  # pyright: ignore[reportArgumentType]  # on purpose
        (lambda: Fourier(Grid(8)).encode(jnp.ones((1, 9))), r"`u` has shape \(1, 9\)"),
        (lambda: Fourier(Grid(8), real=False).encode(jnp.ones((3, 8))), "`u` has 3 channels"),
    ],
)
def test_errors(build, match):
    with pytest.raises(ValueError, match=match):
        build()
