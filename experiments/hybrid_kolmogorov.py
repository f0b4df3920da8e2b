"""Correct a coarse solver of Kolmogorov's flow by a network, and compare it with the solver on more points.

Claim: at an equal error, or an equal time of correlation, the corrected solver takes at most a quarter of the seconds
of the solver alone, or the curve shows otherwise. Of two solvers: central differences of second order, the kind that is
corrected in the literature, and a spectral Galerkin method, of which a few points are accurate already.

Truth is the spectral method on `--flow.fine` points, seen on `--flow.coarse`. The networks have the same size, are
trained by the same steps on windows of `--unroll` steps, and correct the state once a frame: `differences+net` and
`spectral+net`, and `net`, which corrects no solver but the state kept, a learned stepper. Of each the better of two
learning rates by a trial of a third of the steps, judged on trajectories kept back. Beside them stand both solvers on
several numbers of points, with steps near the limit of stability and shorter ones (the curve is the best of both), and
the state kept. The solver on more points begins with what they show of the truth, more than the arms are told.

`error/NAME@T` is the mean relative L2 error on the coarse grid after the time T, over test trajectories,
`correlation_time/NAME@R` the mean time until the correlation falls below R (the whole test, where it doesn't),
`milliseconds/NAME` the median of a unit of time of one trajectory, all measured in turn at the end, compilation apart.
`speedup/ARM/KIND@...` is what the solver takes to be as good over what the arm takes, between its points by
logarithmic interpolation; where the arm is better than all of them it is a lower bound, where it is worse an upper one.
A seed is meant to take ten minutes on one core, and the truth, made once and kept in `OUT`, another three.

Um et al. (2020), Solver-in-the-loop, arXiv:2007.00016; Kochkov et al. (2021), Machine learning-accelerated
computational fluid dynamics, doi:10.1073/pnas.2101784118, which matches a solver of 8 to 10 times the resolution.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from problems.cells import optimiser
from problems.kolmogorov import Flow, WithForce, draw, solver, steps_a_frame
from problems.timing import medians
from problems.trials import at_better_rate

from opkit.data import Normalised, content_hash, fit_normaliser
from opkit.operators import FNO, ResNet
from opkit.training import (
    Corrected,
    Run,
    correlation_by_step,
    correlation_time,
    error_by_step,
    launch,
    relative_l2,
    unrolled,
)
from solvers import as_stepper, repeat, rollout, spectral

COURANT = {"differences": (1.6, 0.6), "spectral": (0.6, 0.3)}
CORRELATIONS = (0.95, 0.8)
BLOWN_UP = 100.0
"""What stands for an error beyond it."""


@dataclasses.dataclass(frozen=True)
class Config:
    """What is corrected, and how it is trained."""

    flow: Flow = dataclasses.field(default_factory=Flow)
    arms: tuple[str, ...] = ("differences+net", "spectral+net", "net")
    network: Literal["resnet", "fno"] = "resnet"
    width: int = 16
    depth: int = 2
    modes: int = 10
    """Of the Fourier operator."""
    unroll: int = 2
    steps: int = 1000
    batch_size: int = 8
    learning_rates: tuple[float, ...] = (2e-3, 8e-3)
    differences: tuple[int, ...] = (32, 48, 64, 96, 128, 192)
    """Points along an axis of the solver alone."""
    spectral: tuple[int, ...] = (32, 40, 48, 64, 80, 96)
    times: tuple[float, ...] = (1.0, 2.0, 4.0)
    rounds: int = 5
    """Of timing."""


SMOKE = {
    "flow": Flow(fine=32, coarse=16, warm_up=0.6, train=3, test=2, train_frames=6, test_frames=4),
    "width": 4,
    "depth": 1,
    "modes": 4,
    "unroll": 2,
    "steps": 2,
    "batch_size": 2,
    "learning_rates": (1e-3,),
    "differences": (16,),
    "spectral": (16,),
    "times": (0.4, 0.6),
    "rounds": 1,
}


def build(arm: str, config: Config, train: np.ndarray, key: jax.Array) -> Corrected:
    """The network's input and output are scaled by what it sees, and by what the solver leaves to it."""
    flow, n = config.flow, config.flow.coarse
    kind = arm.removesuffix("net").removesuffix("+")
    steps = steps_a_frame(flow, n, COURANT[kind][0]) if kind else 0
    base = repeat(solver(kind, flow, n, steps, "pad"), steps) if kind else lambda w: w
    before, after = (np.concatenate(part)[:: max(1, train.shape[1] // 20)] for part in (train[:, :-1], train[:, 1:]))
    stepped = np.asarray(jax.jit(lambda w: jax.lax.map(base, w))(jnp.asarray(before)))
    sizes: dict[str, Any] = {"width": config.width, "depth": config.depth, "coordinates": False, "key": key}
    if config.network == "fno":
        net = FNO(2, 1, modes=(config.modes,) * 2, **sizes)
    else:
        net = ResNet(2, 1, ndim=2, dilations=(1, 2), **sizes)
    scaled = Normalised(WithForce(net, flow.mode), fit_normaliser(stepped), fit_normaliser(after - stepped))
    return Corrected(base, scaled)


def trained(arm: str, config: Config, train: np.ndarray, run: Run) -> Corrected:
    """By the better learning rate."""
    grid, held = config.flow.grid(config.flow.coarse), max(1, len(train) // 6)
    objective = unrolled(relative_l2, grid, steps=config.unroll)

    def fitted(rate: float, steps: int, stage: str, trial: bool) -> Corrected:
        some = train[:-held] if trial else train
        sizes: dict[str, Any] = {"steps": steps, "batch_size": min(config.batch_size, len(some))}
        model = build(arm, config, train, jax.random.fold_in(run.key, 1))
        return run.fit(objective, model, some, optimiser(rate, steps), stage=stage, **sizes).model

    def error(model: Corrected) -> float:
        frames = round(max(config.times[:2]) / config.flow.frame)
        path = follow(as_stepper(model, grid), frames)(jnp.asarray(train[-held:, 0]))
        return float(jnp.mean(jax.vmap(error_by_step)(path, jnp.asarray(train[-held:, 1 : frames + 1]))))

    return at_better_rate(fitted, error, config.learning_rates, steps=config.steps, stage=arm)


def follow(step: Any, frames: int, every: int = 1) -> Callable[[jax.Array], jax.Array]:
    """The states after each frame, of a batch of initial ones, one trajectory at a time."""
    path = lambda w: rollout(step, frames * every, every=every)(w).states
    return jax.jit(lambda batch: jax.lax.map(path, batch))


def as_good(badness: float, curve: list[tuple[float, float]]) -> float:
    """The seconds of the best of a curve `(badness, seconds)`, where it is as good."""
    front: list[tuple[float, float]] = []
    for bad, cost in sorted(curve, key=lambda point: point[1]):
        if not front or bad < front[-1][0]:
            front.append((bad, cost))
    bad, cost = np.log(np.array(front[::-1])).T
    return float(np.exp(np.interp(np.log(badness), bad, cost)))


def main(config: Config, run: Run) -> dict[str, float]:
    """Draw, train every arm, and follow the test trajectories by all."""
    flow = config.flow
    data = draw(flow, run.directory.parents[1])
    run.record_data(content_hash(data))
    fine, coarse = flow.grid(flow.fine), flow.grid(flow.coarse)
    truth = jnp.asarray(data["test"])
    paths = {"kept": jnp.broadcast_to(truth[:, :1], truth[:, 1:].shape)}
    calls: dict[str, Callable[[], Any]] = {}
    unit = max(1, round(1.0 / flow.frame))

    def add(name: str, step: Any, points: int, every: int) -> None:
        grid = flow.grid(points)
        initial = jax.jit(jax.vmap(lambda w: spectral.resample(w, fine, grid)))(jnp.asarray(data["initial"]))
        back = jax.jit(jax.vmap(jax.vmap(lambda w: spectral.resample(w, grid, coarse))))
        paths[name] = back(follow(step, flow.test_frames, every)(initial))
        timed = jax.jit(repeat(step, unit * every))
        calls[name] = lambda: timed(initial[0])

    curves: dict[str, list[str]] = {}
    for kind, numbers in {"differences": config.differences, "spectral": config.spectral}.items():
        tried = [(n, steps) for n in numbers for steps in sorted({steps_a_frame(flow, n, c) for c in COURANT[kind]})]
        curves[kind] = [f"{kind}-{n}-{steps}" for n, steps in tried]
        for name, (n, steps) in zip(curves[kind], tried, strict=True):
            add(name, solver(kind, flow, n, steps), n, steps)
    for arm in config.arms:
        add(arm, as_stepper(trained(arm, config, data["train"], run), coarse), flow.coarse, 1)
    cost = medians(calls, config.rounds)

    errors = {name: np.asarray(jax.vmap(error_by_step)(path, truth[:, 1:])).mean(0) for name, path in paths.items()}
    likeness = {name: jax.vmap(correlation_by_step)(path, truth[:, 1:]) for name, path in paths.items()}
    metrics = {f"milliseconds/{name}": 1e3 * value for name, value in cost.items()}
    badness: dict[str, dict[str, float]] = {}  # by label and name
    for t in config.times:
        badness[f"{t:g}"] = {name: float(by_step[round(t / flow.frame) - 1]) for name, by_step in errors.items()}
        metrics |= {f"error/{name}@{t:g}": min(value, BLOWN_UP) for name, value in badness[f"{t:g}"].items()}
    for r in CORRELATIONS:
        lasts = {name: jax.vmap(lambda c, r=r: correlation_time(c, flow.frame, r))(c) for name, c in likeness.items()}
        means = {name: float(jnp.mean(values)) for name, values in lasts.items()}
        metrics |= {f"correlation_time/{name}@{r:g}": value for name, value in means.items()}
        badness[f"{r:g}"] = {name: 1 / max(value, 1e-6) for name, value in means.items()}
    for label, bad in badness.items():
        for arm in config.arms:
            for kind, names in curves.items():
                equal = as_good(bad[arm], [(bad[name], cost[name]) for name in names])
                metrics[f"speedup/{arm}/{kind}@{label}"] = equal / cost[arm]
    run.save_figure(plot(config, curves, metrics, errors))
    return metrics


def plot(config: Config, curves: Mapping[str, list[str]], metrics: Mapping[str, float], errors: Any) -> Any:
    """Error and time of correlation against seconds, and the error over time."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    t, r = config.times[len(config.times) // 2], CORRELATIONS[0]
    shown = {
        f"relative L2 error at time {t:g}": f"error/{{}}@{t:g}",
        f"time of a correlation above {r:g}": f"correlation_time/{{}}@{r:g}",
    }
    for axis, (title, quantity) in zip(axes, shown.items(), strict=False):
        for label, names in {**curves, **{arm: [arm] for arm in config.arms}}.items():
            points = [(metrics[f"milliseconds/{name}"], metrics[quantity.format(name)]) for name in names]
            axis.loglog(*zip(*points, strict=True), "o" if label in curves else "*", markersize=8, label=label)
            for name, point in zip(names, points, strict=True):
                axis.annotate(name.partition("-")[2] if label in curves else "", point, fontsize=6)
        axis.set(xlabel="milliseconds a unit of time", title=title)
    axes[0].legend(fontsize=8)
    for name in ("kept", *config.arms, *(names[0] for names in curves.values())):
        axes[2].semilogy(config.flow.frame * np.arange(1, 1 + len(errors[name])), errors[name], label=name)
    axes[2].set(xlabel="time", title="relative L2 error", ylim=(1e-3, 3))
    axes[2].legend(fontsize=8)
    return figure


if __name__ == "__main__":
    launch(main, Config, smoke=SMOKE)
