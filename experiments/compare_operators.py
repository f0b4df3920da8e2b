"""Compare operators on the bench at equal budgets.

Claim: at parameters within 5 %, the same optimiser, schedule and steps (`--budget seconds`: the same training time),
each at the better of two learning rates on a tenth of the training set, medians over seeds 0, 1 and 2:

    --preset shocks      FNO with differential kernels <= 0.75 of FNO's error on D1, at 128 points and at 512
    --preset mgno        MgNO <= 0.7 of a residual network's error on D2
    --preset tfno        a Tucker FNO of rank 0.1 <= 1.1 of the error of the dense FNO of its width on 100 pairs of D4,
                         with <= 1/8 of the parameters
    --preset multionet   MultiONet <= 0.85 of DeepONet's error on D2
    --preset irregular   message passing on irregular points <= 1.3 of its error on regular ones, on D5
    --preset sinenet     SineNet with circular padding <= 0.6 of the error with zeros, in rollouts on D1
    --preset t1          Transform Once: step time <= 0.6 of FNO's, error <= 1.2, on D2
    --preset burgers16   rollouts beside FNO, ResNet and the classical solver

    python experiments/generate_bench.py --out data --sets d1 d2
    python experiments/compare_operators.py --problem d1 --operators fno local-fno --seeds 0 1 2 --data data

`--operators best` takes `problems.contestants.BEST` (on neuraloperator's Darcy data `fno_darcy.py --preset informed` is
better, by another training). A plain residual network, the constant mean and persistence stand beside. One training
takes at most `--seconds`; without `--steps` their number is calibrated to that (under `params` for the slowest, the
same for all; the residual network, where it only stands beside, has the same seconds instead). A trial has a third of
the steps. Each training, trial and timing is a cell in `OUT/compare_operators/cells`, found again by every table that
needs it, so a killed table resumes; a cell made under other code is used, and said to be. `table.md` and `result.json`
are above the seeds, `figure.png` in their folders. `relative_l2` is the mean over test samples of one output's relative
L2 error (of D8: the squared error over the variance), `rollout` that over all steps, `gflops` the operations of one
evaluation, `step_megabytes` the temporary memory of one gradient; `low`, `middle`, `high` are parts of the error by
wavenumber.
"""

import dataclasses
import json
import zlib
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from problems.bench import Problem, read_problem
from problems.cells import Record, baselines, cached, measure, step_megabytes, step_seconds, train, trial
from problems.contestants import BEST, CONTESTANTS, assemble, count, sizes

from opkit.data import content_hash
from opkit.training import Run, code_hash, count_flops, launch
from solvers import Points


@dataclasses.dataclass(frozen=True)
class Config:
    """Which operators, on which problems."""

    problem: tuple[str, ...] = ("d1",)
    operators: tuple[str, ...] = ("fno",)
    """Names of contestants, or `best`."""
    budget: Literal["params", "seconds"] = "params"
    parameters: int = 0
    """Of each operator, within 5 %; 0 for the problem's own number."""
    seconds: float = 150.0
    """The longest training."""
    steps: int = 0
    """Training steps; 0 to calibrate."""
    samples: int = 0
    """Training pairs; 0 for all."""
    learning_rates: tuple[float, ...] = (1e-3, 4e-3)
    """Tried on a tenth of the training set."""
    data: Path = Path("data")
    """The folder of the data files."""


PRESETS = {
    "shocks": Config(("d1",), ("fno", "fd-fno", "local-fno"), seconds=90),
    "mgno": Config(("d2",), ("mgno", "resnet"), parameters=40_000, seconds=100),
    "tfno": Config(("d4",), ("fno", "tfno"), samples=100, seconds=60),
    "multionet": Config(("d2",), ("deeponet", "multionet"), seconds=60),
    "irregular": Config(("d5", "d5-irregular"), ("mp",), seconds=60),
    "sinenet": Config(("d1-rollout",), ("sinenet", "sinenet-zero", "unet"), seconds=60),
    "t1": Config(("d2",), ("fno", "t1"), seconds=60),
    "nio": Config(("d7",), ("nio", "fcnn")),
    "burgers16": Config(("burgers16",), ("fno", "local-fno", "unet"), seconds=30),
}
CONTROL = "resnet"
SMOKE = {"steps": 2, "learning_rates": (1e-3,), "parameters": 4000}


