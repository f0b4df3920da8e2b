"""Split steps of Navier-Stokes (D4) into interleaved coarse fields, each with a network of its own (NeuralStagger).

Claim: at equal parameters and training steps, four Fourier operators of half the width, each on every second point of
both axes, make a step in at most 1.1 of the time of one on all points, one of them in at most 0.35 (what a device of
its own takes, as the parts never exchange anything), and their error is at most 1.5 times as large.

    python experiments/generate_bench.py --out data --sets d4
    python experiments/neural_stagger.py --data data --seeds 0 1 2

`full` is the one operator, `space` the four; `space-time` has four as well: on every second point of one axis, of two
successive states, each of which it moves two steps on. `narrow` is one of half the width on all points, with a quarter
of the parameters: what thinness alone would do. Each at the better of two learning rates in a trial of a third of the
steps on a tenth of the training set.

`error/NAME@K` is the mean relative L2 error K steps after the last state given, over test trajectories from several
times; `round_trip` the largest difference of a field and its parts put together, which is zero. `serial/NAME`,
`device/NAME` and `training/NAME` are medians over those of `full`, in turn in one run: all operators of a step, one of
them, and a step of training. The arms are meant to take eight minutes a seed on one core.

Huang et al. (2023), NeuralStagger, arXiv:2302.10255.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from problems.cells import optimiser
from problems.contestants import Increment, count
from problems.timing import medians
from problems.trials import at_better_rate

from opkit.data import Normalised, Normaliser, content_hash, fit_normaliser, read_trajectories
from opkit.layers import stagger, unstagger
from opkit.operators import FNO, Staggered
from opkit.training import Run, error_by_step, launch, one_step, relative_l2, unroll
from solvers import Grid

ARMS: dict[str, tuple[tuple[int, int], int, int]] = {
    "full": ((1, 1), 1, 1),
    "space": ((2, 2), 1, 2),
    "space-time": ((2, 1), 2, 2),
    "narrow": ((1, 1), 1, 2),
}
"""The factor, the states at a time, and of which part of the width."""


@dataclasses.dataclass(frozen=True)
class Config:
    """What is split, and how it is trained."""

    data: Path = Path("data")
    """The folder of `d4.h5`."""
    arms: tuple[str, ...] = ("space", "space-time", "narrow")
    """Beside `full`."""
    width: int = 16
    """Of `full`."""
    depth: int = 4
    modes: int = 8
    steps: int = 400
    batch_size: int = 8
    learning_rates: tuple[float, ...] = (1e-3, 4e-3)
    horizon: int = 10
    rounds: int = 9
    """Of timing."""


SMOKE = {"width": 4, "depth": 1, "modes": 3, "steps": 2, "learning_rates": (1e-3,), "horizon": 4, "rounds": 1}


def states(config: Config, smoke: bool) -> list[np.ndarray]:
    """Training and test trajectories `(samples, time, 1, n, n)`."""
    if smoke:
        rng = np.random.default_rng(0)
        return [rng.normal(size=(n, 12, 1, 16, 16)).astype(np.float32) for n in (8, 2)]
    path = config.data / "d4.h5"
    if not path.exists():
        raise ValueError(
            f"`data` is {config.data}, where d4.h5 is missing: make it by `python experiments/generate_bench.py --out "
            f"{config.data} --sets d4`."
        )
    return [read_trajectories(path, part).states for part in ("train", "test")]


def build(arm: str, config: Config, key: jax.Array) -> Any:
    """The operator of an arm, of normalised fields."""
    factor, frames, thinner = ARMS[arm]
    width = config.width // thinner
    one = partial(FNO, 1, 1, modes=(config.modes,) * 2, width=width, depth=config.depth)
    parts = frames * factor[0] * factor[1]
    if parts == 1:
        return one(key=key)
    return Staggered([one(key=k) for k in jax.random.split(key, parts)], factor=factor, frames=frames)


def physical(op: Any, scale: Normaliser, frames: int) -> Normalised:
    """The stepper that adds what the operator makes, of so many physical fields."""
    each = Normaliser(*(jnp.tile(statistic.value, frames) for statistic in (scale.mean, scale.std)))
    return Normalised(Increment(op, frames), each, each)


def errors(model: Any, frames: int, paths: np.ndarray, grid: Grid, horizon: int) -> np.ndarray:
    """Mean over trajectories, of the steps after state 1, 11, ..., which is the last given of `frames` (1 or 2)."""
    starts = range(1, paths.shape[1] - horizon, 10)
    given = np.concatenate([paths[:, t + 1 - frames : t + 1] for t in starts])
    truth = np.concatenate([paths[:, t + 1 : t + 1 + horizon] for t in starts])
    return np.asarray(_errors(model, jnp.asarray(given), jnp.asarray(truth), grid)).mean(0)


@eqx.filter_jit
def _errors(model: Any, given: jax.Array, truth: jax.Array, grid: Grid) -> jax.Array:
    frames, horizon = given.shape[1], truth.shape[1]

    def one(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
        path = unroll(model, pair[0], grid, steps=-(-horizon // frames), bundle=frames)
        return error_by_step(path[:horizon], pair[1])

    return jax.lax.map(one, (given, truth), batch_size=8)


@eqx.filter_jit
def _step(model: Any, u: jax.Array, grid: Grid) -> jax.Array:
    return jax.vmap(lambda v: model(v, grid))(u)


@eqx.filter_jit
def _slope(model: Any, windows: jax.Array, grid: Grid, frames: int) -> Any:
    objective = one_step(relative_l2, grid, frames=frames, bundle=frames)
    value = lambda model: objective(model, windows, key=jax.random.key(0), carry=None)[0]["data"].value
    return eqx.filter_grad(value)(model)


def ratios(models: dict[str, Any], scale: Normaliser, windows: np.ndarray, grid: Grid, rounds: int) -> dict[str, float]:
    """Time of a step to the next state, by all operators and by one of them, and of training, over those of `full`."""
    calls, weights = {}, {}
    for arm, model in models.items():
        factor, frames, _ = ARMS[arm]
        u = jnp.asarray(windows[:, : 2 * frames])
        calls[f"serial/{arm}"] = partial(_step, model, u[:, :frames, 0], grid)
        calls[f"training/{arm}"] = partial(_slope, model, u, grid, frames)
        weights |= {f"serial/{arm}": frames, f"device/{arm}": frames}  # a call makes or moves on so many states
        if isinstance(model.op.op, Staggered):
            coarse = grid.resized([n // s for n, s in zip(grid.shape, factor, strict=True)])
            one = physical(model.op.op.part(0), scale, 1)
            calls[f"device/{arm}"] = partial(_step, one, u[:, 0, :, :: factor[0], :: factor[1]], coarse)
    seconds = {name: cost / weights.get(name, 1) for name, cost in medians(calls, rounds).items()}
    base = {kind: seconds[f"{kind.replace('device', 'serial')}/full"] for kind in ("serial", "device", "training")}
    over = {name: cost / base[name.partition("/")[0]] for name, cost in seconds.items() if not name.endswith("/full")}
    return {"milliseconds/full": 1e3 * base["serial"], **over}


def main(config: Config, run: Run) -> dict[str, float]:
    """Train the arms, follow the test trajectories, and time all in turn."""
    train, test = states(config, run.smoke)
    run.record_data(content_hash((train, test)))
    grid, scale = Grid(train.shape[3:]), fit_normaliser(train.reshape(-1, *train.shape[2:]))
    held = max(1, len(train) // 10)

    def learned(arm: str) -> Normalised:
        frames = ARMS[arm][1]
        objective = one_step(relative_l2, grid, frames=frames, bundle=frames)

        def fitted(rate: float, steps: int, stage: str, trial: bool) -> Normalised:
            model = physical(build(arm, config, jax.random.fold_in(run.key, 1)), scale, frames)
            some = train[:-held] if trial else train
            sizes: dict[str, Any] = {"steps": steps, "batch_size": min(config.batch_size, len(some))}
            return run.fit(objective, model, some, optimiser(rate, steps), stage=stage, **sizes).model

        first = lambda model: float(errors(model, frames, train[-held:], grid, 2)[0])
        return at_better_rate(fitted, first, config.learning_rates, steps=config.steps, stage=arm)

    models = {arm: learned(arm) for arm in ("full", *config.arms)}
    by_step = {arm: errors(model, ARMS[arm][1], test, grid, config.horizon) for arm, model in models.items()}
    by_step["kept"] = errors(lambda u, *rest, **options: u, 1, test, grid, config.horizon)
    metrics = {f"parameters/{arm}": float(count(model.op)) for arm, model in models.items()}
    for name, values in by_step.items():
        metrics |= {f"error/{name}@{k}": float(values[k - 1]) for k in (1, 2, 5, 10) if k <= config.horizon}
    for arm in config.arms:
        metrics |= {f"error_ratio/{arm}@{k}": metrics[f"error/{arm}@{k}"] / metrics[f"error/full@{k}"] for k in (1, 2)}
    u = jnp.asarray(test[:, 0])
    there = jax.vmap(lambda v: unstagger(stagger(v, 2), 2))(u)
    metrics |= {"round_trip": float(jnp.abs(there - u).max())}
    metrics |= ratios(models, scale, test[:8], grid, config.rounds)
    run.save_figure(plot(by_step, metrics))
    return metrics


def plot(by_step: dict[str, np.ndarray], metrics: dict[str, float]) -> Any:
    """Errors by step, and first errors against the time of a step on one device and on several."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for name, values in by_step.items():
        left.semilogy(range(1, 1 + len(values)), values, label=name)
    times = {"full": 1.0} | {name: cost for name, cost in metrics.items() if name.startswith(("serial", "device"))}
    for name, cost in times.items():
        right.plot(cost, by_step[name.rpartition("/")[2]][0], "*" if "device" in name else "o", label=name)
    left.set(xlabel="step", title="relative L2 error")
    right.set(xlabel="time of a step over that of full", title="error after a step", xlim=(0, None), ylim=(0, None))
    left.legend(fontsize=8)
    right.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    launch(main, Config, smoke=SMOKE)
