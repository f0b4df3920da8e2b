"""Train steppers of Navier-Stokes flow (D4) with their layers in bfloat16, weights and transforms in float32.

Claim: the error after one step is at most 1.02 of that of the same training in float32, for an FNO, a U-Net and a
residual network, medians over seeds 0, 1 and 2; milliseconds and temporary memory of a training step stand beside it.

Source: Micikevicius et al. (2018), Mixed precision training, arXiv:1710.03740.

Of D4's points every second is taken along both axes: a core is two to three times slower in bfloat16, and on all of
them two of the three networks learn nothing in the time. Both trainings of a seed begin with the same weights and take
the same batches, as many as the slower of the two takes in `seconds`, at the same learning rate: the better of two for
float32, on a tenth of the training set. What normalises, and the sum of the state and its change, stay in float32: in
sixteen bits that sum alone has an error of 0.4 %. Each training, trial and timing is a cell in
`OUT/mixed_precision/cells`, so that a killed run resumes.
`relative_l2` and `rollout` (the mean over ten steps) are over a tenth of the test pairs and 16 of the trajectories.

Cost: is meant to take ten minutes a seed on one core, where what is seen is the error. For time and memory take a GPU
with `--preset gpu` (all points, larger networks), which takes as long.

    python experiments/generate_bench.py --out data --sets d4
    python experiments/mixed_precision.py --data data --seeds 0 1 2
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from problems.bench import Problem, read_problem
from problems.cells import Record, baselines, better_rate, cached, measure, step_megabytes, step_seconds, train
from problems.contestants import CONTESTANTS, assemble, count, sizes

from opkit.data import content_hash
from opkit.training import MixedPrecision, Run, code_hash, launch


@dataclasses.dataclass(frozen=True)
class Config:
    """Which networks, and how long they train."""

    arms: tuple[str, ...] = ("fno", "unet", "resnet")
    """Names of contestants."""
    parameters: int = 0
    """Of each; 0 for its number in `PARAMETERS`."""
    problem: str = "d4-coarse"
    """`d4`, or every second of its points along both axes."""
    seconds: float = 75.0
    """The longest training."""
    steps: int = 0
    """Training steps; 0 to calibrate."""
    samples: int = 2000
    """Training pairs."""
    learning_rates: tuple[float, ...] = (1e-3, 4e-3)
    data: Path = Path("data")
    """The folder of the data files."""


PARAMETERS = {"fno": 250_000, "unet": 50_000, "resnet": 12_000}  # by what a training step takes
PRECISIONS = ("float32", "bfloat16")
PRESETS = {"gpu": Config(problem="d4", parameters=4_000_000, samples=8000, seconds=60)}
SMOKE = {"steps": 2, "learning_rates": (1e-3,), "parameters": 4000}


def thinned(problem: Problem) -> Problem:
    """With a tenth of the test pairs, and 16 trajectories."""
    test = {label: (x[::10], y[::10]) for label, (x, y) in problem.test.items()}
    return dataclasses.replace(problem, test=test, states=None if problem.states is None else problem.states[:16])


def built(name: str, problem: Problem, size: tuple[int, int], precision: str, seed: int) -> Any:
    """The stepper; `precision` is that of the network inside."""
    model = assemble(CONTESTANTS[name], problem, *size, key=jax.random.key(seed))
    if precision == "float32":
        return model
    return eqx.tree_at(lambda model: model.op.op, model, replace_fn=MixedPrecision)


def arm(config: Config, problem: Problem, name: str, identity: Record, code: str, run: Run) -> dict[str, Record]:
    """One network by precision: calibrated, its learning rate tried, trained and measured, unless that is on disk."""
    folder = run.directory.parents[1] / "cells"
    size = sizes(name, problem, config.parameters or PARAMETERS[name])
    identity = identity | {"arm": name, "size": size}
    build = partial(built, name, problem, size)

    def timed(precision: str) -> float:
        make = lambda: {"step_seconds": step_seconds(build(precision, 0), problem)}
        seconds = cached(folder, identity | {"timed": precision}, make)["step_seconds"]
        run.print(f"{name} in {precision}: a step takes {1e3 * seconds:.3g} ms")
        return seconds

    steps = config.steps or max(10, int(config.seconds / max(map(timed, PRECISIONS))))
    tried = lambda: {
        "rate": better_rate(partial(build, "float32"), problem, config.learning_rates, steps=max(2, steps // 3))
    }
    rate = cached(folder, identity | {"steps": steps, "rates": config.learning_rates}, tried)["rate"]

    def trained(precision: str) -> Record:
        model = build(precision, run.seed)
        options: dict[str, Any] = {"learning_rate": rate, "steps": steps, "seed": run.seed, "progress": not run.quiet}
        found, seconds = train(model, problem, **options)
        cost = {
            "step_ms": 1e3 * seconds / steps,
            "step_megabytes": step_megabytes(model, problem),
            "parameters": count(model),
            "steps": steps,
            "learning_rate": rate,
        }
        return {"cost": cost, "code": code, **measure(found, problem, [problem.trained_at])}

    def cell(precision: str) -> Record:
        which = {"precision": precision, "steps": steps, "learning_rate": rate, "seed": run.seed}
        record = cached(folder, identity | which, partial(trained, precision))
        if record["code"] != code:
            run.print(f"the cell of {name} in {precision} was made under other code ({record['code']})")
        return record

    return {precision: cell(precision) for precision in PRECISIONS}


def figures(name: str, record: Record, label: str) -> dict[str, float]:
    """Of a training or a baseline."""
    errors = {f"relative_l2/{name}@{label}": record["scores"][label], f"rollout/{name}": np.mean(record["rollout"])}
    return errors | {f"{quantity}/{name}": value for quantity, value in record.get("cost", {}).items()}


def ratios(name: str, wide: Record, narrow: Record, label: str) -> dict[str, float]:
    """bfloat16 over float32."""
    return {
        f"error_ratio/{name}": narrow["scores"][label] / wide["scores"][label],
        f"rollout_ratio/{name}": np.mean(narrow["rollout"]) / np.mean(wide["rollout"]),
        f"time_ratio/{name}": narrow["cost"]["step_ms"] / wide["cost"]["step_ms"],
        f"memory_ratio/{name}": narrow["cost"]["step_megabytes"] / wide["cost"]["step_megabytes"],
    }


def plot(records: dict[str, dict[str, Record]]) -> Any:
    """The error by wavenumber and in a rollout, dashed in bfloat16."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for number, (name, by_precision) in enumerate(records.items()):
        for style, (precision, record) in zip(("-", "--"), by_precision.items(), strict=True):
            options: dict[str, Any] = {"color": f"C{number}", "linestyle": style, "label": f"{name}, {precision}"}
            axes[0].semilogy(np.sqrt(record["spectrum"]), **options)
            axes[1].semilogy(range(1, 1 + len(record["rollout"])), record["rollout"], **options)
    axes[0].set(title="error by wavenumber", xlabel="k")
    axes[1].set(title="error in a rollout", xlabel="step")
    axes[1].legend(fontsize=7)
    return figure


