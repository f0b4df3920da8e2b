"""Samples whose solve fails: left out of training, or the end of it, by policy."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from opkit.dynamics import Integrator, contain, judge_solves
from opkit.training import NonFiniteLoss, Term, fit

INTEGRATOR = Integrator(dfx.Bosh3(), dfx.PIDController(rtol=1e-4, atol=1e-6), dt0=0.1, max_steps=32)
# y' = rate (y^3 - y): from 0.5 it decays; from 9 it blows up at once, and the solve runs out of steps.
STARTS = jnp.array([[0.5], [0.3], [9.0], [0.7]])


def objective(policy):
    def objective(model, batch, *, key, carry):
        def sample(y0):
            out = INTEGRATOR(dfx.ODETerm(lambda t, y, rate: rate * (y**3 - y)), 0.0, 1.0, y0, model["rate"])
            return jnp.sum((out.ys[-1] - 0.1) ** 2), out.solution.result

        losses, result = jax.vmap(sample)(batch)
        losses, solved, metrics = judge_solves(losses, result, policy=policy)
        return {"data": Term(losses, "losses", mask=solved)}, metrics, carry

    return objective


def train(policy, starts):
    log = []
    state = fit(
        objective(policy), {"rate": jnp.array(1.0)}, starts, optax.sgd(0.3), steps=20, seed=0,
        log=lambda step, figures: log.append(figures),
    )  # fmt: skip
    return state, log


@pytest.mark.slow
def test_training_that_skips_unsolved_samples_is_training_without_them():
    state, log = train("skip", STARTS)
    without, theirs = train("skip", STARTS[jnp.array([0, 1, 3])])
    np.testing.assert_allclose(state.model["rate"], without.model["rate"], rtol=1e-6)
    np.testing.assert_allclose(log[-1]["loss"], theirs[-1]["loss"], rtol=1e-6)
    assert log[-1]["unsolved"] == 1
    assert theirs[-1]["unsolved"] == 0
    assert state.model["rate"] > 1.1


@pytest.mark.slow
def test_training_that_stops_at_unsolved_samples_says_how_many():
    with pytest.raises(NonFiniteLoss, match=r"not finite at step 0: data inf \(1 unsolved\)") as caught:
        train("stop", STARTS)
    assert caught.value.unsolved == 1


@pytest.mark.slow
def test_the_gradient_survives_a_sample_that_overflows_if_its_field_is_contained():
    def loss(rate, y0, contained):
        field = lambda t, y, rate: rate * jnp.exp(y)  # explodes at the time exp(-y0) / rate
        term = dfx.ODETerm(contain(field, y0) if contained else field)
        out = INTEGRATOR(term, 0.0, 1.0, y0, rate)
        losses, solved, _ = judge_solves(out.ys[-1], out.solution.result)
        return Term(losses, "losses", mask=solved).value

    def gradient(starts, contained):
        mean = lambda rate: jnp.mean(jax.vmap(loss, (None, 0, None))(rate, starts, contained))
        return jax.jit(jax.grad(mean))(0.2)

    starts = jnp.array([[0.5], [0.3], [6.0], [0.7]])
    assert jnp.isnan(gradient(starts, False))
    alone = gradient(starts[jnp.array([0, 1, 3])], False)
    np.testing.assert_allclose(gradient(starts, True), 0.75 * alone, rtol=1e-6)


def test_an_event_is_no_failure_and_one_code_stands_for_a_whole_batch():
    losses = jnp.array([1.0, jnp.nan, 3.0])
    for result in (dfx.RESULTS.event_occurred, dfx.RESULTS.successful, True):
        _, solved, metrics = judge_solves(losses, result)
        assert solved.tolist() == [True, False, True]
        assert metrics["unsolved"] == 1
    _, solved, metrics = judge_solves(losses, dfx.RESULTS.max_steps_reached)
    assert not solved.any()
    assert metrics["unsolved"] == 3


@pytest.mark.plain
def test_another_policy_is_refused():
    with pytest.raises(ValueError, match="`policy` is 'retry'; expected one of"):
        judge_solves(jnp.ones(2), True, policy="retry")  # pyright: ignore[reportArgumentType]
