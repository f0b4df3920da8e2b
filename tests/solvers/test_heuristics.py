"""What a solve records: equal to a plain loop over the solver's steps, under every adjoint; and its gradient."""

from functools import cache

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from solvers import solve_with_heuristics

from .heuristic_cases import CASES, QUANTITIES, THETA, WITH_STAGES, Y0, controller, oracle, shift

ADJOINTS = {"checkpointed": dfx.RecursiveCheckpointAdjoint(), "direct": dfx.DirectAdjoint()}
FORWARD = dfx.ForwardMode()


def cases(*quick):
    """All names, slow but for these."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in CASES]


def solve(name, theta, adjoint=ADJOINTS["checkpointed"], **options):
    solver, terms = CASES[name]
    track = ("error", "stiffness") if name in WITH_STAGES else ("error",)
    return solve_with_heuristics(
        terms(), solver, 0.0, 1.0, 0.05, jnp.asarray(Y0), theta,
        track=track, stepsize_controller=controller(name), adjoint=adjoint, max_steps=128, **options,
    )  # fmt: skip


@cache
def plain(name):
    """The states at the accepted steps of Diffrax's own solve, and their times."""
    solver, terms = CASES[name]
    solution = jax.jit(
        lambda theta: dfx.diffeqsolve(
            terms(), solver, 0.0, 1.0, 0.05, jnp.asarray(Y0), theta,
            stepsize_controller=controller(name), max_steps=128, saveat=dfx.SaveAt(t0=True, steps=True),
        )
    )(THETA)  # fmt: skip
    n = int(solution.stats["num_accepted_steps"])
    return solution, np.asarray(solution.ts)[: n + 1], np.asarray(solution.ys)[: n + 1]


@cache
def loop(name):
    return oracle(name, plain(name)[1])


def scalar(name, adjoint):
    """All recorded quantities in one number, as a function of the parameter."""
    weights = dict(zip(QUANTITIES, (1.0, 0.7, 0.02, 0.05), strict=True))

    def value(theta):
        _, found = solve(name, theta, adjoint)
        return sum(weights[q] * getattr(found, q) for q in QUANTITIES if getattr(found, q) is not None)

    def from_sums(sums):
        return sum(weights[q] * value for q, value in sums.items())

    return value, from_sums


@pytest.mark.parametrize("name", cases("Tsit5", "KenCarp4"))
def test_a_solve_records_what_a_plain_loop_over_its_steps_sums(name):
    ours, found = jax.jit(lambda theta: solve(name, theta, saveat=dfx.SaveAt(t0=True, steps=True)))(THETA)
    theirs, _, states = plain(name)
    assert np.array_equal(ours.ys, theirs.ys)
    assert np.array_equal(ours.ts, theirs.ts)
    assert ours.stats == theirs.stats
    expected_states, sums = loop(name)(THETA)
    np.testing.assert_allclose(states, expected_states, rtol=1e-12)
    if name == "Dopri8":  # its coefficients of 1e2 cancel: two orders of summation agree to 2e-10 in the stiffness
        for quantity in ("stiffness", "max_stiffness"):
            np.testing.assert_allclose(getattr(found, quantity), sums.pop(quantity), rtol=1e-9)
    for quantity, value in sums.items():
        np.testing.assert_allclose(getattr(found, quantity), value, rtol=1e-10)
    assert found.accepted == len(states) - 1
    assert found.rejected == theirs.stats["num_rejected_steps"]


@pytest.mark.parametrize("name", cases("Tsit5"))
def test_the_gradient_of_the_record_is_that_on_fixed_steps(name):
    value, from_sums = scalar(name, ADJOINTS["checkpointed"])
    gradient = jax.jit(jax.grad(value))(THETA)
    size = shift(name)
    shifted = {k: from_sums(loop(name)(THETA + k * size)[1]) for k in (-2, -1, 1, 2)}
    difference = (8 * (shifted[1] - shifted[-1]) - (shifted[2] - shifted[-2])) / (12 * size)  # of fourth order
    np.testing.assert_allclose(gradient, difference, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_record_and_its_gradient_are_the_same_under_all_discrete_adjoints(name):
    forward = lambda theta: jax.jvp(scalar(name, FORWARD)[0], (theta,), (1.0,))
    expected = jax.jit(forward)(THETA)
    for adjoint in ADJOINTS.values():
        np.testing.assert_allclose(jax.jit(jax.value_and_grad(scalar(name, adjoint)[0]))(THETA), expected, rtol=1e-10)