def main(config: Config, run: Run) -> dict[str, float]:
    """Train, or read, every cell of one seed."""
    unknown = set(config.arms) - PARAMETERS.keys()
    if unknown:
        raise ValueError(f"`arms` has {sorted(unknown)}; expected some of {sorted(PARAMETERS)}.")
    problem = thinned(read_problem(config.problem, config.data, samples=config.samples, smoke=run.smoke))
    data = content_hash((problem.train, dict(problem.test)))
    run.record_data(data)
    code, label = code_hash(Path(__file__).resolve()), problem.trained_at
    identity = {"data": data, "batch_size": problem.batch_size, "seconds": config.seconds, "smoke": run.smoke}
    records = {name: arm(config, problem, name, identity, code, run) for name in config.arms}
    metrics: dict[str, float] = {}
    for name, by_precision in records.items():
        metrics |= ratios(name, by_precision["float32"], by_precision["bfloat16"], label)
    for name, by_precision in records.items():
        for precision, record in by_precision.items():
            metrics |= figures(f"{name}/{precision}", record, label)
    for name, record in baselines(problem).items():
        metrics |= figures(name, record, label)
    run.save_figure(plot(records))
    return metrics


if __name__ == "__main__":
    launch(main, Config, presets=PRESETS, smoke=SMOKE)
