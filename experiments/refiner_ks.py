"""Keep the weak modes of Kuramoto-Sivashinsky right by refinement, at what cost.

Claim: a convolutional network of width 24 trained as PDE-Refiner (two refinements) keeps its correlation with D3's
truth >= 1.15 times as long as the same network trained on the mean square error for the same seconds, and as one with
three times the operations, which is what a step of the refiner costs; the error of the first step in the upper third of
the wavenumbers is <= 0.5 of either's.

Lippe et al. (2023), PDE-Refiner, arXiv:2308.05732, report 98 against 75 seconds with a network of 64 channels and 400
epochs. Here `one-step` is `u + change op(u)` trained on pairs, `larger` the same with three times the parameters,
`refiner` as `one-step` with the noisy change and its level as further inputs; persistence and ETDRK4 in one step stand
beside.

    python experiments/refiner_ks.py --seeds 0 1 2 --data data

is meant to take ten minutes a seed on one slow core. The seconds of a training (on a CPU those its process was given)
are calibrated to steps once; trainings are cells in `OUT/refiner_ks/cells`. The figures are those of
`rollout_recipes.py`, and `gflops` the operations of one step; `time_gain/ARM` and `high_ratio/ARM` are the refiner's
over that arm's.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
from problems.cells import Record
from problems.recipes import Arm, convolutional, follow, once, size, trained
from problems.rollouts import Case, baselines, plot, read_case

from opkit.data import content_hash
from opkit.training import Refiner, Run, TendencyStep, code_hash, count_flops, denoising, launch


@dataclasses.dataclass(frozen=True)
class Config:
    """Train the three. Defaults are those of the claim."""

    width: int = 24
    refinements: int = 2
    least: float = 2e-3
    """The least deviation of the noise, in units of a step's change."""
    seconds: float = 150.0
    """Of each training."""
    steps: int = 0
    """Of each training, in place of seconds."""
    data: Path = Path("data")
    """The folder of the data files; what is missing is generated there."""


SMOKE = {"width": 4, "steps": 2}


def stepping(case: Case, width: int, key: jax.Array) -> TendencyStep:
    """`u + change op(u)`."""
    return TendencyStep(convolutional(case, width, key), case.change, "euler")


def refining(config: Config, case: Case, width: int, key: jax.Array) -> Refiner:
    """The same network, with the noisy change and its level as further inputs."""
    op = convolutional(case, width, key, inputs=2, extra=1)
    return Refiner(op, steps=config.refinements, least=config.least, scale=case.change)


def evaluated(arm: Arm, case: Case, model: Any) -> Record:
    """The rollout's figures, and the operations of a step."""
    u, key = jax.ShapeDtypeStruct(case.train.shape[2:], case.train.dtype), jax.random.key(0)
    flops = float("nan") if model is None else count_flops(lambda u: model(u, case.grid, key=key), u)
    return {"gflops": flops / 1e9, **follow(arm, case, model)}


def figures(records: dict[str, Record]) -> dict[str, float]:
    """Of every arm and baseline, and the refiner's over those of the others."""
    quantities = ("correlation_time", "error", "first", "high", "tail", "finite", "gflops", "parameters", "steps")
    metrics = {f"{q}/{name}": record[q] for name, record in records.items() for q in quantities if q in record}
    for name in ("one-step", "larger"):
        for ratio, quantity in (("time_gain", "correlation_time"), ("high_ratio", "high")):
            metrics[f"{ratio}/{name}"] = metrics[f"{quantity}/refiner"] / (
                metrics[f"{quantity}/{name}"] or float("nan")
            )
    return metrics


def main(config: Config, run: Run) -> dict[str, float]:
    """Train, or read, the three, and follow them."""
    case = dataclasses.replace(read_case("ks", config.data, smoke=run.smoke), width=config.width)
    data, code = content_hash((case.data, case.test)), code_hash(Path(__file__).resolve())
    run.record_data(data)
    plain = Arm(stepping, once)
    refiner = Arm(partial(refining, config), lambda case, steps: denoising(case.grid), fitted=False)
    budget, records = size(plain, case, case.width), baselines(case)
    label = f"refiner {config.refinements} {config.least}"
    for name, arm, share in (("one-step", plain, 1), ("larger", plain, config.refinements + 1), (label, refiner, 1)):
        records[name.split()[0]] = trained(
            name, arm, case,
            budget=share * budget, evaluate=partial(evaluated, arm, case),
            seconds=config.seconds, steps=config.steps, run=run, code=code, data=data,
        )  # fmt: skip
    run.save_figure(plot(records, case))
    return figures(records)


if __name__ == "__main__":
    launch(main, Config, smoke=SMOKE)
