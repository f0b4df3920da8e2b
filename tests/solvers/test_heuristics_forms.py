"""Recording goes wherever a solve does: any `SaveAt`, PyTrees, either direction of time, events, `vmap`, precisions."""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from solvers import HeuristicSolver, draw_step, solve_with_heuristics

from .heuristic_cases import THETA, Y0, controller, drift, sde

SETTINGS = {"stepsize_controller": dfx.PIDController(rtol=1e-5, atol=1e-6), "max_steps": 128}


def swirl(t, y, rate):
    """A nonlinear oscillator whose state is a dictionary."""
    p, q = y["p"], y["q"]
    return {"p": -rate * jnp.sum(q**3) * jnp.ones_like(p), "q": rate * q * p**3 - 0.1 * q}


STATE = {"p": np.array(0.8), "q": np.array([0.5, -0.3])}


def both(terms, solver, t0, t1, dt0, y0, args, *, track=("error", "stiffness"), **options):
    """The plain solve and the recorded one, compiled each on its own."""
    problem = (terms, solver, t0, t1, dt0, y0, args)
    plain = eqx.filter_jit(lambda: dfx.diffeqsolve(*problem, **SETTINGS, **options))()
    return plain, *eqx.filter_jit(lambda: solve_with_heuristics(*problem, track=track, **SETTINGS, **options))()


def same(one, other):
    """Whether two PyTrees are equal to the bit."""
    return bool(eqx.tree_equal(eqx.filter(one, eqx.is_array), eqx.filter(other, eqx.is_array)))


@pytest.mark.slow
def test_a_recorded_solve_saves_in_all_forms_what_a_plain_one_does():
    saveat = dfx.SaveAt(
        subs=[
            dfx.SubSaveAt(t0=True, t1=True),
            {"times": dfx.SubSaveAt(ts=jnp.array([0.1, 0.5, 0.5, 1.9]))},
            dfx.SubSaveAt(steps=2, fn=lambda t, y, args: t * y["p"]),
        ],
        dense=True, solver_state=True, controller_state=True, made_jump=True,
    )  # fmt: skip
    y0 = jax.tree.map(jnp.asarray, STATE)
    plain, ours, found = both(dfx.ODETerm(swirl), dfx.Tsit5(), 0.0, 2.0, 0.1, y0, 2.0, saveat=saveat)
    for field in ("ts", "ys", "stats", "result", "solver_state", "controller_state", "made_jump", "interpolation"):
        assert same(getattr(ours, field), getattr(plain, field)), field
    assert found.error > 0
    assert found.stiffness > 0
    assert ours.evaluate(1.3)["q"].shape == (2,)


@pytest.mark.slow
def test_backwards_in_time_the_record_is_that_of_the_mirrored_problem():
    y0 = jnp.asarray(Y0)
    mirrored = dfx.ODETerm(lambda t, y, a: -drift(-t, y, a))
    run = eqx.filter_jit(
        lambda term, t0, t1: solve_with_heuristics(
            term, dfx.Tsit5(), t0, t1, None, y0, THETA, track=("error", "stiffness", "step"), key=jax.random.key(1),
            **SETTINGS,
        )
    )  # fmt: skip
    solution, found = run(dfx.ODETerm(drift), 1.0, 0.0)
    expected, reflected = run(mirrored, -1.0, 0.0)
    np.testing.assert_allclose(solution.ys, expected.ys, rtol=1e-12)
    np.testing.assert_allclose(found.error, reflected.error, rtol=1e-10)
    np.testing.assert_allclose(found.stiffness, reflected.stiffness, rtol=1e-10)
    assert found.error > 0
    assert found.drawn.h < 0
    np.testing.assert_allclose(found.drawn.t, -reflected.drawn.t, rtol=1e-12)
    np.testing.assert_allclose(found.drawn.h, -reflected.drawn.h, rtol=1e-10)


@pytest.mark.slow
def test_a_solve_continues_from_the_plain_solvers_state():
    y0 = jnp.asarray(Y0, jnp.float32)
    saveat = dfx.SaveAt(t1=True, solver_state=True, controller_state=True)
    solve = eqx.filter_jit(
        lambda record, t0, t1, y, **state: (solve_with_heuristics if record else plain_solve)(
            dfx.ODETerm(drift), dfx.Tsit5(), t0, t1, 0.05, y, THETA, saveat=saveat, **state, **SETTINGS
        )
    )
    plain_solve = lambda *problem, **options: (dfx.diffeqsolve(*problem, **options), None)
    times = [jnp.asarray(t, jnp.float32) for t in (0.0, 0.5, 1.0)]
    first, _ = solve(False, times[0], times[1], y0)
    state = {"solver_state": first.solver_state}
    plain, _ = solve(False, times[1], times[2], first.ys[-1], **state)
    ours, found = solve(True, times[1], times[2], first.ys[-1], **state)
    assert same(ours.ys, plain.ys)
    assert same(ours.solver_state, plain.solver_state)
    assert found.error.dtype == jnp.float32


