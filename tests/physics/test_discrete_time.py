"""Tableaux against their order conditions and SciPy's, one step's residual against exact solutions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from scipy.integrate._ivp import radau as scipy_radau
from scipy.interpolate import pade

from opkit.physics import DiscreteTime, NavierStokes, Strong, StrongForm, tableau
from solvers import Grid
from solvers import equations as eqs


@pytest.mark.parametrize("method", ["gauss", "radau"])
@pytest.mark.parametrize("stages", [1, 2, 3, 10, 100, pytest.param(500, marks=pytest.mark.slow)])
def test_tableau_integrates_polynomials_exactly(stages, method):
    a, b, c = tableau(stages, method)
    order = 2 * stages - (method == "radau")
    k, rounding = np.arange(1, order + 1), 1e-14 * max(1, stages / 100)
    np.testing.assert_allclose(b @ c[:, None] ** (k - 1), 1 / k, rtol=0, atol=rounding)
    k = k[:stages]
    np.testing.assert_allclose(a @ c[:, None] ** (k - 1), c[:, None] ** k / k, rtol=0, atol=rounding)
    assert np.all(np.diff(c) > 0)
    assert np.all(b > 0)


def test_tableaux_of_few_stages_are_the_textbooks():
    root = np.sqrt(3) / 6
    np.testing.assert_allclose(tableau(2).a, [[1 / 4, 1 / 4 - root], [1 / 4 + root, 1 / 4]], atol=1e-16)
    np.testing.assert_allclose(tableau(1).a, [[0.5]], atol=1e-16)
    np.testing.assert_allclose(tableau(1, "radau").a, [[1.0]], atol=1e-16)
    a, b, c = tableau(3, "radau")
    np.testing.assert_allclose(c, scipy_radau.C, atol=1e-15)
    np.testing.assert_allclose(a[-1], b, atol=1e-15)
    # SciPy has the eigenvalues of the inverse
    found = np.sort_complex(np.linalg.eigvals(np.linalg.inv(a)))
    expected = np.sort_complex([scipy_radau.MU_REAL, scipy_radau.MU_COMPLEX, np.conj(scipy_radau.MU_COMPLEX)])
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("method", ["gauss", "radau"])
@pytest.mark.parametrize("stages", [1, 3])
def test_a_step_of_a_heat_mode_is_scipys_pade_approximant_and_has_the_methods_order(stages, method):
    """The residual is affine in the stages: the step is one linear solve."""
    rows, x = stages + (method == "gauss"), jnp.array([0.7])
    start = jnp.sin(2 * x)

    @jax.jit
    def factors(steps):
        def factor(step):
            form = DiscreteTime(StrongForm(eqs.Diffusion(0.25)), start, step=step, stages=stages, method=method)
            residual = lambda amplitudes: Strong(form)(lambda x: amplitudes * jnp.sin(2 * x[0]), x)
            zero = jnp.zeros(rows)
            return jnp.linalg.solve(jax.jacfwd(residual)(zero), -residual(zero))[-1]

        return jax.vmap(factor)(steps)

    steps = np.array([0.4, 0.2])
    found = np.asarray(factors(jnp.asarray(steps)))
    above, below = pade(1 / scipy.special.factorial(np.arange(2 * rows + 2)), stages, stages - (method == "radau"))
    np.testing.assert_allclose(found, above(-steps) / below(-steps), rtol=1e-13)
    coarse, fine = np.abs(found ** (0.8 / steps) - np.exp(-0.8))
    order = 2 * stages - (method == "radau")
    assert order - 0.35 < np.log2(coarse / fine) < order + 0.35


NU = 0.1


def front(p):
    """Of Burgers' equation."""
    return jnp.stack([0.6 - 0.5 * jnp.tanh(0.5 * (p[1] - 0.6 * p[0]) / (2 * NU))])


def soliton(p):
    """Of `i psi_t + psi_xx / 2 + |psi|^2 psi = 0`, moving."""
    t, x = p
    phase = 0.4 * x + (0.5 - 0.08) * t
    return jnp.stack([jnp.cos(phase), jnp.sin(phase)]) / jnp.cosh(x - 0.4 * t)


def vortices(p):
    t, x, y = p
    decay = jnp.exp(-2 * NU * t)
    pressure = -(jnp.cos(2 * x) + jnp.cos(2 * y)) * decay**2 / 4
    return jnp.stack([jnp.cos(x) * jnp.sin(y) * decay, -jnp.sin(x) * jnp.cos(y) * decay, pressure])


FLOWS = {
    "Schroedinger": (StrongForm(eqs.NonlinearSchroedinger(0.5, 1.0)), soliton, 1),
    "Navier-Stokes": (NavierStokes(NU, steady=False), vortices, 2),
}
TIME, STEP, STAGES = 0.3, 0.5, 16


