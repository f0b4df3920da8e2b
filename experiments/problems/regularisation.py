"""What the experiments on regularised differential equations share: variants, trained and timed in turns; the choice of
their weights; ratios to the plain model; and the figure of error against evaluations."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from opkit.data import count_samples, index_stream
from opkit.dynamics import GlobalPenalty, LocalPenalty, PathPenalty, Regulariser
from opkit.training import Objective, Term, init_state, make_train_step

REGULARISERS = ("global error", "global stiffness", "local uniform", "local accepted")
COMPETITORS = ("kinetic", "jacobian", "taylor")
VARIANTS = ("vanilla", *REGULARISERS, *COMPETITORS)

Penalty = Regulariser
Loss = Callable[..., tuple[Float[Array, "..."], Float[Array, "..."]]]


def penalty_of(variant: str, weight: Any) -> Penalty | None:
    """The penalty of one of `VARIANTS`; `weight` may be traced."""
    match variant:
        case "vanilla":
            return None
        case "global error":
            return GlobalPenalty("error", weight)
        case "global stiffness":
            return GlobalPenalty("stiffness", weight)
        case "local uniform":
            return LocalPenalty("error", weight, at="uniform")
        case "local accepted":
            return LocalPenalty("error", weight, at="accepted")
        case "kinetic" | "jacobian" | "taylor":
            return PathPenalty(variant, weight)
        case _:
            raise ValueError(f"`variant` is {variant!r}; expected one of {VARIANTS}.")


class Penalised(eqx.Module):
    """The objective of one variant: the mean of the losses and the mean of the penalties.

    `loss(model, batch, regulariser, step, key)` gives `(losses, penalties)`, arrays of any shape: those of each sample,
    or one of the whole batch. The weight falls exponentially, by the factor `decay` over `steps` training steps. Arms
    that differ in their weights alone share one compiled program. Its `carry` is the training step.
    """

    weight: Float[Array, ""]
    loss: Loss = eqx.field(static=True)
    variant: str = eqx.field(static=True)
    decay: float = eqx.field(static=True)
    steps: int = eqx.field(static=True)

    def __init__(self, loss: Loss, variant: str, weight: float = 0.0, *, decay: float = 1.0, steps: int = 1):
        self.weight = jnp.asarray(weight, jnp.result_type(float))
        self.loss, self.variant, self.decay, self.steps = loss, variant, decay, steps

    def __call__(
        self, model: Any, batch: Any, *, key: PRNGKeyArray, carry: Int[Array, ""]
    ) -> tuple[dict[str, Term], dict[str, Array], Int[Array, ""]]:
        """See `opkit.training.Objective`."""
        weight = self.weight * self.decay ** (carry / self.steps)
        losses, penalties = self.loss(model, batch, penalty_of(self.variant, weight), carry, key)
        terms = {"data": Term(losses, "losses"), "penalty": Term(penalties, "losses")}
        return terms, {}, carry + 1


class Outcome(NamedTuple):
    """What became of one arm: its figures are infinite where training was not finite.

    `training_seconds`: of all steps, without compilation. `prediction_seconds`: the median of several calls.
    `history`: the metrics of the training step, by step.
    """

    model: Any
    error: float
    evaluations: float
    training_seconds: float
    prediction_seconds: float
    history: dict[str, np.ndarray]


def compare(
    objectives: Mapping[str, Objective],
    model: PyTree,
    data: PyTree,
    optimiser: optax.GradientTransformation,
    *,
    steps: int,
    batch_size: int | None,
    seed: int,
    predict: Callable[[Any], tuple[Any, Any]],
    chunk: int = 50,
    repeats: int = 15,
) -> dict[str, Outcome]:
    """Train one copy of `model` with each objective, on the same batches.

    The arms take turns, `chunk` steps each, so that what else the machine does falls on all alike; then they take turns
    at predicting, `repeats` times. Objectives carry the training step, from zero.

    **Arguments:** `data`, `batch_size`: as `opkit.training.fit`. `predict(model)`: pure, gives the test error and the
    number of evaluations (means, if of several solves); it is compiled here.
    """
    batches = lambda begin, end: np.zeros((end - begin, 0), np.int32)
    if data is not None:
        samples = count_samples(data)
        batches = index_stream(samples, samples if batch_size is None else batch_size, seed)
    pool = jax.tree.map(jnp.asarray, data)
    start = init_state(model, optimiser, carry=jnp.zeros((), jnp.int32))
    arrays, static = eqx.partition(start, eqx.is_array)
    runs = {name: _Arm(objective, arrays) for name, objective in objectives.items()}
    programs: dict[Any, Callable] = {}
    for begin in range(0, steps, chunk):
        chosen = batches(begin, min(begin + chunk, steps))
        for arm in runs.values():
            if arm.finite:
                inputs = (eqx.filter(arm.objective, eqx.is_array), arm.arrays, pool, chosen, jax.random.key(seed))
                signature = (_signature(arm.objective), len(chosen))
                if signature not in programs:
                    taken = _chunk(eqx.filter(arm.objective, eqx.is_array, inverse=True), optimiser, static)
                    programs[signature] = jax.jit(taken).lower(*inputs).compile()
                arm.advance(programs[signature], inputs)

    whole = lambda arrays: eqx.combine(arrays, static).model
    call = jax.jit(lambda arrays: predict(whole(arrays))).lower(arrays).compile()
    found = {name: [float(x) for x in jax.block_until_ready(call(arm.arrays))] for name, arm in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, arm in runs.items():
            began = time.perf_counter()
            jax.block_until_ready(call(arm.arrays))
            seconds[name].append(time.perf_counter() - began)
    outcomes = {}
    for name, arm in runs.items():
        error, evaluations = found[name] if arm.finite else (math.inf, math.inf)
        history = {key: np.concatenate([part[key] for part in arm.history]) for key in arm.history[0]}
        predicting = float(np.median(seconds[name])) if arm.finite else math.inf
        outcomes[name] = Outcome(whole(arm.arrays), error, evaluations, arm.seconds, predicting, history)
    return outcomes


class _Arm:
    """One arm while it trains."""

    def __init__(self, objective: Objective, arrays: PyTree):
        self.objective, self.arrays = objective, arrays
        self.seconds, self.finite = 0.0, True
        self.history: list[dict[str, np.ndarray]] = []

    def advance(self, program: Callable, inputs: tuple) -> None:
        """A chunk of steps, timed."""
        began = time.perf_counter()
        self.arrays, metrics = jax.block_until_ready(program(*inputs))
        self.seconds += time.perf_counter() - began
        self.history.append(jax.device_get(metrics))
        self.finite = bool(self.history[-1]["finite"].all())


def _signature(objective: Objective) -> Any:
    """Equal for objectives that differ in their arrays' values alone."""
    arrays, rest = eqx.partition(objective, eqx.is_array)
    return jax.tree.structure(rest), tuple(jax.tree.leaves(rest)), jax.tree.structure(arrays)