@pytest.mark.slow
def test_an_event_ends_a_recorded_solve_where_it_ends_a_plain_one():
    event = dfx.Event(lambda t, y, args, **kwargs: y[0] + 0.2)
    y0 = jnp.asarray(Y0)
    plain, ours, found = both(dfx.ODETerm(drift), dfx.Tsit5(), 0.0, 5.0, 0.05, y0, THETA, event=event)
    assert same(ours.ys, plain.ys)
    assert same(ours.ts, plain.ts)
    assert ours.result == dfx.RESULTS.event_occurred
    assert found.accepted == plain.stats["num_accepted_steps"]


@pytest.mark.slow
def test_each_of_512_trajectories_in_a_vmap_has_the_record_of_its_own_solve():
    def solve(y0):
        solution, found = solve_with_heuristics(
            dfx.ODETerm(drift), dfx.Bosh3(), 0.0, 1.0, 0.05, y0, THETA, track=("error", "stiffness"), **SETTINGS
        )
        return found, solution.ys

    y0 = jax.random.normal(jax.random.key(0), (512, 3))
    found, _ = jax.jit(jax.vmap(solve))(y0)
    single = jax.jit(solve)
    for i in (0, 17, 511):
        alone, _ = single(y0[i])
        assert found.accepted[i] == alone.accepted
        assert found.evaluations[i] == alone.evaluations
        for name in ("error", "error_squared", "stiffness", "max_stiffness"):
            np.testing.assert_allclose(getattr(found, name)[i], getattr(alone, name), rtol=1e-9)
    assert len(np.unique(found.accepted)) > 1


@pytest.mark.dtype
def test_the_record_has_the_precision_of_the_state():
    for dtype in [jnp.float32] + [jnp.float64] * jax.config.read("jax_enable_x64"):
        solution, found = jax.eval_shape(
            lambda y0: solve_with_heuristics(
                dfx.ODETerm(drift), dfx.Tsit5(), 0.0, 1.0, 0.05, y0, 1.0,
                track=("error", "stiffness", "step"), key=jax.random.key(0), **SETTINGS,
            ),
            jnp.asarray(Y0, dtype),
        )  # fmt: skip
        leaves = (found.error, found.error_squared, found.stiffness, found.drawn, solution.ys, solution.ts)
        assert {leaf.dtype for leaf in jax.tree.leaves(leaves)} == {jnp.dtype(dtype)}


COUNTED = {
    "Tsit5": dfx.Tsit5(),
    "SPaRK": dfx.SPaRK(),
    "HalfSolver(Bosh3)": dfx.HalfSolver(dfx.Bosh3()),
    "Dopri8": dfx.Dopri8(),
    "Heun": dfx.Heun(),
    "HalfSolver(ShARK)": dfx.HalfSolver(dfx.ShARK()),
    "HalfSolver(Euler)": dfx.HalfSolver(dfx.Euler()),
    "GeneralShARK": dfx.HalfSolver(dfx.GeneralShARK()),
}
QUICK = ("Tsit5",)


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in COUNTED])
def test_evaluations_are_those_counted_in_the_vector_field(name):
    calls = []

    def counting(t, y, theta):
        jax.debug.callback(lambda: calls.append(None))
        return drift(t, y, theta)

    solver = COUNTED[name]
    noisy = isinstance(solver, dfx.AbstractSRK)
    terms = dfx.MultiTerm(dfx.ODETerm(counting), sde().terms[1]) if noisy else dfx.ODETerm(counting)
    slack = 1e-2 if noisy or "Euler" in name else 1e-5
    _, found = jax.jit(
        lambda: solve_with_heuristics(
            terms, solver, 0.0, 1.0, 0.001, jnp.asarray(Y0), THETA, max_steps=256,
            stepsize_controller=dfx.PIDController(rtol=slack, atol=slack),
        )
    )()  # fmt: skip
    jax.effects_barrier()
    assert found.evaluations == len(calls)


def test_solvers_of_sdes_keep_their_kind_inside_wrappers():
    kinds = (dfx.AbstractItoSolver, dfx.AbstractStratonovichSolver)
    for solver in (
        dfx.SPaRK(),
        dfx.HalfSolver(dfx.ShARK()),
        dfx.HalfSolver(dfx.ItoMilstein()),
        dfx.HalfSolver(dfx.Heun()),
    ):
        wrapped = HeuristicSolver(solver)
        inner = solver.solver if isinstance(solver, dfx.HalfSolver) else solver
        assert [isinstance(wrapped, kind) for kind in kinds] == [isinstance(inner, kind) for kind in kinds]


