from typing import ClassVar

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from solvers.adaptive import ETD43
from solvers.equations import Burgers, Equation, KortewegDeVries, NonlinearSchroedinger, SineGordon
from solvers.grid import Grid
from solvers.vector_field import spectral_vector_field, vector_field

CIRCLE = Grid(64, 0.0, 2 * np.pi)
BURGERS, KDV = Burgers(0.05), KortewegDeVries(1.0, 0.02)


class Switched(Equation):
    """`u_t = -u + 1` from time 1/2 on, `u_t = -u` before."""

    degree: ClassVar[int | None] = None

    def channels(self, ndim):
        return 1

    def linear(self, space):
        return -jnp.ones_like(space.laplacian)

    def nonlinear(self, space, u_hat, t):
        return space.forward(jnp.ones((1, *space.grid.shape), space.dtype)) * (t >= 0.5)


def start(grid=CIRCLE):
    x = grid.axes()[0]
    return jnp.sin(x)[None] + 0.5 * jnp.cos(2 * x)


def fixed(f, y, n, time=1.0):
    """`n` steps by Diffrax."""
    return diffrax.diffeqsolve(diffrax.ODETerm(f), ETD43(), 0.0, time, time / n, y, max_steps=None).ys[0]


def embedded(f, y, n, time=1.0):
    """`n` steps of the third-order solution."""
    term, solver, h = diffrax.ODETerm(f), ETD43(), time / n

    def step(i, y):
        y1, error, *_ = solver.step(term, i * h, (i + 1) * h, y, None, solver.init(term, i * h, h, y, None), False)
        return y1 - error

    return jax.lax.fori_loop(0, n, step, y)


def by_scipy(symbol, convection):
    """`u` after 1 of `u_t = L u - convection (u^2 / 2)_x` with the 2/3 rule, in NumPy and SciPy alone."""
    k = np.fft.rfftfreq(64, 1 / 64)
    kept = k <= 21

    def rate(t, v):
        v = v[:33] + 1j * v[33:]
        v = symbol(k) * v - convection * 0.5j * k * np.fft.rfft(np.fft.irfft(v) ** 2) * kept
        return np.concatenate([v.real, v.imag])

    v = np.fft.rfft(start()[0]) * kept
    v = solve_ivp(rate, (0, 1), np.concatenate([v.real, v.imag]), rtol=1e-11, atol=1e-11, method="DOP853").y[:, -1]
    return np.fft.irfft(v[:33] + 1j * v[33:])[None]


@pytest.fixture(scope="module", params=["burgers", "kdv"])
def case(request):
    if request.param == "burgers":
        f, n, u = spectral_vector_field(BURGERS, CIRCLE), 20, by_scipy(lambda k: -0.05 * k**2, 1)
    else:
        f, n, u = spectral_vector_field(KDV, CIRCLE), 40, by_scipy(lambda k: 0.02j * k**3, 1)
    return f, f.encode(start()), n, f.encode(jnp.asarray(u))


@pytest.mark.parametrize(("solve", "order"), [(fixed, 4), (embedded, 3)], ids=["main", "embedded"])
def test_both_solutions_reach_their_orders(case, solve, order):
    f, y, n, reference = case
    errors = [np.linalg.norm(jax.jit(solve)(f, y, m) - reference) for m in (2 * n, 4 * n)]
    assert abs(np.log2(errors[0] / errors[1]) - order) < 0.2


@pytest.mark.slow
def test_the_error_is_proportional_to_the_tolerance_in_a_batch_of_tolerances():
    f = spectral_vector_field(KDV, CIRCLE)
    y, reference = f.encode(start()), f.encode(jnp.asarray(by_scipy(lambda k: 0.02j * k**3, 1)))

    def solve(tolerance):
        controller = diffrax.PIDController(rtol=tolerance, atol=tolerance)
        return diffrax.diffeqsolve(diffrax.ODETerm(f), ETD43(), 0.0, 1.0, 1e-3, y, stepsize_controller=controller).ys[0]

    tolerances = jnp.array([1e-5, 1e-7, 1e-9])
    errors = np.sqrt(np.mean((jax.jit(jax.vmap(solve))(tolerances) - reference) ** 2, (1, 2, 3)))
    slope = np.polyfit(np.log(tolerances), np.log(errors), 1)[0]
    assert 0.8 < slope < 1.1
    assert np.all((errors > 0.03 * tolerances) & (errors < 30 * tolerances))


def test_steps_grow_as_the_solution_becomes_smooth():
    f = spectral_vector_field(Burgers(0.02), CIRCLE)
    controller = diffrax.PIDController(rtol=1e-5, atol=1e-6)
    saveat = diffrax.SaveAt(steps=True)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(f), ETD43(), 0.0, 100.0, 1e-2, f.encode(start()), stepsize_controller=controller, saveat=saveat
    )
    steps = np.diff(np.asarray(solution.ts)[np.isfinite(solution.ts)])
    assert steps[-2] > 10 * steps[:20].mean()


