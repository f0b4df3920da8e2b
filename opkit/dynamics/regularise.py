"""Solves whose cost is part of the loss: penalties of what the solver itself finds hard."""

from collections.abc import Callable
from typing import Any, cast

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from solvers import Tolerances, draw_step, local_heuristics, solve_with_heuristics

from .penalties import GlobalPenalty, LocalPenalty, PathPenalty, Regulariser

Rate = Callable[[Any, PyTree, PyTree], Float[Array, ""]]


class Regularised(eqx.Module):
    """A solve and what it adds to the loss.

    `solution`: Diffrax's. `penalty`: to be added to the loss, its weight included; zero without a regulariser. `value`:
    the same before the weight.
    """

    solution: diffrax.Solution
    penalty: Float[Array, ""]
    value: Float[Array, ""]

    @property
    def ys(self) -> PyTree:
        """What was saved."""
        return self.solution.ys

    @property
    def solved(self) -> Bool[Array, ""]:
        """Whether the solve succeeded; if not, `solution.result` says why."""
        return diffrax.is_okay(self.solution.result)


def regularised_solve(
    terms: PyTree,
    solver: diffrax.AbstractSolver,
    t0: Any,
    t1: Any,
    dt0: Any,
    y0: PyTree,
    args: PyTree = None,
    *,
    regulariser: Regulariser | None = None,
    rate: Rate | None = None,
    step: Any = 0,
    key: PRNGKeyArray | None = None,
    saveat: diffrax.SaveAt = diffrax.SaveAt(t1=True),  # noqa: B008  # immutable; Diffrax's own default
    stepsize_controller: diffrax.AbstractStepSizeController = diffrax.ConstantStepSize(),  # noqa: B008
    adjoint: diffrax.AbstractAdjoint = diffrax.RecursiveCheckpointAdjoint(),  # noqa: B008
    throw: bool = False,
    **options: Any,
) -> Regularised:
    """`diffrax.diffeqsolve`, and a penalty that makes what it solves cheaper to solve.

        out = regularised_solve(
            diffrax.ODETerm(f), diffrax.Tsit5(), 0.0, 1.0, None, y0, regulariser=GlobalPenalty("error", 0.1),
            stepsize_controller=diffrax.PIDController(rtol=1e-5, atol=1e-5),
        )
        loss = mse(out.ys[-1], target) + out.penalty

    **Arguments:** those of `diffrax.diffeqsolve` (but `throw` is `False` by default: look at `solved`; and times are
    taken in the state's precision), and `regulariser`: `GlobalPenalty`, `LocalPenalty`, `PathPenalty` or none. `step`:
    the training step, for weights by schedule. `key`: for local penalties and that of the Jacobian, another one at
    each call. `rate`: what a `PathPenalty` integrates, `r(t, y, args)`, where that is of a part of the state.

    Where a solve stops early, a global penalty is that of the part solved; a local one whose place was not reached is
    infinite, with gradient zero: `judge_solves` leaves both out.

    **Raises:** `ValueError` as `solvers.solve_with_heuristics`; for a local penalty without a key; for gradients
    through a drawn step's state under an adjoint that has none; for a uniform one of a solve that an event may end;
    for a `PathPenalty` of anything but one `diffrax.ODETerm`, under `BacksolveAdjoint`, or with dense output.
    """
    t0, t1, dt0, saveat = _in_precision(_real_dtype(y0), t0, t1, dt0, saveat)
    problem = (terms, solver, t0, t1, dt0, y0, args)
    settings = {"stepsize_controller": stepsize_controller, "adjoint": adjoint, "throw": throw, **options}
    if regulariser is None:
        solution = diffrax.diffeqsolve(*problem, saveat=saveat, **settings)
        zero = jnp.zeros((), _real_dtype(y0))
        return Regularised(solution, zero, zero)
    if isinstance(regulariser, GlobalPenalty):
        track = ("error",) if regulariser.quantity.startswith("error") else ("stiffness",)
        solution, found = solve_with_heuristics(*problem, track=track, saveat=saveat, **settings)
        value = getattr(found, regulariser.quantity)
    elif isinstance(regulariser, PathPenalty):
        solution, value = _along_path(problem, saveat, settings, regulariser, rate, key)
    else:
        if key is None:
            raise ValueError("`key` is missing; a local penalty is taken at a random place.")
        draw = _at_accepted if regulariser.at == "accepted" else _at_uniform
        solution, (t, h, y), scale = draw(problem, saveat, settings, regulariser, key)
        if not regulariser.through_state:
            y = jax.lax.stop_gradient(y)
        t, h = jax.lax.stop_gradient((t, h))
        # A solve that stopped before `t` has no state there: the step is taken elsewhere, and does not count.
        reached = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(y)]))
        y = jax.tree.map(lambda at, start: jnp.where(reached, at, start), y, y0)
        backwards = diffrax.RecursiveCheckpointAdjoint | diffrax.BacksolveAdjoint  # which have no forward mode
        error, stiffness = local_heuristics(
            terms, solver, t, h, y, args, track=(regulariser.quantity,), tolerances=Tolerances.of(stepsize_controller),
            forward_mode=not isinstance(adjoint, backwards),
        )  # fmt: skip
        n = solution.stats["num_accepted_steps"]
        if regulariser.quantity == "error":
            value = jnp.asarray(error) * scale.astype(jnp.result_type(error))
        else:
            value = jnp.asarray(stiffness) * n.astype(jnp.result_type(stiffness))
        value = jnp.where(reached, value, jnp.inf)
    weight = regulariser.weight(step) if callable(regulariser.weight) else regulariser.weight
    return Regularised(solution, jnp.asarray(weight, value.dtype) * value, value)