def names_for(config: Config, problem: Problem) -> list[str]:
    """The contestants of a problem, the residual network among them where it fits."""
    names = [name for asked in config.operators for name in (BEST[problem.name] if asked == "best" else [asked])]
    scattered = isinstance(problem.domain, Points)
    if problem.kind in ("pairs", "steps") and not scattered:
        names.append(CONTROL)
    for name in names:
        if name not in CONTESTANTS:
            raise ValueError(f"`operators` has {name!r}; expected some of {sorted(CONTESTANTS)}, or best.")
        contestant = CONTESTANTS[name]
        if problem.kind not in contestant.kinds or (scattered and not contestant.points):
            raise ValueError(f"`operators` has {name!r}, which doesn't take the data of {problem.name}.")
    return list(dict.fromkeys(names))


def calibrated(
    config: Config, problem: Problem, shapes: dict[str, tuple[int, int]], folder: Path, run: Run
) -> dict[str, int]:
    """The number of steps of each operator; the time of one is measured once and then read."""
    if config.steps:
        return dict.fromkeys(shapes, config.steps)

    def timed(name: str, shape: tuple[int, int]) -> Record:
        model = assemble(CONTESTANTS[name], problem, *shape, key=jax.random.key(0))
        return {"step_seconds": step_seconds(model, problem)}

    steps = {}
    for name, shape in shapes.items():
        identity = {"problem": problem.name, "operator": name, "size": shape, "batch_size": problem.batch_size}
        seconds = cached(folder, identity | {"timed": True}, partial(timed, name, shape))["step_seconds"]
        run.print(f"{problem.name}: {name}, a step takes {1e3 * seconds:.3g} ms")
        steps[name] = max(10, int(config.seconds / seconds))
    if config.budget == "params":
        least = min(count for name, count in steps.items() if name != CONTROL or name in config.operators)
        steps = {
            name: count if name == CONTROL and name not in config.operators else least for name, count in steps.items()
        }
    return steps


def cells(run: Run) -> Path:
    """The folder that all tables share."""
    return run.directory.parents[1] / "cells"