@pytest.mark.slow
def test_what_lies_within_a_step_is_of_third_order_too():
    f = spectral_vector_field(KDV, CIRCLE)
    y = f.encode(start())

    @jax.jit
    def solve(n):
        saveat = diffrax.SaveAt(ts=jnp.linspace(0.0, 1.0, 12))
        return diffrax.diffeqsolve(diffrax.ODETerm(f), ETD43(), 0.0, 1.0, 1 / n, y, saveat=saveat).ys

    coarse, fine, reference = solve(40), solve(80), solve(640)
    order = np.log2(np.linalg.norm(coarse - reference) / np.linalg.norm(fine - reference))
    assert 2.8 < order < 4.2


@pytest.mark.slow
def test_a_matrix_of_a_linear_part_is_exact_at_the_end_and_within():
    f = spectral_vector_field(SineGordon(2.0, 0.0), CIRCLE)
    wave = lambda t: np.stack([g(3 * CIRCLE.axes()[0] - 6 * t) for g in (np.cos, lambda phase: 6 * np.sin(phase))])
    saveat = diffrax.SaveAt(ts=[0.3, 1.0], fn=lambda t, y, args: f.decode(y))
    y = f.encode(jnp.asarray(wave(0.0)))
    u = diffrax.diffeqsolve(diffrax.ODETerm(f), ETD43(), 0.0, 1.0, 1.0, y, saveat=saveat).ys
    np.testing.assert_allclose(u, np.stack([wave(0.3), wave(1.0)]), atol=1e-12)


@pytest.mark.slow
def test_a_soliton_of_a_complex_field_goes_forth_and_back():
    grid = Grid(256, -20.0, 20.0)
    f = spectral_vector_field(NonlinearSchroedinger(), grid)
    x = grid.axes()[0]
    soliton = lambda t: jnp.stack([np.cos(t / 2) / np.cosh(x), np.sin(t / 2) / np.cosh(x)])

    @jax.jit
    def solve(y, t0, t1):
        return diffrax.diffeqsolve(diffrax.ODETerm(f), ETD43(), t0, t1, (t1 - t0) / 100, y).ys[0]

    end = solve(f.encode(soliton(0.0)), 0.0, 2.0)
    np.testing.assert_allclose(f.decode(end), soliton(2.0), atol=1e-6)
    np.testing.assert_allclose(f.decode(solve(end, 2.0, 0.0)), soliton(0.0), atol=1e-6)


def test_a_jump_in_time_is_met():
    f = spectral_vector_field(Switched(), Grid(4))
    controller = diffrax.ClipStepSizeController(diffrax.PIDController(rtol=1e-8, atol=1e-8), jump_ts=jnp.array([0.5]))
    y = f.encode(jnp.zeros((1, 4)))
    y = diffrax.diffeqsolve(diffrax.ODETerm(f), ETD43(), 0.0, 1.0, 0.1, y, stepsize_controller=controller).ys[0]
    np.testing.assert_allclose(f.decode(y), 1 - np.exp(-0.5), rtol=1e-12)


@pytest.mark.slow
def test_gradients_in_the_state_and_a_coefficient_are_central_differences():
    grid = Grid(16, 0.0, 2 * np.pi)

    def value(viscosity, size):
        f = spectral_vector_field(Burgers(viscosity), grid)
        controller = diffrax.PIDController(rtol=1e-9, atol=1e-9)
        y = f.encode(size * start(grid))
        y = diffrax.diffeqsolve(diffrax.ODETerm(f), ETD43(), 0.0, 0.5, 0.01, y, stepsize_controller=controller).ys[0]
        return jnp.sum(f.decode(y) ** 3 + f.decode(y) ** 2)

    both, h = jax.jit(jax.value_and_grad(value, (0, 1))), 3e-4
    at = lambda viscosity, size: both(viscosity, size)[0]
    slopes = [(at(0.1 + h, 1.0) - at(0.1 - h, 1.0)) / (2 * h), (at(0.1, 1.0 + h) - at(0.1, 1.0 - h)) / (2 * h)]
    np.testing.assert_allclose(both(0.1, 1.0)[1], slopes, rtol=1e-5)


@pytest.mark.dtype
def test_the_state_keeps_its_precision():
    f = spectral_vector_field(Burgers(0.1), CIRCLE)
    for dtype in (jnp.float32, jnp.result_type(float)):
        y, times = f.encode(jnp.zeros((1, 64), dtype)), jnp.array([0, 0.1, 0.05], dtype)
        solution = jax.eval_shape(lambda y, t: diffrax.diffeqsolve(diffrax.ODETerm(f), ETD43(), *t, y), y, times)
        assert solution.ys.dtype == dtype


@pytest.mark.plain
def test_another_term_is_refused():
    term = diffrax.ODETerm(vector_field(Burgers(0.1), CIRCLE))
    with pytest.raises(ValueError, match=r"of type GridVectorField; ETD43 takes diffrax.ODETerm\(spec"):
        diffrax.diffeqsolve(term, ETD43(), 0.0, 1.0, 0.1, start())