def _at_accepted(problem: tuple, saveat: diffrax.SaveAt, settings: dict, regulariser: LocalPenalty, key: PRNGKeyArray):
    adjoint = settings["adjoint"]
    if regulariser.through_state and isinstance(adjoint, diffrax.BacksolveAdjoint | diffrax.ImplicitAdjoint):
        raise ValueError(
            f"`adjoint` is {type(adjoint).__name__}, which has no gradient of a drawn step's state. Take "
            "`through_state=False`, or `at='uniform'`."
        )
    solution, found = draw_step(*problem, key=key, saveat=saveat, **settings)
    drawn, n = found.drawn, found.accepted
    assert drawn is not None
    return solution, (drawn.t, drawn.h, drawn.y), n * jnp.abs(drawn.h)


def _at_uniform(problem: tuple, saveat: diffrax.SaveAt, settings: dict, regulariser: LocalPenalty, key: PRNGKeyArray):
    """Saves the state at the random time beside what is asked for."""
    if settings.get("event") is not None:
        raise ValueError("`event` may end the solve before the random time. Take `at='accepted'` or a `GlobalPenalty`.")
    _, _, start, end, *_ = problem
    t = start + (end - start) * jax.random.uniform(key, dtype=end.dtype)
    if isinstance(settings["adjoint"], diffrax.BacksolveAdjoint):
        solution, y = _among_times(problem, saveat, settings, t)
    else:
        subs = (saveat.subs, diffrax.SubSaveAt(ts=t[None]))
        both = eqx.tree_at(lambda s: s.subs, saveat, subs, is_leaf=lambda x: x is None)
        solution = diffrax.diffeqsolve(*problem, saveat=both, **settings)
        (ts, _), (ys, at) = cast(tuple, solution.ts), cast(tuple, solution.ys)
        y = jax.tree.map(lambda leaf: leaf[0], at)
        solution = eqx.tree_at(lambda s: (s.ts, s.ys), solution, (ts, ys), is_leaf=lambda x: x is None)
    mean = (end - start) / jnp.maximum(solution.stats["num_accepted_steps"], 1)
    h = jnp.where(end > start, jnp.minimum(mean, end - t), jnp.maximum(mean, end - t))
    return solution, (t, h, y), jnp.abs(end - start)


def _among_times(problem: tuple, saveat: diffrax.SaveAt, settings: dict, t: Array):
    """`BacksolveAdjoint` takes one list of times: the random one is put in its place there, and its state taken out."""
    _, _, t0, t1, *_ = problem
    subs = saveat.subs
    if not isinstance(subs, diffrax.SubSaveAt):
        raise ValueError("`saveat` has several parts or none; BacksolveAdjoint takes `t0`, `t1` and `ts` only.")
    ts = jnp.zeros(0, t.dtype) if subs.ts is None else subs.ts.astype(t.dtype)
    ts = jnp.concatenate([ts, jnp.asarray(t1, t.dtype)[None]]) if subs.t1 else ts
    forward = jnp.where(jnp.asarray(t0) < jnp.asarray(t1), 1, -1).astype(t.dtype)
    place = jnp.searchsorted(forward * ts, forward * t)
    others = jnp.arange(len(ts)) + (jnp.arange(len(ts)) >= place)
    merged = jnp.zeros(len(ts) + 1, t.dtype).at[others].set(ts).at[place].set(t)
    one = eqx.tree_at(
        lambda s: s.subs, saveat, diffrax.SubSaveAt(t0=subs.t0, ts=merged, fn=subs.fn, steps=subs.steps),
    )  # fmt: skip
    solution = diffrax.diffeqsolve(*problem, saveat=one, **settings)
    kept = jnp.concatenate([jnp.zeros(1, int), others + 1]) if subs.t0 else others
    y = jax.tree.map(lambda leaf: leaf[place + subs.t0], solution.ys)
    ts, ys = jax.tree.map(lambda leaf: leaf[kept], (solution.ts, solution.ys))
    return eqx.tree_at(lambda s: (s.ts, s.ys), solution, (ts, ys)), y


