"""Solves whose cost is part of the loss: penalties of what the solver itself finds hard."""

from collections.abc import Callable
from typing import Any, Literal, cast, get_args

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from solvers import Tolerances, draw_step, local_heuristics, solve_with_heuristics

Weight = float | Array | Callable[[Any], ArrayLike]
GlobalQuantity = Literal["error", "error_squared", "stiffness", "max_stiffness"]
LocalQuantity = Literal["error", "stiffness"]
Sampling = Literal["uniform", "accepted"]


class GlobalPenalty(eqx.Module):
    """Penalises what the solver met along the whole trajectory: the field `quantity` of `solvers.Heuristics`.

    Its gradient needs an adjoint that differentiates the steps: not `BacksolveAdjoint` (see `LocalPenalty`).

    **Arguments:** `quantity`: `"error"` lowers the number of evaluations of smooth problems, `"stiffness"` that of
    stiff ones. `weight`: a number, or a schedule of the training step, as Optax has them. As the error is measured in
    tolerances, so is the weight: tune it again where those change.

    Pal, Ma, Shah and Rackauckas (2021), Opening the blackbox, arXiv:2105.03918.
    """

    quantity: GlobalQuantity = eqx.field(static=True)
    weight: Weight

    def __init__(self, quantity: GlobalQuantity, weight: Weight):
        if quantity not in get_args(GlobalQuantity):
            raise ValueError(f"`quantity` is {quantity!r}; expected one of {get_args(GlobalQuantity)}.")
        self.quantity, self.weight = quantity, weight


class LocalPenalty(eqx.Module):
    """Penalises what the solver meets on one more step, outside the solve, at a random place: any adjoint will do.

    By `at`, the step starts

    - `"uniform"`: at a time uniform on the interval, with the mean accepted step's length (cut at the interval's end):
      unbiased, `T E(t)` has the mean `int E dt`;
    - `"accepted"`: where a step drawn uniformly from those accepted did, with its length: `n |h_j| E_j` has the mean
      `sum_j E_j |h_j|`, the value of the global penalty. (The literature calls it biased: short steps, which hard
      regions have, are drawn more often than their share of the time.)

    Of the stiffness, the penalty is `n S`, whose mean is that of `sum_j S_j` over such steps. So weights are on the
    scale of `GlobalPenalty`'s. `T` is the interval's length, `n` the number of accepted steps, a constant to the
    gradient. Values agree so; gradients need not, as the time and the length are constants to them, too.

    **Arguments:** `quantity`. `weight`: see `GlobalPenalty`. `at`. `through_state`: whether the gradient goes on
    through the state the step starts from into the solve; without, it sees the vector field at that state alone, as
    published.

    Pal, Edelman and Rackauckas (2023), Locally regularized neural differential equations, arXiv:2303.02262.
    """

    quantity: LocalQuantity = eqx.field(static=True)
    weight: Weight
    at: Sampling = eqx.field(static=True)
    through_state: bool = eqx.field(static=True)

    def __init__(
        self, quantity: LocalQuantity, weight: Weight, *, at: Sampling = "uniform", through_state: bool = True
    ):
        if quantity not in get_args(LocalQuantity):
            raise ValueError(f"`quantity` is {quantity!r}; expected one of {get_args(LocalQuantity)}.")
        if at not in get_args(Sampling):
            raise ValueError(f"`at` is {at!r}; expected one of {get_args(Sampling)}.")
        self.quantity, self.weight, self.at, self.through_state = quantity, weight, at, through_state


Regulariser = GlobalPenalty | LocalPenalty


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
        return self.solution.result == diffrax.RESULTS.successful


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

    **Arguments:** those of `diffrax.diffeqsolve` (but `throw` is `False` by default: look at `solved`), and
    `regulariser`: `GlobalPenalty`, `LocalPenalty` or none. `step`: the training step, for weights by schedule. `key`:
    for local penalties, another one at each call.

    **Raises:** `ValueError` as `solvers.solve_with_heuristics`; for a local penalty without a key; and for gradients
    through a drawn step's state under an adjoint that has none.
    """
    problem = (terms, solver, t0, t1, dt0, y0, args)
    settings = {"stepsize_controller": stepsize_controller, "adjoint": adjoint, "throw": throw, **options}
    if regulariser is None:
        solution = diffrax.diffeqsolve(*problem, saveat=saveat, **settings)
        zero = jnp.zeros((), jnp.finfo(jnp.result_type(*jax.tree.leaves(y0))).dtype)
        return Regularised(solution, zero, zero)
    if isinstance(regulariser, GlobalPenalty):
        track = ("error",) if regulariser.quantity.startswith("error") else ("stiffness",)
        solution, found = solve_with_heuristics(*problem, track=track, saveat=saveat, **settings)
        value = getattr(found, regulariser.quantity)
    else:
        if key is None:
            raise ValueError("`key` is missing; a local penalty is taken at a random place.")
        draw = _at_accepted if regulariser.at == "accepted" else _at_uniform
        solution, (t, h, y), scale = draw(problem, saveat, settings, regulariser, key)
        if not regulariser.through_state:
            y = jax.lax.stop_gradient(y)
        t, h = jax.lax.stop_gradient((t, h))
        error, stiffness = local_heuristics(
            terms, solver, t, h, y, args, track=(regulariser.quantity,), tolerances=Tolerances.of(stepsize_controller)
        )
        n = solution.stats["num_accepted_steps"]
        if regulariser.quantity == "error":
            value = jnp.asarray(error) * scale.astype(jnp.result_type(error))
        else:
            value = jnp.asarray(stiffness) * n.astype(jnp.result_type(stiffness))
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
    _, _, t0, t1, _, y0, _ = problem
    real = jnp.finfo(jnp.result_type(*jax.tree.leaves(y0))).dtype
    start, end = jnp.asarray(t0, real), jnp.asarray(t1, real)
    t = start + (end - start) * jax.random.uniform(key, dtype=real)
    if isinstance(settings["adjoint"], diffrax.BacksolveAdjoint):
        solution, y = _among_times(problem, saveat, settings, t)
    else:
        subs = (saveat.subs, diffrax.SubSaveAt(ts=t[None]))
        both = eqx.tree_at(lambda s: s.subs, saveat, subs, is_leaf=lambda x: x is None)
        solution = diffrax.diffeqsolve(*problem, saveat=both, **settings)
        (ts, _), (ys, at) = cast(tuple, solution.ts), cast(tuple, solution.ys)
        y = jax.tree.map(lambda leaf: leaf[0], at)
        solution = eqx.tree_at(lambda s: (s.ts, s.ys), solution, (ts, ys), is_leaf=lambda x: x is None)
    mean = (end - start) / solution.stats["num_accepted_steps"]
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
