import jax
import jax.numpy as jnp
import numpy as np
import pytest

from solvers import Dirichlet, Grid, Neumann, Periodic, Robin
from solvers.chebyshev import chebyshev_coefficients, chebyshev_derivative, chebyshev_values, solve_chebyshev


def run(function, *arrays):
    """The results in NumPy: what is compiled is `function`, once, and nothing else."""
    return jax.tree.map(np.asarray, jax.jit(function)(*arrays))


def points(grid):
    return np.meshgrid(*(np.asarray(x) for x in grid.axes()), indexing="ij")


def test_coefficients_are_numpys():
    grid = Grid((9, 6), (-1.0, 0.0), (2.0, 5.0), "chebyshev")
    a = np.random.default_rng(0).normal(size=(2, 9, 6))
    x, y = (-np.cos(np.pi * np.arange(n) / (n - 1)) for n in grid.shape)
    u = np.stack([np.polynomial.chebyshev.chebgrid2d(x, y, b) for b in a])
    found, values = run(lambda u, a: (chebyshev_coefficients(u, grid), chebyshev_values(a, grid)), u, a)
    np.testing.assert_allclose(found, a, atol=1e-14)
    np.testing.assert_allclose(values, u, atol=1e-13)


def test_derivatives_of_polynomials_are_exact_along_any_axis():
    grid = Grid((5, 8, 4), (0.0, -1.0, 0.0), (1.0, 2.0, 1.0), ("cells", "chebyshev", "left"))
    polynomial = np.polynomial.Polynomial(np.random.default_rng(0).normal(size=8))
    x, y, _ = points(grid)
    u = (np.cos(x) * polynomial(y))[None]
    found = run(lambda u: [chebyshev_derivative(u, grid, 1, order) for order in range(4)], u)
    for order, derivative in enumerate(found):
        exact = np.cos(x) * (polynomial.deriv(order)(y) if order else polynomial(y))
        np.testing.assert_allclose(derivative[0], exact, rtol=1e-11, atol=1e-9)


def test_derivatives_converge_spectrally_and_keep_their_digits():
    def errors(n):
        grid = Grid(n, -1.0, 2.0, "chebyshev")
        x = points(grid)[0]
        first, second = run(lambda u: [chebyshev_derivative(u, grid, 0, k)[0] for k in (1, 2)], np.sin(3 * x)[None])
        return np.max(abs(first - 3 * np.cos(3 * x))), np.max(abs(second + 9 * np.sin(3 * x)))

    assert errors(16)[0] < 1e-5
    first, second = errors(32)
    assert first < 1e-12
    assert second < 1e-9
    assert errors(200)[1] < 1e-6  # eps n^4 would be 4e-7 a unit


@pytest.mark.parametrize("kinds", ["DD", "ND", "DN", "RN", "RR"])
def test_helmholtz_problems_converge_spectrally_for_every_condition(kinds):
    def error(n):
        grid = Grid(n, -1.0, 2.0, "chebyshev")
        u, slope = (lambda x: np.sin(2 * x + 0.2)), (lambda x: 2 * np.cos(2 * x + 0.2))
        sides = []
        for kind, end, outward in zip(kinds, (-1.0, 2.0), (-1, 1), strict=True):
            value, flux = u(end), outward * slope(end)
            sides.append({"D": Dirichlet(value), "N": Neumann(flux), "R": Robin(1.5, 1.5 * value + flux)}[kind])
        f = (4.0 + 0.7) * u(points(grid)[0])
        return np.max(abs(run(lambda f: solve_chebyshev(f, grid, [sides], 0.7), f) - u(points(grid)[0])))

    assert error(12) < 1e-3
    assert error(28) < 1e-12


def test_boundary_values_may_vary_along_faces_in_two_and_three_dimensions():
    grid = Grid((16, 18), (-1.0, 0.0), (1.0, 2.0), "chebyshev")
    x, y = points(grid)
    u = np.exp(x) * np.sin(2 * y) + x * y**2
    u_x, u_y = np.exp(x) * np.sin(2 * y) + y**2, 2 * np.exp(x) * np.cos(2 * y) + 2 * x * y
    f = 3 * np.exp(x) * np.sin(2 * y) - 2 * x + 0.3 * u  # -laplacian u + 0.3 u
    sides = [(Dirichlet(u[0]), Neumann(u_x[-1])), (Robin(2.0, 2.0 * u[:, 0] - u_y[:, 0]), Dirichlet(u[:, -1]))]
    np.testing.assert_allclose(run(lambda f: solve_chebyshev(f, grid, sides, 0.3), f), u, atol=1e-11)

    box = Grid((12, 10, 11), 0.0, (1.0, 1.0, 2.0), "chebyshev")
    x, y, z = points(box)
    u = np.cos(x + y) * np.exp(-z)
    faces = [(u.take(0, k), u.take(-1, k)) for k in range(3)]
    sides = [(Dirichlet(low), Dirichlet(high)) for low, high in faces]
    np.testing.assert_allclose(run(lambda f: solve_chebyshev(f, box, sides), u), u, atol=1e-9)  # -laplacian u = u