def cell(
    config: Config, problem: Problem, name: str, shape: tuple[int, int], steps: int, data: str, code: str, run: Run
) -> Record:
    """One operator, one seed: its learning rate tried, then trained and measured, unless that is on disk."""
    contestant, folder = CONTESTANTS[name], cells(run)
    identity = {"problem": problem.name, "data": data, "samples": config.samples, "operator": name, "size": shape}
    identity |= {"steps": steps, "batch_size": problem.batch_size, "smoke": run.smoke}

    def built(seed: int) -> Any:
        key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
        return assemble(contestant, problem, *shape, key=key)

    def tried(rate: float) -> float:
        options: dict[str, Any] = {"learning_rate": rate, "steps": max(2, steps // 3), "seed": 1000}
        return cached(
            folder,
            identity | {"trial": rate},
            lambda: {"error": trial(built(1000), problem, **options), "code": code},
        )["error"]

    rates = config.learning_rates
    errors = {rate: tried(rate) for rate in rates} if len(rates) > 1 else dict.fromkeys(rates, 0.0)
    rate = min(errors, key=lambda rate: errors[rate])

    def make() -> Record:
        model = built(run.seed)
        options: dict[str, Any] = {"steps": steps, "seed": run.seed, "progress": not run.quiet}
        trained, seconds = train(model, problem, learning_rate=rate, **options)
        labels = [problem.trained_at] if contestant.fixed else list(problem.test)
        x = jax.ShapeDtypeStruct(problem.train[0].shape[1:], problem.train[0].dtype)
        cost = {
            "parameters": count(model),
            "gflops": count_flops(model, x, problem.domain) / 1e9,
            "step_ms": 1e3 * seconds / steps,
            "step_megabytes": step_megabytes(model, problem),
            "train_seconds": seconds,
            "learning_rate": rate,
            "steps": steps,
        }
        return {"cost": cost, "code": code, **measure(trained, problem, labels)}

    record = cached(folder, identity | {"learning_rate": rate, "seed": run.seed}, make)
    if record["code"] != code:
        run.print(f"{problem.name}: the cell of {name} was made under other code ({record['code']})")
    return record


def figures(problem: Problem, records: dict[str, Record]) -> dict[str, float]:
    """Of every operator and baseline, as `relative_l2/d1/fno@128`."""
    metrics = {}
    for name, record in records.items():
        place = f"{problem.name}/{name}"
        metrics |= {f"relative_l2/{place}@{label}": error for label, error in record["scores"].items()}
        metrics |= {f"{band}/{place}": error for band, error in record.get("bands", {}).items()}
        if "rollout" in record:
            metrics |= {f"rollout/{place}": float(np.mean(record["rollout"]))}
        if "seconds" in record:
            metrics |= {f"rollout_seconds/{place}": record["seconds"]}
        metrics |= {f"{quantity}/{place}": value for quantity, value in record.get("cost", {}).items()}
    return metrics


def table(metrics: list[dict[str, float]]) -> str:
    """Markdown: a row an operator, medians over the seeds with least and greatest of what was learned."""
    rows: dict[str, dict[str, str]] = {}
    for name in metrics[0]:
        quantity, problem, rest = name.split("/")
        operator, _, label = rest.partition("@")
        values = [of_seed[name] for of_seed in metrics]
        spread = f" ({min(values):.3g}..{max(values):.3g})" if min(values) < max(values) else ""
        text = f"{np.median(values):.4g}{spread}" if quantity != "parameters" else f"{values[0]:.0f}"
        rows.setdefault(f"{problem}: {operator}", {})[f"{quantity} {label}".strip()] = text
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = [["", *columns], ["---"] * (len(columns) + 1)]
    lines += [[name, *(row.get(column, "") for column in columns)] for name, row in rows.items()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def plot(records: dict[str, dict[str, Record]]) -> Any:
    """A row a problem: errors by resolution, their spectra, and rollouts."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(records), 3, figsize=(13, 3.6 * len(records)), squeeze=False, layout="constrained")
    for line, (problem, by_name) in zip(axes, records.items(), strict=True):
        for name, record in by_name.items():
            scores = record["scores"]
            line[0].plot(list(scores), list(scores.values()), "o-", label=name)
            line[1].semilogy(np.sqrt(record.get("spectrum", [])), label=name)
            line[2].semilogy(range(1, len(record.get("rollout", [])) + 1), record.get("rollout", []), label=name)
        line[0].set(ylabel=problem, title="error by resolution")
        line[0].legend(fontsize=7)
        line[1].set(title="error by wavenumber", xlabel="k")
        line[2].set(title="error in a rollout", xlabel="step")
    return figure


def main(config: Config, run: Run) -> dict[str, float]:
    """Train, or read, every cell of one seed."""
    code, hashes, metrics, pictures = code_hash(Path(__file__).resolve()), {}, {}, {}
    for asked in config.problem:
        problem = read_problem(asked, config.data, samples=config.samples, smoke=run.smoke)
        hashes[asked] = content_hash((problem.train, dict(problem.test)))
        budget = config.parameters or problem.parameters
        shapes = {name: sizes(name, problem, budget) for name in names_for(config, problem)}
        steps = calibrated(config, problem, shapes, cells(run), run)
        records = {n: cell(config, problem, n, s, steps[n], hashes[asked], code, run) for n, s in shapes.items()}
        for name, record in records.items():
            off = record["cost"]["parameters"] / budget - 1
            if abs(off) > 0.05:
                run.print(f"{asked}: {name} has {100 * off:+.0f} % of the budget's {budget} parameters")
        metrics |= figures(problem, {**records, **baselines(problem)})
        pictures[asked] = records
    run.record_data(content_hash({name: np.frombuffer(bytes.fromhex(h), np.uint8) for name, h in hashes.items()}))
    run.save_figure(plot(pictures))
    others = [json.loads(path.read_text()) for path in sorted(run.directory.parent.glob("seed*/result.json"))]
    text = table([*(other["metrics"] for other in others), metrics])
    (run.directory.parent / "table.md").write_text(text)
    return metrics


if __name__ == "__main__":
    launch(main, Config, presets=PRESETS, smoke=SMOKE)
