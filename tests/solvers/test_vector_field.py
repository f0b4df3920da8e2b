from typing import ClassVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from solvers import equations
from solvers.equations import Burgers, Equation
from solvers.exponential import ETDRK
from solvers.grid import Grid
from solvers.vector_field import ModewiseSolver, spectral_vector_field, vector_field

LINE = Grid(48, 0.0, 2 * np.pi)


class Wave(Equation):
    """`u_tt = c^2 Lap u` as a system, its symbol a matrix."""

    speed: float
    degree: ClassVar[int | None] = 1

    def channels(self, ndim):
        return 2

    def linear(self, space):
        zero, one = jnp.zeros_like(space.laplacian), jnp.ones_like(space.laplacian)
        return jnp.stack([jnp.stack([zero, one]), jnp.stack([self.speed**2 * space.laplacian, zero])])

    def nonlinear(self, space, u_hat, t):
        return None


class Predators(Equation):
    """Two components that diffuse, coupled both in `L` and in `N`."""

    degree: ClassVar[int | None] = 2

    def channels(self, ndim):
        return 2

    def linear(self, space):
        lap, one = space.laplacian, jnp.ones_like(space.laplacian)
        return jnp.stack([jnp.stack([lap, -one]), jnp.stack([one, 0.5 * lap])])

    def nonlinear(self, space, u_hat, t):
        u, v = space.to_points(u_hat)
        return space.from_points(jnp.stack([-u * v, u * v]))


class Oscillators(Equation):
    """`u_t = i u_xx + i u`, a complex field."""

    degree: ClassVar[int | None] = 1
    real: ClassVar[bool] = False

    def channels(self, ndim):
        return 1

    def linear(self, space):
        return 1j * (space.laplacian + 1)

    def nonlinear(self, space, u_hat, t):
        return None