@pytest.mark.parametrize("adjoint", [dfx.BacksolveAdjoint(), dfx.ImplicitAdjoint()])
@pytest.mark.plain
def test_adjoints_that_would_drop_the_gradient_are_refused(adjoint):
    with pytest.raises(ValueError, match=r"`adjoint` is .*Adjoint, .* zero, silently.*local_heuristics"):
        solve_with_heuristics(dfx.ODETerm(drift), dfx.Tsit5(), 0.0, 1.0, 0.1, Y0, 1.0, adjoint=adjoint)


def test_under_backsolve_the_gradient_of_what_a_solver_records_is_a_silent_zero():
    """Why such adjoints are refused; if this fails, Diffrax has changed, and perhaps they need not be."""

    def error(theta, adjoint):
        solution = dfx.diffeqsolve(
            dfx.ODETerm(drift), HeuristicSolver(dfx.Heun()), 0.0, 1.0, 0.05, jnp.asarray(Y0), theta,
            saveat=dfx.SaveAt(t1=True, solver_state=True), adjoint=adjoint, max_steps=64,
        )  # fmt: skip
        return solution.solver_state[1].error[0]

    gradient = lambda adjoint: float(jax.jit(lambda theta: jax.grad(error)(theta, adjoint))(THETA))
    assert gradient(dfx.BacksolveAdjoint(solver=dfx.Heun())) == 0
    assert abs(gradient(dfx.RecursiveCheckpointAdjoint())) > 1e-3


@pytest.mark.plain
def test_bad_requests_say_what_to_do():
    problem = (dfx.ODETerm(drift), dfx.Tsit5(), 0.0, 1.0, 0.1, jnp.asarray(Y0), 1.0)
    with pytest.raises(ValueError, match=r"`solver` is Euler, which estimates no error. .*HalfSolver"):
        solve_with_heuristics(problem[0], dfx.Euler(), *problem[2:])
    with pytest.raises(ValueError, match=r"`solver` is EulerHeun, which estimates no error"):
        solve_with_heuristics(sde(), dfx.EulerHeun(), *problem[2:])
    for solver in (dfx.SPaRK(), dfx.HalfSolver(dfx.Heun())):
        with pytest.raises(ValueError, match=r"`track` asks for the stiffness, but .* shows no stages"):
            solve_with_heuristics(sde(), solver, *problem[2:], track=("stiffness",))
    with pytest.raises(ValueError, match=r"`track` has 'speed'; expected some of \('error', 'stiffness', 'step'\)"):
        solve_with_heuristics(*problem, track=("speed",))
    with pytest.raises(ValueError, match=r"`key` is missing; drawing a step needs one"):
        solve_with_heuristics(*problem, track=("step",))


def test_a_solve_that_reaches_its_last_step_has_a_name_and_a_finite_record():
    y0 = jnp.asarray(Y0)
    options = {"stepsize_controller": controller("Tsit5"), "max_steps": 4}
    solution, found = eqx.filter_jit(
        lambda: solve_with_heuristics(dfx.ODETerm(drift), dfx.Tsit5(), 0.0, 1.0, 0.01, y0, THETA, **options)
    )()
    assert solution.result == dfx.RESULTS.max_steps_reached
    assert found.accepted + found.rejected == 4
    assert jnp.isfinite(found.error)


@pytest.mark.slow
def test_steps_rejected_because_the_field_is_not_finite_leave_the_record_and_its_gradient_finite():
    def wall(t, y, height):
        inside = jnp.abs(y) <= height
        return jnp.where(inside, -3 * height * jnp.where(inside, y, 0), jnp.nan)

    def error(height):
        _, found = solve_with_heuristics(
            dfx.ODETerm(wall), dfx.Bosh3(), 0.0, 1.0, 1.0, jnp.ones(2), height, track=("error", "stiffness"), **SETTINGS
        )
        return found.error + found.stiffness, found.rejected

    (value, rejected), gradient = jax.jit(jax.value_and_grad(error, has_aux=True))(1.1)
    assert rejected > 0
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient)
    assert gradient != 0


def test_a_step_drawn_has_the_state_of_the_solve_at_its_time():
    y0 = jnp.asarray(Y0)
    solution, found = eqx.filter_jit(
        lambda: draw_step(
            dfx.ODETerm(drift), dfx.Tsit5(), 0.0, 1.0, None, y0, THETA, key=jax.random.key(5),
            saveat=dfx.SaveAt(t0=True, steps=True), **SETTINGS,
        )
    )()  # fmt: skip
    ts = np.asarray(solution.ts)
    j = int(np.flatnonzero(ts == found.drawn.t)[0])
    assert same(found.drawn.y, solution.ys[j])
    np.testing.assert_allclose(found.drawn.h, ts[j + 1] - ts[j], rtol=1e-12)
