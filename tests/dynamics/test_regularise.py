"""Penalties of solves: their values, their gradients, and the adjoints they take."""

from functools import partial

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from opkit.dynamics import GlobalPenalty, Integrator, LocalPenalty, regularised_solve
from solvers import Tolerances, local_heuristics

Y0 = np.array([1.0, -0.5])
CONTROL = {"stepsize_controller": dfx.PIDController(rtol=1e-5, atol=1e-6), "max_steps": 64}


def field(t, y, rate):
    """A forced oscillator."""
    return rate * jnp.stack([jnp.tanh(2 * y[1]), -jnp.tanh(3 * y[0])]) + jnp.sin(4 * t)


def solve(rate, regulariser=None, t1=2.0, y0=Y0, **options):
    """The penalised solve of it."""
    return regularised_solve(
        dfx.ODETerm(field), dfx.Tsit5(), 0.0, t1, 0.05, jnp.asarray(y0), rate, regulariser=regulariser,
        **CONTROL | options,
    )  # fmt: skip


def draws(regulariser, n=2000):
    keys = jax.random.split(jax.random.key(11), n)
    return np.asarray(jax.jit(jax.vmap(lambda key: solve(2.0, regulariser, key=key).value))(keys))


@pytest.mark.slow
def test_a_local_penalty_at_a_uniform_time_is_the_integral_in_the_mean():
    values = draws(LocalPenalty("error", 1.0))

    @jax.jit
    def integral():
        solution = solve(2.0, saveat=dfx.SaveAt(dense=True)).solution
        mean = 2.0 / solution.stats["num_accepted_steps"]
        points = (jnp.arange(4000) + 0.5) / 2000

        def error(t):
            h = jnp.minimum(mean, 2.0 - t)
            tolerances = Tolerances(1e-5, 1e-6)
            y = solution.evaluate(t)
            return local_heuristics(dfx.ODETerm(field), dfx.Tsit5(), t, h, y, 2.0, tolerances=tolerances)[0]

        return 2.0 * jnp.mean(jax.vmap(error)(points))

    standard_error = values.std() / np.sqrt(len(values))
    assert abs(values.mean() - integral()) < 3 * standard_error
    assert standard_error < 0.05 * values.mean()


@pytest.mark.slow
def test_a_local_penalty_at_an_accepted_step_is_the_global_one_in_the_mean():
    values = draws(LocalPenalty("error", 1.0, at="accepted"))
    whole = jax.jit(lambda: solve(2.0, GlobalPenalty("error", 1.0)).value)()
    assert abs(values.mean() - whole) < 3 * values.std() / np.sqrt(len(values))


FORMS = {
    "t1": dfx.SaveAt(t1=True),
    "ts": dfx.SaveAt(ts=jnp.array([0.5, 1.0, 1.7])),
    "all": dfx.SaveAt(t0=True, ts=jnp.array([0.5, 1.0]), t1=True),
}


@pytest.mark.parametrize("form", ["all", *(pytest.param(form, marks=pytest.mark.slow) for form in ("t1", "ts"))])
def test_a_solve_with_backsolve_adjoint_and_a_local_penalty_trains(form):
    target = eqx.filter_jit(lambda: solve(2.5, saveat=FORMS[form]).ys)()
    options = {"saveat": FORMS[form], "adjoint": dfx.BacksolveAdjoint()}
    pace = 0.05 if form == "t1" else 0.2  # the end alone depends on the rate the most

    def loss(rate, key):
        out = solve(rate, LocalPenalty("error", 1e-3), key=key, **options)
        return jnp.mean((out.ys - target) ** 2) + out.penalty, out

    @jax.jit
    def train(rate, key):
        ((value, out), slope), key = jax.value_and_grad(loss, has_aux=True)(rate, key), jax.random.split(key)[0]
        return rate - pace * slope, value, out.ys, out.solution.ts

    rate, values = jnp.array(2.2), []
    for step in range(30):
        rate, value, ys, ts = train(rate, jax.random.key(step))
        values.append(float(value))
        assert ys.shape == target.shape
        assert ts.shape == target.shape[:1]
        assert np.all(np.diff(ts) > 0)
    assert values[-1] < 0.1 * values[0]
    assert abs(rate - 2.5) < 0.05