def _chunk(objective: PyTree, optimiser: optax.GradientTransformation, static: PyTree) -> Callable:
    def chunk(values: PyTree, arrays: PyTree, pool: PyTree, chosen: Array, key: PRNGKeyArray) -> Any:
        step = make_train_step(eqx.combine(values, objective), optimiser)

        def body(arrays: PyTree, indices: Array) -> Any:
            state = eqx.combine(arrays, static)
            batch = jax.tree.map(lambda array: array[indices], pool)
            state, metrics = step(state, batch, key=jax.random.fold_in(key, state.step))
            return eqx.filter(state, eqx.is_array), metrics

        return jax.lax.scan(body, arrays, chosen)

    return chunk


def evaluations(solver: diffrax.AbstractSolver, solution: diffrax.Solution) -> Array:
    """Of the vector field: `(accepted + rejected) (stages - fsal) + fsal`, of each trajectory of the solution."""
    steps = solution.stats["num_steps"]
    if isinstance(solver, diffrax.AbstractSRK):
        return steps * len(solver.tableau.b_sol)
    tableau = solver.tableau if isinstance(solver, diffrax.AbstractRungeKutta) else None
    if not isinstance(tableau, diffrax.ButcherTableau) or isinstance(solver, diffrax.AbstractImplicitSolver):
        raise ValueError(f"`solver` is {type(solver).__name__}, whose evaluations Diffrax does not tell.")
    return steps * (tableau.num_stages - tableau.fsal) + int(tableau.fsal)


