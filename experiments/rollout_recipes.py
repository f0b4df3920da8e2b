"""Train the same stepper by every recipe for the same time, and follow it.

Claim: at equal seconds and parameters within 5 %, medians over seeds,

    --preset ks             Kuramoto-Sivashinsky (D3): the refiner, or the tendency with Runge-Kutta steps, keeps its
                            correlation >= 1.15 times as long as one-step training of the next state
    --preset burgers        Burgers-Fisher (D5, 100 steps): the pushforward's error after 100 steps is <= 0.5 of
                            one-step training's; at lead times between those trained, pairs at all leads from 16
                            trajectories have <= 0.8 of the error of the same network trained on single steps
    --preset navier_stokes  Navier-Stokes (D4 on 32 x 32 points): the same recipes in two dimensions

PDE-Refiner reports 98 against 75 seconds on Kuramoto-Sivashinsky (arXiv:2308.05732), Predicting Change 184 against 140
steps (arXiv:2412.13074), message passing with pushforward arXiv:2202.03376, Poseidon's pairs arXiv:2405.19101, the
curriculum arXiv:2304.14118, SpecBoost arXiv:2404.07200.

    python experiments/rollout_recipes.py --preset ks --seeds 0 1 2 --data data

All arms are an FNO of the same size, but `resnet`, a residual network of the same width; all have the same learning
rate. `next-state` is `op(u)`, `one-step` and what follows `u + change op(u)`: the control of the tendency, and what the
others are to be compared with; `boosted` are two networks of half the size, half the time each, so `one-step` is its
control too; those of `curriculum` are `teacher-forced` (never its own states) and `unrolled` (always). `solver` is
ETDRK4 on the same grid, in one step (Navier-Stokes: eight) of the frames'.
The seconds of an arm (on a CPU those its process was given) are calibrated to steps once, written down, then trained; a
preset is meant to take twelve minutes a seed on one slow core. Each training is a cell in
`OUT/rollout_recipes/cells`, so a killed run resumes; a cell made under other code is used, and said to be.

`correlation_time` is the mean time for which a rollout's correlation with the truth is above 0.8; `error` the geometric
mean over the steps of the relative L2 error, `first` and `last` that after the first and the last step, medians over
rollouts; `high` the part of the first step's error in the upper third of the wavenumbers, `tail` that of the last state
(over the truth's whole); `finite` the share of rollouts that stay so; `time_over_BASE/ARM` and `last_over_BASE/ARM` are
an arm's `correlation_time` and `last` over those of `one-step` and of `next-state`. `leads-pairs` and `leads-single`
are told the lead, `leads-steps` is not and is interpolated; `unseen` is their error at leads half-way between those
trained, by steps, `unseen_direct` at once, and `unseen_over_ARM/leads-pairs` a ratio of the former.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from problems.cells import Record
from problems.recipes import ARMS, LEADS, Arm, AtLead, follow, size, trained
from problems.rollouts import Case, baselines, plot, read_case, roll

from opkit.data import content_hash
from opkit.training import Run, code_hash, launch, semigroup_defect

COMMON = (
    "next-state", "one-step", "resnet", "unrolled", "pushforward", "bundled", "teacher-forced", "curriculum", "noise",
    "pairs", "tendency", "refiner", "boosted",
)  # fmt: skip
EVERY, TRAJECTORIES = 10, 16


@dataclasses.dataclass(frozen=True)
class Config:
    """Which recipes, on which equation."""

    case: str = "ks"
    arms: tuple[str, ...] = (*COMMON, "diverted")
    seconds: float = 30.0
    """Of each training."""
    steps: int = 0
    """Of each training, in place of seconds."""
    leads: bool = False
    """Whether to compare pairs with steps between the times trained."""
    data: Path = Path("data")
    """The folder of the data files; what is missing is generated there."""


PRESETS = {
    "ks": Config(),
    "burgers": Config("burgers", (*COMMON, "label-free"), seconds=27.0, leads=True),
    "navier_stokes": Config("navier_stokes", (*COMMON, "diverted")),
}
SMOKE = {"steps": 2}


def spaced(case: Case) -> Case:
    """Few trajectories of every `EVERY`-th frame to train on; the test has those half-way between too."""
    train, args = case.train[:TRAJECTORIES, ::EVERY], case.train_args
    return dataclasses.replace(
        case,
        train=train,
        train_args=None if args is None else args[:TRAJECTORIES],
        test=case.test[:, :: EVERY // 2],
        dt=EVERY * case.dt,
        change=float(np.sqrt(np.mean(np.diff(train, axis=1) ** 2))),
    )


def at_leads(arm: Arm, case: Case, model: Any) -> Record:
    """The mean relative L2 error at lead times half-way between those trained, `unseen`, and at those, `seen`. A
    stepper's states are interpolated. What is told the lead goes by the trained steps, the last of them half of one;
    or at once, `direct`; `semigroup` is what it misses of being a semigroup."""
    truth, initial, args = case.test[:, 1:], case.test[:, :1], case.test_args
    halves, told = truth.shape[1], arm.build is LEADS["pairs"].build
    paths = {"": np.full(truth.shape, np.nan)} | ({"_direct": np.full(truth.shape, np.nan)} if told else {})
    record: Record = {"semigroup": np.nan} if told else {}
    if model is not None:
        lead = lambda part: AtLead(model, jnp.asarray(case.change * part, truth.dtype)) if told else model
        seen = np.concatenate([initial, roll(lead(1.0), case, halves // 2)], 1)
        between = (seen[:, :-1] + seen[:, 1:]) / 2
        if told:
            half, whole = lead(0.5), case.change
            step = lambda states, a: jax.vmap(lambda u: half(u, case.grid, args=a))(states)
            between = np.asarray(jax.jit(jax.vmap(step))(seen[:, :-1], args))
            paths["_direct"] = np.concatenate([roll(lead(i / 2), case, 1) for i in range(1, halves + 1)], 1)
            defect = lambda u, a: semigroup_defect(model, u, case.grid, whole, whole, args=a)
            record["semigroup"] = float(jnp.mean(jax.jit(jax.vmap(defect))(initial[:, 0], args)))
        paths[""] = np.stack([between, seen[:, 1:]], 2).reshape(truth.shape)
    for way, path in paths.items():
        path, target = (case.mean + case.std * u for u in (path, truth))
        axes = tuple(range(2, truth.ndim))
        errors = np.sqrt(np.mean((path - target) ** 2, axes) / np.mean(target**2, axes))
        errors = np.mean(np.where(np.isfinite(errors), errors, np.inf), 0)
        record |= {f"unseen{way}": float(errors[::2].mean()), f"seen{way}": float(errors[1::2].mean())}
    return record


def figures(records: dict[str, Record]) -> dict[str, float]:
    """Of every arm and baseline, and its ratios to the plain ones."""
    scalars = ("correlation_time", "error", "first", "last", "high", "tail", "finite", "semigroup")
    scalars += ("unseen", "seen", "unseen_direct", "seen_direct")
    costs = ("train_seconds", "steps", "parameters")
    metrics = {f"{q}/{name}": record[q] for name, record in records.items() for q in scalars + costs if q in record}
    for base in ("one-step", "next-state"):
        for ratio, quantity in (("time", "correlation_time"), ("last", "last")):
            if f"{quantity}/{base}" in metrics:
                below = metrics[f"{quantity}/{base}"] or float("nan")
                of = {name: metrics.get(f"{quantity}/{name}") for name in records}
                metrics |= {f"{ratio}_over_{base}/{name}": v / below for name, v in of.items() if v is not None}
    if "unseen/leads-pairs" in metrics:
        for other in ("single", "steps"):
            metrics[f"unseen_over_{other}/leads-pairs"] = (
                metrics["unseen/leads-pairs"] / metrics[f"unseen/leads-{other}"]
            )
    return metrics


def main(config: Config, run: Run) -> dict[str, float]:
    """Train, or read, every cell of one seed."""
    unknown = set(config.arms) - ARMS.keys()
    if unknown:
        raise ValueError(f"`arms` has {sorted(unknown)}; expected some of {sorted(ARMS)}.")
    case = read_case(config.case, config.data, smoke=run.smoke)
    data, code = content_hash((case.data, case.test)), code_hash(Path(__file__).resolve())
    run.record_data(data)
    budget = size(ARMS["one-step"], case, case.width)
    options = {"seconds": config.seconds, "steps": config.steps, "run": run, "code": code, "data": data}
    cell = partial(trained, budget=budget, **options)
    records = baselines(case)
    for name in config.arms:
        records[name] = cell(name, ARMS[name], case, evaluate=partial(follow, ARMS[name], case))
    run.save_figure(plot(records, case))
    if config.leads:
        few = spaced(case)
        for name, arm in LEADS.items():
            records[f"leads-{name}"] = cell(f"leads-{name}", arm, few, evaluate=partial(at_leads, arm, few))
    return figures(records)


if __name__ == "__main__":
    launch(main, Config, presets=PRESETS, smoke=SMOKE)