@pytest.mark.slow
def test_the_gradient_stops_at_the_state_where_asked():
    def penalty(y0, through, at):
        out = solve(2.0, LocalPenalty("error", 1.0, at=at, through_state=through), y0=y0, key=jax.random.key(0))
        return out.penalty

    for at, through in (("uniform", True), ("accepted", False)):
        gradient = jax.jit(jax.grad(partial(penalty, through=through, at=at)))(jnp.asarray(Y0))
        assert jnp.any(gradient != 0) == through


def test_weights_follow_a_schedule_of_the_training_step():
    out = jax.jit(lambda step: solve(2.0, GlobalPenalty("error_squared", lambda step: 3.0 / (1 + step)), step=step))(2)
    np.testing.assert_allclose(out.penalty, out.value, rtol=1e-12)
    assert out.solved
    assert out.value > 0


def test_a_solve_that_stops_before_the_random_time_is_named_and_its_penalty_infinite_with_finite_gradient():
    def penalty(rate, key):
        out = solve(rate, LocalPenalty("error", 1.0), key=key, max_steps=8)
        return out.penalty, out.solution.result

    keys = jax.random.split(jax.random.key(0), 16)
    run = jax.jit(jax.vmap(jax.value_and_grad(penalty, has_aux=True), (None, 0)))
    (values, results), gradients = run(2.0, keys)
    assert jnp.all(results == dfx.RESULTS.max_steps_reached)
    assert jnp.any(jnp.isinf(values))
    assert not jnp.any(jnp.isnan(values))
    assert jnp.all(jnp.isfinite(gradients))
    assert jnp.all(gradients[jnp.isinf(values)] == 0)


@pytest.mark.dtype
@pytest.mark.parametrize(
    "regulariser", [None, GlobalPenalty("stiffness", 1e-3), LocalPenalty("error", 0.1, at="accepted")]
)
def test_a_penalty_has_the_precision_of_the_state_whatever_the_times_have(regulariser):
    integrator, saveat = Integrator(max_steps=64, dt0=0.1), dfx.SaveAt(ts=np.array([0.5, 1.0]))
    for dtype in [jnp.float32] + [jnp.float64] * jax.config.read("jax_enable_x64"):
        out = jax.eval_shape(
            lambda y0, rate: integrator(
                dfx.ODETerm(field), 0.0, 1.0, y0, rate, saveat=saveat, regulariser=regulariser, key=jax.random.key(0)
            ),
            jnp.asarray(Y0, dtype),
            jnp.asarray(2.0, dtype),
        )
        assert {leaf.dtype for leaf in (out.penalty, out.value, out.ys, out.solution.ts)} == {jnp.dtype(dtype)}


@pytest.mark.plain
def test_what_does_not_go_together_is_refused():
    with pytest.raises(ValueError, match="`key` is missing; a local penalty is taken at a random place"):
        solve(2.0, LocalPenalty("error", 1.0))
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"`adjoint` is BacksolveAdjoint, .* Take\s*`through_state=False`"):
        solve(2.0, LocalPenalty("error", 1.0, at="accepted"), key=key, adjoint=dfx.BacksolveAdjoint())
    with pytest.raises(ValueError, match=r"`adjoint` is BacksolveAdjoint, .*local_heuristics"):
        solve(2.0, GlobalPenalty("error", 1.0), adjoint=dfx.BacksolveAdjoint())
    with pytest.raises(ValueError, match=r"`event` may end the solve before the random time"):
        solve(2.0, LocalPenalty("error", 1.0), key=key, event=dfx.Event(lambda t, y, args, **kwargs: y[0]))
    with pytest.raises(ValueError, match=r"`saveat` has several parts or none; BacksolveAdjoint takes"):
        solve(2.0, LocalPenalty("error", 1.0), key=key, adjoint=dfx.BacksolveAdjoint(), saveat=dfx.SaveAt(dense=True))
    with pytest.raises(ValueError, match="`quantity` is 'steps'; expected one of"):
        GlobalPenalty("steps", 1.0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="`at` is 'end'; expected one of"):
        LocalPenalty("error", 1.0, at="end")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="`dt0` is missing"):
        Integrator(controller=dfx.ConstantStepSize())


@pytest.mark.plain
def test_times_out_of_order_are_an_error_with_a_local_penalty_too():
    saveat = dfx.SaveAt(ts=jnp.array([1.0, 0.5]))
    for options in ({}, {"adjoint": dfx.BacksolveAdjoint()}):
        with pytest.raises(RuntimeError, match="must be increasing"):
            eqx.filter_jit(
                lambda options=options: solve(
                    2.0, LocalPenalty("error", 1.0), key=jax.random.key(0), saveat=saveat, **options
                )
            )()
