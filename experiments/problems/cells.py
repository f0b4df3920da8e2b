"""One training of one operator on one problem: its optimiser, its cost and what is measured of it."""

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from opkit.training import (
    NonFiniteLoss,
    Objective,
    band_errors,
    by_path,
    error_spectrum,
    evaluate,
    fit,
    from_first,
    relative_l2,
    supervised,
)
from solvers import Domain, Grid

from .bench import Problem
from .darcy import interpolated

Record = dict[str, Any]


def cached(folder: Path, identity: Record, make: Callable[[], Record]) -> Record:
    """What `make` returns, kept in a file named for `identity`, or what is there already. Of many processes all make it
    together; the first keeps it, and tells the others."""
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    path = folder / f"{name}.json"
    made = None if from_first(path.exists) else {"identity": identity, **make()}

    def kept() -> Record:
        if made is not None:
            folder.mkdir(parents=True, exist_ok=True)
            whole = path.with_suffix(".unfinished")
            whole.write_text(json.dumps(made, indent=1))
            whole.replace(path)
        return json.loads(path.read_text())

    return from_first(kept)


def optimiser(learning_rate: float, steps: int) -> optax.GradientTransformation:
    """AdamW with clipped gradients; a linear warm-up over a tenth of the steps, then a cosine to zero."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, max(1, steps // 10), max(2, steps))
    weights = by_path(lambda path: not path.endswith("bias"))
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=1e-4, mask=weights))


def train(
    model: Any,
    problem: Problem,
    *,
    learning_rate: float,
    steps: int,
    seed: int,
    objective: Objective | None = None,
    progress: bool = False,
) -> tuple[Any, float]:
    """The trained model, and the seconds that took without compilation. **Raises:** `NonFiniteLoss`."""
    compiled, began = [], time.perf_counter()
    state = fit(
        objective or supervised(problem.loss, problem.domain),
        model,
        problem.train,
        optimiser(learning_rate, steps),
        steps=steps,
        batch_size=min(problem.batch_size, len(problem.train[0])),
        seed=seed,
        on_compile=compiled.append,
        progress=progress,
    )
    return state.model, time.perf_counter() - began - sum(compiled)


def step_seconds(model: Any, problem: Problem, steps: int = 5) -> float:
    """The time of a training step, the second of two chunks: what compiles and warms up is in the first."""
    stamps: list[float] = []
    fit(
        supervised(problem.loss, problem.domain),
        model,
        problem.train,
        optimiser(1e-6, 2 * steps),
        steps=2 * steps,
        chunk=steps,
        batch_size=min(problem.batch_size, len(problem.train[0])),
        seed=0,
        log=lambda step, figures: stamps.append(time.perf_counter()),
    )
    return (stamps[1] - stamps[0]) / steps


def step_megabytes(model: Any, problem: Problem) -> float:
    """Temporary memory of the gradient over one batch."""
    x, y = (jnp.asarray(a[: problem.batch_size]) for a in problem.train)

    def mean(model: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.mean(jax.vmap(lambda u, v: problem.loss(model(u, problem.domain), v, problem.domain))(x, y))

    arrays, static = eqx.partition(model, eqx.is_inexact_array)
    gradient = jax.grad(lambda arrays, x, y: mean(eqx.combine(arrays, static), x, y))
    memory = jax.jit(gradient).lower(arrays, x, y).compile().memory_analysis()
    return memory.temp_size_in_bytes / 1e6 if memory else float("nan")


def trial(model: Any, problem: Problem, **options: Any) -> float:
    """The error on a tenth of the training set after training on the rest; infinite where training fails."""
    try:
        held = problem.split(10)
        trained, _ = train(model, held, **options)
        return score(trained, held, [held.trained_at])[held.trained_at]
    except NonFiniteLoss:
        return float("inf")


def better_rate(build: Callable[[int], Any], problem: Problem, rates: tuple[float, ...], **options: Any) -> float:
    """The learning rate of the least error in a trial of `build(seed)`; a single one is not tried."""
    if len(rates) == 1:
        return rates[0]
    errors = [trial(build(1000), problem, learning_rate=rate, seed=1000, **options) for rate in rates]
    return rates[int(np.argmin(errors))]


def score(model: Any, problem: Problem, labels: list[str]) -> dict[str, float]:
    """The mean error over the test samples, by label."""
    test = {label: problem.test[label] for label in labels}
    errors = evaluate(model, test, {"error": problem.loss}, problem.domains, batch_size=32)
    return {label: float(np.mean(errors[f"error@{label}"])) for label in labels}


def measure(model: Any, problem: Problem, labels: list[str]) -> Record:
    """Errors by label; `spectrum` and `bands` of the error at the training resolution; the errors of a rollout."""
    record: Record = {"scores": score(model, problem, labels)}
    if isinstance(problem.domain, Grid) and problem.kind in ("pairs", "steps"):
        x, y = problem.test[problem.trained_at]
        x, y = x[:256], y[:256]
        predictions = np.asarray(_apply(model, x, problem.domain))
        record["spectrum"] = error_spectrum(predictions - y, y, problem.domain, periodic=problem.periodic).tolist()
        record["bands"] = band_errors(record["spectrum"])
    if problem.states is not None:
        step = lambda u: jnp.concatenate([model(u, problem.domain), u[problem.outputs :]])
        record["rollout"], record["seconds"] = rolled_out(step, problem)
    return record


@eqx.filter_jit
def _apply(model: Any, x: Any, domain: Domain) -> jax.Array:
    return jax.lax.map(lambda u: model(u, domain), x, batch_size=32)


def rolled_out(step: Callable[[Any], Any], problem: Problem) -> tuple[list[float], float]:
    """The mean over samples of the relative L2 error after 1, 2, ... steps, and the seconds a second run takes."""
    states, moving = problem.states, problem.outputs
    assert states is not None
    initial = jnp.asarray(states[:, 0])
    rest = len(states[0]) - 1

    def one(u: Any) -> Any:
        return jax.lax.scan(lambda u, _: ((v := step(u)), v[:moving]), u, length=rest)[1]

    run = jax.jit(lambda u: jax.lax.map(one, u, batch_size=16))
    path = np.asarray(run(initial))
    began = time.perf_counter()
    jax.block_until_ready(run(initial))
    return path_errors(path, problem), time.perf_counter() - began


def path_errors(path: np.ndarray, problem: Problem) -> list[float]:
    """The same, of states `(samples, steps, channels, *n)`."""
    assert problem.states is not None
    truth = problem.states[:, 1:, : problem.outputs]
    errors = jax.vmap(jax.vmap(lambda a, b: relative_l2(a, b, problem.domain)))(jnp.asarray(path), jnp.asarray(truth))
    return np.asarray(errors).mean(0).tolist()


def baselines(problem: Problem) -> dict[str, Record]:
    """What learns nothing: the mean output, and the input itself where it is a state of the same kind; where there is
    one, the classical solver."""
    mean = problem.train[1].mean(0, keepdims=True)
    guesses = {"constant": {}, "persistence": {}} if problem.periodic else {"constant": {}}
    for label, (u, target) in problem.test.items():
        there, here = problem.domains[label], problem.domain
        field = (
            interpolated(mean, here, there)
            if isinstance(here, Grid) and isinstance(there, Grid) and target.ndim > 2
            else mean
        )
        guesses["constant"][label] = np.broadcast_to(field, target.shape)
        if problem.periodic:
            guesses["persistence"][label] = u[:, : problem.outputs]
    records: dict[str, Record] = {
        name: {"scores": {label: _error(problem, label, guess) for label, guess in by_label.items()}}
        for name, by_label in guesses.items()
    }
    if problem.states is not None:
        states = problem.states[:, :, : problem.outputs]
        still = np.broadcast_to(states[:, :1], states[:, 1:].shape)
        records["persistence"]["rollout"] = path_errors(still, problem)
        records["constant"]["rollout"] = path_errors(np.broadcast_to(mean[:, None], still.shape), problem)
        for name, step in problem.classical.items():
            errors, seconds = rolled_out(step, problem)
            records[name] = {"scores": {}, "rollout": errors, "seconds": seconds}
    return records


def _error(problem: Problem, label: str, guess: np.ndarray) -> float:
    target, domain = problem.test[label][1], problem.domains[label]
    loss = jax.vmap(lambda a, b: problem.loss(a, b, domain))
    return float(jnp.mean(loss(jnp.asarray(guess), jnp.asarray(target))))
