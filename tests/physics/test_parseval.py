"""Sums of squared coefficients against quadrature and closed integrals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opkit.physics import Poisson, Strong, parseval
from opkit.training import Term
from solvers import Bounded, Grid, spectral

GRIDS = {
    "even": (Grid((6, 8), 0.0, (2.0, 3.0)), None),
    "odd": (Grid((7, 5), -1.0, (2.0, 3.0)), None),
    "3-D": (Grid((4, 5, 6), 0.0, (1.0, 2.0, 3.0)), None),
    "walls": (Grid((6, 9), 0.0, (2.0, 3.0), ("nodes", "cells")), None),
    "sines": (Grid((6, 5, 4), 0.0, (2.0, 3.0, 1.0), ("left", "cells", "cells")), ("periodic", "dirichlet", "neumann")),
}


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.dtype
def test_squares_sum_to_the_quadrature_whatever_the_values(name):
    grid, basis = GRIDS[name]
    values = np.random.default_rng(0).normal(size=(2, *grid.shape))
    for dtype in {jnp.dtype(jnp.float32), jnp.result_type(float)}:
        r = values.astype(dtype)
        found = jax.jit(lambda r: parseval(r, grid, basis))(r)
        assert found.dtype == dtype
        rtol = 200 * float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(np.sum(np.asarray(found, float) ** 2), np.sum(grid.weights() * r**2), rtol=rtol)


def test_sines_sum_to_the_quadrature_of_what_vanishes_on_the_walls():
    grid = Grid((9, 7), 0.0, (2.0, 3.0), "nodes")
    r = np.pad(np.random.default_rng(0).normal(size=(1, 7, 5)), ((0, 0), (1, 1), (1, 1)))
    total = jax.jit(lambda r: jnp.sum(parseval(r, grid, "dirichlet") ** 2))(r)
    np.testing.assert_allclose(total, np.sum(grid.weights() * r**2), rtol=1e-13)


def integral(function, grid):
    """By coefficients, of the square."""
    return float(jax.jit(lambda x: jnp.sum(parseval(function(*x)[None], grid) ** 2))(grid.coordinates()))


def test_squares_sum_to_the_integral_of_what_the_grid_resolves():
    found = integral(lambda x, y: jnp.exp(jnp.sin(x) + jnp.cos(2 * y)), Grid((24, 40), 0.0, 2 * np.pi))
    np.testing.assert_allclose(found, (2 * np.pi * np.i0(2.0)) ** 2, rtol=1e-13)
    walls = Grid((12, 18), (-1.0, 0.0), (1.0, 2.0), "chebyshev")
    found = integral(lambda x, y: jnp.exp(2 * x) * jnp.cos(3 * y), walls)
    np.testing.assert_allclose(found, np.sinh(4.0) / 2 * (1 + np.sin(12.0) / 12), rtol=1e-9)
    # of which six Clenshaw-Curtis points miss a part
    np.testing.assert_allclose(integral(lambda x: x**5, Grid(6, -1.0, 1.0, "chebyshev")), 2 / 11, rtol=1e-13)


def test_a_coefficient_is_that_of_an_orthonormal_function():
    grid = Grid(8, 0.0, 2.0, "nodes")
    (x,) = grid.axes()
    np.testing.assert_allclose(
        parseval(jnp.sin(3 * np.pi * x / 2)[None], grid, "dirichlet")[0], np.eye(8)[3], atol=1e-14
    )
    grid = Grid(8, 0.0, 2.0, "chebyshev")
    (x,) = grid.axes()
    quadratic = np.sqrt(5 / 2) * (3 * (x - 1) ** 2 - 1) / 2
    np.testing.assert_allclose(parseval(quadratic[None], grid)[0], np.eye(8)[2], atol=1e-14)


def test_orders_are_sobolev_norms():
    grid = Grid((7, 9), 0.0, (2.0, 3.0))
    r = np.random.default_rng(0).normal(size=(2, 7, 9))

    @jax.jit
    def both(order):
        return jnp.sum(parseval(r, grid, order=order) ** 2), spectral.sobolev_norm(r, grid, order) ** 2

    r = jnp.asarray(r)
    for order in (-2.0, -1.0, 0.5):
        np.testing.assert_allclose(*both(order), rtol=1e-12)


def test_an_operators_residual_is_a_term_whose_value_and_slope_are_the_integrals():
    grid = Grid((12, 10), 0.0, 2 * np.pi)
    x, y = grid.coordinates()
    f = jnp.sin(x) * jnp.cos(2 * y) + jnp.sin(3 * y)
    residual = Strong(Poisson(f))

    @jax.jit
    def found(u):
        term = lambda u: Term(parseval(residual(u, grid), grid), "residual", count=1).value
        quadrature = lambda u: jnp.sum(grid.weights() * residual(u, grid) ** 2)
        solution = -spectral.inverse_laplacian(f[None], grid)
        at_solution = parseval(residual(solution, grid), grid)
        return at_solution, jax.value_and_grad(term)(u), jax.value_and_grad(quadrature)(u)

    vanishing, (value, slope), (expected, gradient) = found(jnp.cos(x + y)[None] * f)
    assert float(jnp.abs(vanishing).max()) < 1e-13
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(slope, gradient, atol=1e-12 * float(jnp.abs(gradient).max()))


def test_between_walls_the_residual_of_the_sine_solution_vanishes():
    grid = Grid((9, 12), 0.0, 1.0, "cells")
    series = Bounded(grid, "dirichlet")
    f = jnp.asarray(np.random.default_rng(0).normal(size=(1, 9, 12)))
    residual = lambda u: parseval(-series.laplacian(u) - f, grid, "dirichlet")
    solved, empty = jax.jit(lambda: (residual(series.solve(f)), residual(0 * f)))()
    assert float(jnp.abs(solved).max()) < 1e-12
    np.testing.assert_allclose(jnp.sum(empty**2), jnp.mean(f**2), rtol=1e-13)


@pytest.mark.plain
def test_what_has_no_coefficients_is_an_error():
    grid = Grid((4, 6))
    with pytest.raises(ValueError, match=r"`residual` has shape \(4, 6\)"):
        parseval(jnp.zeros((4, 6)), grid)
    with pytest.raises(ValueError, match="`basis` has 1 entries for 2 axes"):
        parseval(jnp.zeros((1, 4, 6)), grid, ["periodic"])
    with pytest.raises(
        ValueError, match=r"`basis` of axis 0 is 'dirichlet'; on placement 'left' expected \('periodic',\)"
    ):
        parseval(jnp.zeros((1, 4, 6)), grid, "dirichlet")
    with pytest.raises(ValueError, match="`order` is -1; on a 'chebyshev' axis expected 0"):
        parseval(jnp.zeros((1, 4)), Grid(4, placement="chebyshev"), order=-1)
