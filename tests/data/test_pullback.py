"""A problem of diffusion in other coordinates is one whose solution is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opkit.data import CoordinateMap, coordinate_map, pull_back
from solvers import Dirichlet, EllipticProblem, Grid, PowerSpectrum, gaussian_random_field, solve_elliptic

CELLS = Grid(128, placement="cells")


def bend(periodic=False):
    """A map of known amplitudes."""
    return CoordinateMap(jnp.array([0.1, -0.03]), jnp.array([0.7, 0.2]) if periodic else jnp.zeros(2), periodic)


def test_a_random_map_is_monotone_and_keeps_its_ends():
    s = jnp.linspace(0, 1, 257)

    def at(key):
        m, wrapped = coordinate_map(5, key=key), coordinate_map(5, periodic=True, key=key)
        slope = jax.vmap(jax.grad(lambda s: m(s)))(s)
        return m(s), m.slope(s) - slope, jnp.minimum(m.slope(s), wrapped.slope(s)), wrapped(s + 1) - wrapped(s)

    values, difference, slopes, winding = jax.jit(jax.vmap(at))(jax.random.split(jax.random.key(0), 64))
    np.testing.assert_allclose(values[:, [0, -1]], np.tile([0.0, 1.0], (64, 1)), atol=1e-14)
    np.testing.assert_allclose(difference, 0, atol=1e-12)
    np.testing.assert_allclose(winding, 1, atol=1e-12)
    assert np.all(slopes >= 0.2)
    assert np.min(slopes) < 0.4  # and the bound is used


def pulled_and_solved(key, interpolation="cubic"):
    """One problem in other coordinates: the error of the moved solution against another solve, in L2."""
    first, second, third = jax.random.split(key, 3)
    field = lambda key: gaussian_random_field(CELLS, PowerSpectrum(sigma=8.0), basis="neumann", modes=32, key=key)
    a, f = jnp.exp(field(first)), 1 + field(second)
    u = solve_elliptic(EllipticProblem(CELLS, a, f, Dirichlet())).value
    moved = pull_back(a[None], f[None], u[None], CELLS, [coordinate_map(5, key=third)], interpolation=interpolation)
    a, f, u = (field[0] for field in moved)
    again = solve_elliptic(EllipticProblem(CELLS, a, f, Dirichlet())).value
    return jnp.linalg.norm(u - again) / jnp.linalg.norm(again)


def test_the_moved_solution_is_that_of_the_moved_problem():
    errors = np.asarray(
        jax.jit(lambda keys: jax.lax.map(pulled_and_solved, keys))(jax.random.split(jax.random.key(1), 40))
    )
    assert np.median(errors) < 2e-3


def sides(grid, maps, **options):
    """The two sides of the moved equation, by finite differences of fourth order of `u = sin(...)` moved exactly."""
    x = grid.coordinates()
    length = jnp.asarray(grid.extent).reshape(-1, *(1,) * grid.ndim)
    phase = 2 * jnp.pi * x / length
    a = 2 + jnp.sin(phase[0] + sum(phase))
    exact = lambda x: jnp.sum(jnp.sin(2 * jnp.pi * x / jnp.asarray(grid.extent)))
    coefficient = lambda x: 2 + jnp.sin(2 * jnp.pi * (x[0] / grid.extent[0] + jnp.sum(x / jnp.asarray(grid.extent))))
    flux = lambda x: coefficient(x) * jax.grad(exact)(x)
    points = x.reshape(grid.ndim, -1).T
    f = -jax.vmap(lambda x: jnp.trace(jax.jacfwd(flux)(x)))(points).reshape(1, *grid.shape)
    u = jax.vmap(exact)(points).reshape(1, *grid.shape)
    return pull_back(a[None], f, u, grid, maps, **options)


def test_on_a_periodic_square_the_coefficient_becomes_a_diagonal_tensor():
    from solvers.spectral import derivative

    grid = Grid((48, 40), upper=(1.0, 2.0))

    @jax.jit
    def defect():
        a, f, u = sides(grid, [bend(True), bend(True)], interpolation="spectral")
        div = sum(derivative(a[j : j + 1] * derivative(u, grid, j), grid, j) for j in range(2))
        return jnp.max(jnp.abs(div + f)), jnp.max(jnp.abs(f)), jnp.max(jnp.abs(a[0] / a[1] - 1))

    error, size, difference = defect()
    assert error < 1e-5 * size
    assert difference > 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("interpolation", "order"), [("linear", 2), ("cubic", 4)])
@pytest.mark.parametrize("placement", ["nodes", "cells", "left"])
def test_interpolation_has_its_order_up_to_the_ends(interpolation, order, placement):
    def error(n):
        grid = Grid(n, lower=-1.0, upper=2.0, placement=placement)
        field = lambda s: jnp.exp(jnp.sin(2 * jnp.pi * s) + (0 if placement == "left" else s))
        s = (grid.axes()[0] + 1) / 3
        m = bend(placement == "left")
        values = field(s)[None]
        a, f, u = pull_back(values, values, values, grid, [m], interpolation=interpolation)
        expected = field(m(s))
        np.testing.assert_allclose(a[0] * m.slope(s), u[0], rtol=1e-12)
        np.testing.assert_allclose(f[0], u[0] * m.slope(s), rtol=1e-12)
        return np.max(np.abs(u[0] - expected))

    assert np.log2(error(256) / error(512)) > order - 0.3


@pytest.mark.slow
def test_linear_interpolation_is_worse():
    keys = jax.random.split(jax.random.key(1), 20)
    linear, cubic = (
        np.median(jax.jit(lambda keys, kind=kind: jax.lax.map(lambda k: pulled_and_solved(k, kind), keys))(keys))
        for kind in ("linear", "cubic")
    )
    assert cubic < linear


@pytest.mark.slow
@pytest.mark.dtype
def test_a_pull_back_keeps_its_precision():
    for dtype in (np.float32, np.float64) if jax.config.jax_enable_x64 else (np.float32,):
        m = coordinate_map(3, key=jax.random.key(0), dtype=dtype)
        fields = [jnp.ones((1, 128), dtype)] * 3
        assert {field.dtype for field in pull_back(*fields, CELLS, [m])} == {np.dtype(dtype)}


@pytest.mark.plain
def test_what_does_not_fit_is_refused():
    one, line = jnp.ones((1, 16)), Grid(16, placement="cells")
    for message, call in (
        ("`modes` is 0", lambda: coordinate_map(0, key=jax.random.key(0))),
        ("`least_slope` 1.5", lambda: coordinate_map(2, least_slope=1.5, key=jax.random.key(0))),
        ("`maps` are 2", lambda: pull_back(one, one, one, line, [bend()] * 2)),
        ("is periodic, its placement 'cells'", lambda: pull_back(one, one, one, line, [bend(True)])),
        ("is not periodic, its placement 'left'", lambda: pull_back(one, one, one, Grid(16), [bend()])),
        ("it needs 'left'", lambda: pull_back(one, one, one, line, [bend()], interpolation="spectral")),
        ("`interpolation` is 'quintic'", lambda: pull_back(one, one, one, line, [bend()], interpolation="quintic")),
        ("placement 'chebyshev'", lambda: pull_back(one, one, one, Grid(16, placement="chebyshev"), [bend()])),
    ):
        with pytest.raises(ValueError, match=message):
            call()