def at_stages(solution, method):
    """The field of space that has a solution's values at all stages."""
    times = TIME + STEP * jnp.asarray(tableau(STAGES, method).c)
    if method == "gauss":
        times = jnp.append(times, TIME + STEP)
    return lambda x: jax.vmap(lambda t: solution(jnp.append(t, x)), out_axes=1)(times).ravel()


@pytest.mark.parametrize(
    ("name", "method"), [("Schroedinger", "radau"), pytest.param("Navier-Stokes", "gauss", marks=pytest.mark.slow)]
)
def test_residual_of_an_exact_solution_vanishes_from_either_end(name, method):
    form, solution, d = FLOWS[name]
    stages = at_stages(solution, method)
    options = {"step": STEP, "stages": STAGES, "time": TIME, "method": method}
    points = jax.random.uniform(jax.random.key(0), (4, d))

    @jax.jit
    def residuals(x):
        known = lambda t: solution(jnp.append(t, x))
        start = Strong(DiscreteTime(form, known(TIME), **options))
        end = Strong(DiscreteTime(form, known(TIME + STEP), at="end", **options))
        return start(stages, x), end(stages, x)

    start, end = jax.vmap(residuals)(points)
    assert start.shape == (4, len(stages(points[0])))
    assert float(jnp.abs(start).max()) < 1e-10
    assert float(jnp.abs(end).max()) < 1e-10


def test_on_a_grid_it_is_the_residual_of_the_points():
    grid = Grid(40, 0.0, 2.0, "chebyshev")
    form = StrongForm(eqs.Burgers(NU))
    stages = at_stages(front, "gauss")
    start = lambda x: front(jnp.append(TIME, x)) + 0.1 * x
    (x,) = grid.axes()
    options = {"step": STEP, "stages": STAGES, "time": TIME}
    residual = lambda start: Strong(DiscreteTime(form, start, **options))

    @jax.jit
    def both(x):
        values, known = jax.vmap(stages, out_axes=1)(x[:, None]), jax.vmap(start, 1, 1)(x[None])
        return jax.vmap(residual(start), (None, 0), 1)(stages, x[:, None]), residual(known)(values, grid)

    np.testing.assert_allclose(*both(x), atol=1e-6)


def test_a_coefficient_is_found_from_data_at_two_times():
    stages = at_stages(front, "gauss")
    points = jnp.linspace(0.0, 1.0, 5)[:, None]

    def loss(nu):
        def one(x):
            form = StrongForm(eqs.Burgers(nu))
            ends = ((TIME, "start"), (TIME + STEP, "end"))
            parts = [
                DiscreteTime(form, front(jnp.append(t, x)), step=STEP, stages=STAGES, time=TIME, at=at)
                for t, at in ends
            ]
            return jnp.concatenate([Strong(part)(stages, x) for part in parts])

        return jnp.sum(jax.vmap(one)(points) ** 2)

    slope, curvature = jax.jit(lambda nu: (jax.grad(loss)(nu), jax.grad(jax.grad(loss))(nu)))(0.2)
    np.testing.assert_allclose(0.2 - slope / curvature, NU, rtol=1e-8)


@pytest.mark.dtype
def test_precision_is_that_of_the_points():
    x = jnp.array([0.2], jnp.float32)
    net = lambda x: jnp.sin(x * jnp.arange(5.0, dtype=jnp.float32))
    form = DiscreteTime(StrongForm(eqs.AllenCahn(*jnp.float32([0.1, 1.0, 1.0]))), x, step=0.1, stages=4)
    assert jax.eval_shape(lambda x: Strong(form)(net, x), x).dtype == jnp.float32


@pytest.mark.plain
def test_what_is_no_step_is_an_error():
    burgers, x = StrongForm(eqs.Burgers(0.1)), jnp.zeros(1)
    step = lambda form, **options: DiscreteTime(form, 0.0, **{"step": 0.1, "stages": 2, **options})
    with pytest.raises(ValueError, match="`stages` is 0"):
        step(burgers, stages=0)
    with pytest.raises(ValueError, match="`method` is 'lobatto'"):
        step(burgers, method="lobatto")
    with pytest.raises(ValueError, match="`at` is 'middle'"):
        step(burgers, at="middle")
    with pytest.raises(ValueError, match="has 2 components; expected 3: `value` has 1, and 2 stages of 'gauss' are 3"):
        Strong(step(burgers))(lambda x: jnp.zeros(2), x)
    with pytest.raises(ValueError, match=r"asks for the derivative \(0, 0\)"):
        Strong(step(StrongForm(eqs.Wave(1.0))))(lambda x: jnp.zeros(3), x)
    with pytest.raises(ValueError, match="asks for no derivative in time"):
        Strong(step(lambda u, x: u((1, 1))[0]))(lambda x: jnp.zeros(3), x)