def _along_path(
    problem: tuple,
    saveat: diffrax.SaveAt,
    settings: dict,
    regulariser: PathPenalty,
    rate: Rate | None,
    key: PRNGKeyArray | None,
):
    """Integrates the rate beside the state, which alone chooses the steps."""
    terms, solver, t0, t1, dt0, y0, args = problem
    if not isinstance(terms, diffrax.ODETerm):
        raise ValueError(f"`terms` is {type(terms).__name__}; the penalty of a path is of one diffrax.ODETerm.")
    if isinstance(settings["adjoint"], diffrax.BacksolveAdjoint) or saveat.dense:
        raise ValueError(
            "`regulariser` is a PathPenalty, whose integral can be saved neither beside dense output nor under "
            "BacksolveAdjoint. Use RecursiveCheckpointAdjoint, or a LocalPenalty."
        )
    f, rate = terms.vector_field, regulariser.rate(terms.vector_field, y0, key=key) if rate is None else rate
    both = diffrax.ODETerm(lambda t, state, args: (f(t, state[0], args), rate(t, state[0], args)))

    def of_the_path(sub: diffrax.SubSaveAt) -> diffrax.SubSaveAt:
        return eqx.tree_at(lambda s: s.fn, sub, lambda t, state, args: sub.fn(t, state[0], args))

    asked = jax.tree.map(of_the_path, saveat.subs, is_leaf=lambda leaf: isinstance(leaf, diffrax.SubSaveAt))
    integral = diffrax.SubSaveAt(t1=True, fn=lambda t, state, args: state[1])
    solution = diffrax.diffeqsolve(
        both, solver, t0, t1, dt0, (y0, jnp.zeros((), _real_dtype(y0))), args,
        saveat=eqx.tree_at(lambda s: s.subs, saveat, (asked, integral), is_leaf=lambda x: x is None),
        **settings | {"stepsize_controller": _steered_by_the_path(settings["stepsize_controller"])},
    )  # fmt: skip
    (ts, _), (ys, (value,)) = cast(tuple, solution.ts), cast(tuple, solution.ys)
    solution = eqx.tree_at(lambda s: (s.ts, s.ys), solution, (ts, ys), is_leaf=lambda x: x is None)
    return solution, jnp.abs(value)  # backwards in time it is negative


def _steered_by_the_path(controller: Any) -> Any:
    """The controller, its norm taken of the first of the two states alone."""
    if hasattr(controller, "controller"):
        return eqx.tree_at(lambda c: c.controller, controller, _steered_by_the_path(controller.controller))
    if not hasattr(controller, "norm"):
        return controller
    norm = controller.norm
    return eqx.tree_at(lambda c: c.norm, controller, lambda state: norm(state[0]))


def _real_dtype(y0: PyTree) -> Any:
    return jnp.finfo(jnp.result_type(*jax.tree.leaves(y0), 0.0)).dtype


def _in_precision(real: Any, t0: Any, t1: Any, dt0: Any, saveat: diffrax.SaveAt):
    """All times in the state's precision: Diffrax would promote the state to theirs."""
    t0, t1, dt0 = (t if t is None else jnp.asarray(t, real) for t in (t0, t1, dt0))

    def cast(sub: diffrax.SubSaveAt) -> diffrax.SubSaveAt:
        return sub if sub.ts is None else eqx.tree_at(lambda s: s.ts, sub, jnp.asarray(sub.ts, real))

    is_sub = lambda leaf: isinstance(leaf, diffrax.SubSaveAt)
    subs = jax.tree.map(cast, saveat.subs, is_leaf=is_sub)
    return t0, t1, dt0, eqx.tree_at(lambda s: s.subs, saveat, subs, is_leaf=lambda x: x is None)