@pytest.fixture(scope="module")
def burgers_by_scipy():
    """`(u, u at time 1)` of Burgers with viscosity 0.1, in NumPy and SciPy alone."""
    n, k = 48, np.fft.rfftfreq(48, 1 / 48)
    u = np.sin(LINE.axes()[0]) + 0.5 * np.cos(2 * LINE.axes()[0])

    def rate(t, u):
        hat, square = np.fft.rfft(u), np.fft.rfft(u * u)
        square[n // 3 :] = 0
        return np.fft.irfft(-0.1 * k**2 * hat - 0.5j * k * square, n)

    return jnp.asarray(u)[None], solve_ivp(rate, (0, 1), u, rtol=1e-11, atol=1e-12, method="DOP853").y[:, -1]


def test_the_vector_field_is_the_right_hand_side_written_out():
    x = LINE.axes()[0]
    rate = vector_field(Burgers(0.1), LINE)(0.0, jnp.sin(x)[None], None)
    np.testing.assert_allclose(rate[0], -np.sin(x) * np.cos(x) - 0.1 * np.sin(x), atol=1e-13)


def test_a_matrix_symbol_couples_the_components():
    x, y = Grid((8, 12), 0.0, 2 * np.pi).coordinates()
    u = jnp.stack([jnp.cos(x + 2 * y), jnp.sin(x)])
    rate = vector_field(Wave(3.0), Grid((8, 12), 0.0, 2 * np.pi))(0.0, u)
    np.testing.assert_allclose(rate, jnp.stack([u[1], -45 * u[0]]), atol=1e-12)


def test_a_diffrax_solver_meets_scipy(burgers_by_scipy):
    u, exact = burgers_by_scipy
    term = diffrax.ODETerm(vector_field(Burgers(0.1), LINE))
    controller = diffrax.PIDController(rtol=1e-8, atol=1e-9)
    solution = diffrax.diffeqsolve(term, diffrax.Tsit5(), 0.0, 1.0, 0.01, u, stepsize_controller=controller)
    # The two differ by the wavenumbers beyond the 2/3 rule, which are about 1e-6 here.
    np.testing.assert_allclose(solution.ys[0, 0], exact, atol=1e-5)


def test_the_backsolve_adjoint_gives_the_gradient_in_a_coefficient():
    grid = Grid(16, 0.0, 2 * np.pi)
    u = jnp.sin(grid.axes()[0])[None]

    def energy(viscosity):
        term = diffrax.ODETerm(vector_field(Burgers(viscosity), grid))
        adjoint = diffrax.BacksolveAdjoint()
        return jnp.sum(diffrax.diffeqsolve(term, diffrax.Midpoint(), 0.0, 0.5, 0.0005, u, adjoint=adjoint).ys ** 2)

    both = jax.jit(jax.value_and_grad(energy))
    slope = (both(0.1 + 1e-4)[0] - both(0.1 - 1e-4)[0]) / 2e-4
    np.testing.assert_allclose(both(0.1)[1], slope, rtol=1e-6)


def test_y_has_the_root_mean_square_of_the_state_and_returns_it(key):
    for equation, shape in ((Burgers(0.1), (9,)), (Wave(1.0), (8, 7)), (Oscillators(), (12,)), (Wave(1.0), (3, 4, 6))):
        f = spectral_vector_field(equation, Grid(shape), dealiasing="none")
        u = jax.random.normal(key, (equation.channels(len(shape)) * (1 if equation.real else 2), *shape))
        y, back = jax.jit(lambda u, f=f: (f.encode(u), f.decode(f.encode(u))))(u)
        np.testing.assert_allclose(np.mean(np.square(y)), np.mean(np.square(u)), rtol=1e-12)
        np.testing.assert_allclose(back, u, atol=1e-13)


def test_the_spectral_vector_field_is_that_on_the_grid_and_the_sum_of_its_parts():
    x = LINE.axes()[0]
    u = jnp.stack([jnp.sin(x), jnp.cos(2 * x)])
    f = spectral_vector_field(Predators(), LINE)
    y = f.encode(u)
    np.testing.assert_allclose(f.decode(f(0.0, y)), vector_field(Predators(), LINE)(0.0, u), atol=1e-12)
    np.testing.assert_allclose(f.explicit(0.0, y) + f.implicit(0.0, y), f(0.0, y), atol=1e-12)


@pytest.mark.parametrize("equation", [Burgers(0.1), Predators()], ids=["scalar", "coupled"])
def test_the_modewise_solver_is_a_dense_solve(equation, key):
    f = spectral_vector_field(equation, Grid(8))
    assert f.linear_solver.coupled == isinstance(equation, Predators)
    b = f.encode(jax.random.normal(key, (equation.channels(1), 8)))

    @jax.jit
    def solve(b):
        operator = lx.FunctionLinearOperator(lambda y: y - 0.1 * f.implicit(0.0, y), jax.eval_shape(lambda: b))
        plain, transposed = (lx.linear_solve(a, b, f.linear_solver).value for a in (operator, operator.T))
        return operator.as_matrix(), plain.ravel(), transposed.ravel()

    matrix, plain, transposed = solve(b)
    np.testing.assert_allclose(plain, np.linalg.solve(matrix, b.ravel()), atol=1e-14)
    np.testing.assert_allclose(transposed, np.linalg.solve(matrix.T, b.ravel()), atol=1e-14)


def test_an_implicit_explicit_solver_meets_scipy(burgers_by_scipy):
    u, exact = burgers_by_scipy
    f = spectral_vector_field(Burgers(0.1), LINE)
    chord = diffrax.with_stepsize_controller_tols(diffrax.VeryChord)(linear_solver=f.linear_solver)
    solver, controller = diffrax.KenCarp4(root_finder=chord), diffrax.PIDController(rtol=1e-7, atol=1e-8)
    solution = diffrax.diffeqsolve(f.terms, solver, 0.0, 1.0, 0.01, f.encode(u), stepsize_controller=controller)
    np.testing.assert_allclose(f.decode(solution.ys[0])[0], exact, atol=1e-5)


@pytest.mark.slow
def test_implicit_explicit_steps_reach_their_order_on_a_coupled_system_in_two_dimensions():
    grid = Grid((64, 64), 0.0, 2 * np.pi)
    x, y = grid.coordinates()
    f = spectral_vector_field(Predators(), grid)
    start = f.encode(jnp.stack([jnp.cos(x) * jnp.sin(y), 1 + jnp.sin(x + y)]))
    chord = diffrax.VeryChord(rtol=1e-12, atol=1e-12, linear_solver=f.linear_solver)

    @jax.jit
    def solve(dt):
        controller, solver = diffrax.ConstantStepSize(), diffrax.KenCarp3(root_finder=chord)
        return diffrax.diffeqsolve(f.terms, solver, 0.0, 1.0, dt, start, stepsize_controller=controller).ys[0]

    coarse, middle, fine = solve(0.2), solve(0.1), solve(0.05)
    order = np.log2(np.linalg.norm(coarse - middle) / np.linalg.norm(middle - fine))
    assert 2.8 < order < 3.4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("equation", "ndim"),
    [
        (equations.Advection(1.0), 2),
        (equations.AllenCahn(0.1), 2),
        (equations.Burgers(0.1), 2),
        (equations.CahnHilliard(0.1, 0.1), 2),
        (equations.ComplexGinzburgLandau(1.0, 0.5, -1.0), 2),
        (equations.FitzHughNagumo(0.02, 0.01), 2),
        (equations.GrayScott(0.02, 0.01, 0.04, 0.06), 2),
        (equations.KortewegDeVries(), 1),
        (equations.KuramotoSivashinsky(), 1),
        (equations.NavierStokes2D(0.01), 2),
        (equations.NavierStokes3D(0.01), 3),
        (equations.NonlinearSchroedinger(), 2),
        (equations.ShallowWater(), 2),
        (equations.SineGordon(), 2),
        (equations.SwiftHohenberg(0.1), 2),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_vector_field_of_an_equation_is_the_derivative_of_its_exponential_steps(equation, ndim):
    grid, dt = Grid((16,) * ndim, 0.0, 2 * np.pi), 1e-5
    x = grid.coordinates()
    channels = equation.channels(ndim) * (1 if equation.real else 2)
    once, twice = ETDRK(equation, grid, dt), ETDRK(equation, grid, 2 * dt)
    u = once.decode(once.encode(0.5 + jnp.stack([0.3 * jnp.sin(sum(x) + j) for j in range(channels)])))
    slope = (4 * once(u) - twice(u) - 3 * u) / (2 * dt)
    np.testing.assert_allclose(vector_field(equation, grid)(0.0, u), slope, atol=1e-7 * float(jnp.abs(slope).max()))


@pytest.mark.dtype
def test_either_precision_stays():
    for dtype in (jnp.float32, jnp.result_type(float)):
        u = jnp.sin(LINE.axes(dtype)[0])[None]
        f = spectral_vector_field(Burgers(0.1), LINE)
        assert vector_field(Burgers(0.1), LINE)(0.0, u).dtype == dtype
        assert f(jnp.zeros((), dtype), f.encode(u)).dtype == dtype
        assert f.decode(f.encode(u)).dtype == dtype
        operator = lx.FunctionLinearOperator(lambda y, f=f: y - f.implicit(0.0, y), jax.eval_shape(f.encode, u))
        assert lx.linear_solve(operator, f.encode(u), ModewiseSolver()).value.dtype == dtype


def test_a_vector_field_built_outside_is_not_trained():
    u = jnp.sin(LINE.axes()[0])[None]
    gradient = eqx.filter_grad(lambda f: jnp.sum(f(0.0, u) ** 2))(vector_field(Burgers(0.1), LINE))
    assert all(not jnp.any(leaf) for leaf in jax.tree.leaves(gradient))


@pytest.mark.plain
def test_a_state_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"`u` has shape \(2, 48\); Burgers has states \(1, 48\)"):
        vector_field(Burgers(0.1), LINE)(0.0, jnp.zeros((2, 48)))
    with pytest.raises(ValueError, match=r"`u` has shape \(1, 32\); Burgers has states \(1, 48\)"):
        spectral_vector_field(Burgers(0.1), LINE).encode(jnp.zeros((1, 32)))