def arms(
    loss: Loss, weights: Mapping[str, float | Sequence[float]], *, decay: float = 1.0, steps: int = 1
) -> dict[str, Penalised]:
    """The objectives of `vanilla` and of the variants in `weights`, by `NAME`, or for several weights `NAME@WEIGHT`."""
    objectives = {"vanilla": Penalised(loss, "vanilla")}
    for name, given in weights.items():
        if isinstance(given, Sequence):
            objectives |= {f"{name}@{w:g}": Penalised(loss, name, w, decay=decay, steps=steps) for w in given}
        else:
            objectives[name] = Penalised(loss, name, given, decay=decay, steps=steps)
    return objectives


def tuning(outcomes: Mapping[str, Outcome]) -> dict[str, float]:
    """The metrics of a tuning run: `tune/NAME@WEIGHT/nfe` and `tune/NAME@WEIGHT/error`."""
    return {
        f"tune/{name}/{figure}": value
        for name, outcome in outcomes.items()
        for figure, value in (("nfe", outcome.evaluations), ("error", outcome.error))
    }


def chosen(
    values: Mapping[str, Sequence[float]], *, relative: float = 1.0, absolute: float = 0.0
) -> dict[str, tuple[float, float, float]]:
    """For each variant the weight of the fewest evaluations whose error is within what is tolerated of vanilla's.

    Medians over seeds are compared: an error may be `relative` times vanilla's, plus `absolute`. Where no weight keeps
    to it, that of the least error.

    **Arguments:** `values`: of the `result.json` of a tuning run. **Returns:** by variant the weight, and its
    evaluations and error over vanilla's.
    """
    medians = {name.removeprefix("tune/"): float(np.median(of_seeds)) for name, of_seeds in values.items()}
    nfe, error = medians["vanilla/nfe"], medians["vanilla/error"]
    best: dict[str, tuple] = {}
    for name in medians:
        arm, _, figure = name.rpartition("/")
        variant, _, weight = arm.partition("@")
        if figure == "nfe" and weight:
            off = max(0.0, medians[f"{arm}/error"] - (relative * error + absolute))
            rank = (off, medians[name], float(weight), medians[name] / nfe, medians[f"{arm}/error"] / max(error, 1e-30))
            best[variant] = min(best.get(variant, rank), rank)
    return {variant: rank[2:] for variant, rank in best.items()}


def ratios(outcomes: Mapping[str, Outcome], best: str) -> dict[str, float]:
    """Metrics: for each variant `NAME/nfe`, `NAME/error`, and over vanilla's `NAME/nfe_ratio`, `NAME/prediction_ratio`,
    `NAME/training_ratio` and `NAME/error_ratio`; the ratios of `best`, a regulariser chosen beforehand, without name.
    """
    metrics, vanilla = {}, outcomes["vanilla"]
    for name, outcome in outcomes.items():
        metrics |= {f"{name}/nfe": outcome.evaluations, f"{name}/error": outcome.error}
        if name != "vanilla":
            over = {
                "nfe_ratio": outcome.evaluations / vanilla.evaluations,
                "prediction_ratio": outcome.prediction_seconds / vanilla.prediction_seconds,
                "training_ratio": outcome.training_seconds / vanilla.training_seconds,
                "error_ratio": _over(outcome.error, vanilla.error),
            }
            metrics |= {f"{name}/{figure}": value for figure, value in over.items()}
            metrics |= over if name == best else {}
    return metrics


def _over(error: float, other: float) -> float:
    """The ratio, one of two zeros."""
    return error / other if other else math.inf if error else 1.0


def pareto(outcomes: Mapping[str, Outcome], axis: Any, error: str = "test error") -> None:
    """Draws on Matplotlib's `axis` the error of each arm against its evaluations."""
    for name, outcome in outcomes.items():
        marker = "*" if name == "vanilla" else "s" if name.partition("@")[0] in COMPETITORS else "o"
        axis.plot(outcome.evaluations, outcome.error, marker, markersize=12 if marker == "*" else 7, label=name)
    axis.set(xlabel="evaluations of the vector field", ylabel=error)
    axis.legend(fontsize=8)


def plot_steps(times: Mapping[str, np.ndarray], axis: Any) -> None:
    """Draws on Matplotlib's `axis` the length of each step of a solve, from the times at which they end."""
    for name, ends in times.items():
        ends = ends[np.isfinite(ends)]
        axis.step(ends, np.diff(ends, prepend=0.0), where="pre", label=f"{name}, {len(ends)} steps")
    axis.set(xlabel="time", ylabel="length of the step", yscale="log")
    axis.legend(fontsize=8)
