"""One step outside a solve: it adds up to what the solve records, and is drawn fairly."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2

from solvers import Tolerances, draw_step, local_heuristics, solve_with_heuristics

from .heuristic_cases import CASES, THETA, WITH_STAGES, Y0, controller, drift


def local(name, t, h, y, theta=THETA):
    solver, terms = CASES[name]
    track = ("error", "stiffness") if name in WITH_STAGES else ("error",)
    return local_heuristics(terms(), solver, t, h, y, theta, track=track, tolerances=Tolerances.of(controller(name)))


@pytest.mark.parametrize("name", ["Tsit5", pytest.param("KenCarp4", marks=pytest.mark.slow)])
def test_steps_taken_outside_add_up_to_what_the_solve_records(name):
    solver, terms = CASES[name]

    @jax.jit
    def run():
        return solve_with_heuristics(
            terms(), solver, 0.0, 1.0, 0.05, jnp.asarray(Y0), THETA, track=("error", "stiffness"), max_steps=64,
            stepsize_controller=controller(name), saveat=dfx.SaveAt(t0=True, steps=True),
        )  # fmt: skip

    solution, found = run()
    n = int(found.accepted)
    t, y, h = solution.ts[:n], solution.ys[:n], jnp.diff(solution.ts[: n + 1])
    error, stiffness = jax.jit(jax.vmap(lambda *step: local(name, *step)))(t, h, y)
    np.testing.assert_allclose(jnp.sum(error * h), found.error, rtol=1e-6)
    np.testing.assert_allclose(jnp.sum(stiffness), found.stiffness, rtol=1e-5)
    np.testing.assert_allclose(jnp.max(stiffness), found.max_stiffness, rtol=1e-5)


@pytest.mark.parametrize("name", ["Tsit5", pytest.param("SPaRK", marks=pytest.mark.slow)])
def test_a_step_outside_has_both_derivatives_and_they_are_finite_differences(name):
    direction = jnp.array([0.3, -1.0, 0.5])

    def value(s):
        error, stiffness = local(name, 0.2, 0.4, jnp.asarray(Y0) + s * direction, THETA * (1 + s))
        return error if stiffness is None else error + 0.1 * stiffness

    reverse = jax.jit(jax.grad(value))(0.0)
    _, forward = jax.jit(lambda s: jax.jvp(value, (s,), (1.0,)))(0.0)
    up, down = jax.jit(jax.vmap(value))(jnp.array([1e-5, -1e-5]))
    np.testing.assert_allclose(reverse, forward, rtol=1e-10)
    np.testing.assert_allclose(reverse, (up - down) / 2e-5, rtol=1e-6)


def test_each_accepted_step_is_as_likely_to_be_drawn():
    @jax.jit
    @jax.vmap
    def draw(key):
        _, found = draw_step(
            dfx.ODETerm(drift), dfx.Tsit5(), 0.0, 1.0, 0.05, jnp.asarray(Y0), THETA, key=key, max_steps=64,
            stepsize_controller=controller("Tsit5"),
        )  # fmt: skip
        return found.drawn.t, found.accepted

    times, accepted = draw(jax.random.split(jax.random.key(7), 4000))
    _, counts = np.unique(times, return_counts=True)
    n = int(accepted[0])
    assert len(counts) == n >= 8
    statistic = np.sum((counts - 4000 / n) ** 2 / (4000 / n))
    assert statistic < chi2.ppf(0.999, n - 1)


@pytest.mark.parametrize("rate", [1.0, 100.0])
def test_the_stiffness_of_linear_decay_is_its_rate_for_explicit_and_implicit_methods(rate):
    term = dfx.ODETerm(lambda t, y, rate: -rate * y)
    for solver in (dfx.Tsit5(), dfx.Heun(), dfx.Kvaerno5()):
        tolerances = Tolerances(1e-6, 1e-6)
        _, found = jax.jit(
            lambda solver=solver, tolerances=tolerances: local_heuristics(
                term, solver, 0.0, 0.02, jnp.ones(2), rate, track=("stiffness",), tolerances=tolerances
            )
        )()
        np.testing.assert_allclose(found, rate, rtol=1e-8)


@pytest.mark.slow
def test_the_stiffness_of_van_der_pol_is_its_largest_eigenvalue_where_stages_meet_it():
    """Implicit methods included: their stages' slopes are good to the root finder's tolerance only."""

    def oscillator(t, y, mu):
        return jnp.stack([y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]])

    y0 = jnp.array([2.0, 0.0])
    for solver in (dfx.Tsit5(), dfx.Kvaerno5()):
        _, found = jax.jit(
            lambda solver=solver: solve_with_heuristics(
                dfx.ODETerm(oscillator), solver, 0.0, 0.02, 1e-4, y0, 100.0, track=("stiffness",), max_steps=512,
                stepsize_controller=dfx.PIDController(rtol=1e-6, atol=1e-6),
            )
        )()  # fmt: skip
        eigenvalue = 300.0  # of the Jacobian at (2, 0), to 1e-4, and along this stretch to 1e-3
        np.testing.assert_allclose(found.max_stiffness, eigenvalue, rtol=5e-3)
        np.testing.assert_allclose(found.stiffness / found.accepted, eigenvalue, rtol=5e-2)