def test_robin_eigenvalues_are_real_and_negative():
    from solvers.chebyshev import _Axis

    for n in (3, 8, 33):
        for alpha in (0.0, 1e-3, 1.0, 1e3):
            for pair in ((Robin(alpha), Robin(alpha)), (Robin(alpha), Neumann()), (Dirichlet(), Robin(alpha))):
                axis = _Axis(n, 1.0, pair)
                assert np.max(axis.eigenvalues) < 1e-6
                product = axis.from_modes @ axis.to_modes  # real modes, and enough of them
                np.testing.assert_allclose(product, np.eye(n - 2), atol=1e-8)


def test_solutions_are_differentiable_in_source_coefficient_and_boundary_values():
    grid = Grid((7, 6), 0.0, 1.0, "chebyshev")
    rng = np.random.default_rng(0)
    start = {"f": rng.normal(size=grid.shape), "c": 0.5, "side": rng.normal(size=6), "flux": 0.3}
    direction = {"f": rng.normal(size=grid.shape), "c": 1.0, "side": rng.normal(size=6), "flux": 1.0}

    @jax.jit
    def loss(e):
        p = jax.tree.map(lambda a, d: a + e * d, start, direction)
        u = solve_chebyshev(p["f"], grid, [(Dirichlet(p["side"]), Neumann(p["flux"])), Dirichlet(0.0)], p["c"])
        return jnp.sum(jnp.sin(u))

    difference = (loss(1e-5) - loss(-1e-5)) / 2e-5
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(0.0), difference, rtol=1e-7)


@pytest.mark.dtype
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_results_have_the_precision_of_the_field(dtype):
    if dtype == "float64" and not jax.config.jax_enable_x64:
        pytest.skip("no float64 without x64")
    grid = Grid((24, 20), 0.0, 1.0, "chebyshev")
    x, y = points(grid)
    u = jnp.asarray(np.sin(x) * np.cos(y), dtype)
    facts = lambda u: (
        solve_chebyshev(2 * u, grid, [(Dirichlet(u[0]), Dirichlet(u[-1])), (Neumann(0.0), Dirichlet(u[:, -1]))]),
        chebyshev_values(chebyshev_coefficients(u[None], grid), grid)[0],
        chebyshev_derivative(u[None], grid, 0)[0],
    )
    solution, back, slope = run(facts, u)
    assert {str(a.dtype) for a in (solution, back, slope)} == {dtype}
    fine = dtype == "float64"
    np.testing.assert_allclose(solution, u, atol=1e-12 if fine else 2e-4)
    np.testing.assert_allclose(back, u, atol=1e-14 if fine else 1e-6)
    np.testing.assert_allclose(slope, np.cos(x) * np.cos(y), atol=1e-11 if fine else 2e-3)


@pytest.mark.plain
def test_errors_name_the_argument_and_the_fix():
    grid, f = Grid(6, placement="chebyshev"), jnp.ones(6)
    for call, message in [
        (lambda: solve_chebyshev(f, Grid(6), Dirichlet()), "`grid` has .* expected 'chebyshev' on every axis"),
        (lambda: solve_chebyshev(f[:2], Grid(2, placement="chebyshev"), Dirichlet()), "three points or more"),
        (lambda: solve_chebyshev(f[None], grid, Dirichlet()), r"`f` has shape \(1, 6\); expected \(6,\)"),
        (lambda: solve_chebyshev(f, grid, Neumann()), "`boundary` has Neumann sides only and `c` is 0"),
        (lambda: solve_chebyshev(f, grid, Periodic()), "`boundary` has a periodic side"),
        (lambda: solve_chebyshev(f, grid, Robin(-1.0)), "`alpha` is -1.0; expected one concrete number of at least 0"),
        (lambda: jax.grad(lambda a: solve_chebyshev(f, grid, Robin(a)).sum())(1.0), "one concrete number"),
        (lambda: chebyshev_derivative(f[None], grid, 1), "`axis` is 1; expected a Chebyshev axis"),
        (lambda: chebyshev_derivative(f[None], grid, 0, -1), "`order` is -1"),
        (lambda: chebyshev_coefficients(f[None], Grid(6)), "expected 'chebyshev' on every axis"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
