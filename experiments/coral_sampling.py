"""Learn from functions known at random points: CORAL, and an FNO on fields interpolated to a grid.

Claim: on D1 (Burgers, 1000 pairs), every function seen at the same random half of its 128 points, CORAL's error on test
functions seen at another half is at most 1.5 of that on test functions seen as in training. With a quarter of the
points its error is at most half of that of an FNO with as many parameters, for which functions are interpolated
linearly. `--own`: other points for every function. Errors are means over the test functions of the relative L2 error of
the whole output, on 128 points: `@seen` from the training's points, `@new` from others.

    python experiments/generate_bench.py --out data --sets d1
    python experiments/coral_sampling.py --data data --seeds 0 1 2

Fields come first, trained on what their codes give back. A code is found by three gradient steps from zero, through
which the fields learn, and the size of the steps with them. Then a network learns the map between standardised codes.

A training takes about two minutes of one core, a seed about seven by its parts; as a whole that is not measured yet.

Serrano et al. (2023), Operator learning with neural fields, arXiv:2306.07266. Ours weights the points by their gaps,
puts the period into the fields, and has one size of the steps for both fields.
"""

import dataclasses
import time
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from problems.bench import Problem, read_problem
from problems.cells import Record, baselines, better_rate, cached, optimiser, train
from problems.contestants import CONTESTANTS, assemble, count, sizes

from opkit.data import Normalised, Normaliser, content_hash, fit_normaliser
from opkit.fields import ModulatedSIREN, PeriodicEmbedding
from opkit.layers import PointwiseMLP
from opkit.operators import CORAL, CodedField
from opkit.training import Run, Term, fit, launch, relative_l2
from solvers import Grid, Points, trapezoidal_weights

Samples = Array | np.ndarray


@dataclasses.dataclass(frozen=True)
class Config:
    """Learn from samples. Defaults are those of the claim, chosen on seed 10."""

    data: Path = Path("data")
    """The folder of d1.h5."""
    arms: tuple[Literal["coral-50", "coral-25", "fno-50", "fno-25"], ...] = ("coral-50", "coral-25", "fno-25")
    """An operator, and the percentage of the points that it sees."""
    own: bool = False
    """Whether every function has points of its own."""
    code_size: int = 32
    width: int = 48
    depth: int = 3
    omegas: tuple[float, float] = (6.0, 2.0)
    """Of the first sines, for inputs and for outputs."""
    field_steps: int = 2000
    field_rate: float = 3e-3
    inner_rate: float = 1.0
    """The step towards a code, to begin with."""
    map_width: int = 128
    map_steps: int = 6000
    map_rate: float = 4e-3
    parameters: int = 43_900
    """Of the FNO."""
    fno_steps: int = 4000
    fno_rates: tuple[float, ...] = (1e-3, 4e-3)
    """Tried on a tenth of the training set."""


SMOKE = {"code_size": 4, "width": 8, "field_steps": 2, "map_width": 8, "map_steps": 2}
SMOKE |= {"parameters": 5000, "fno_steps": 2, "fno_rates": (1e-3,)}


class OnCircle(eqx.Module):
    """A coded field of period 1."""

    embedding: PeriodicEmbedding
    field: ModulatedSIREN

    def __call__(self, x: Float[Array, " d"], code: Float[Array, " z"]) -> Float[Array, " c"]:
        """Evaluate at one point."""
        return self.field(self.embedding(x), code)


class Standardised(eqx.Module):
    """A network between standardised codes, as a map of codes."""

    network: PointwiseMLP
    input: Normaliser
    output: Normaliser

    def __call__(self, z: Float[Array, " z"]) -> Float[Array, " z"]:
        """Apply to one code."""
        return self.output.decode(self.network(self.input.encode(z)))


def cloud(numbers: Int[Array, " m"], n: int) -> Points:
    """These of the `n` points of a period."""
    x = numbers / jnp.asarray(n, jnp.float32)
    return Points(x[:, None], trapezoidal_weights(x, period=1.0))


def draw(seed: tuple[int, int], samples: int, n: int, percent: int, own: bool) -> np.ndarray:
    """The numbers of random points, `(samples, points)`, in order."""
    order = np.argsort(np.random.default_rng(seed).random((samples if own else 1, n)), 1)
    kept = np.sort(order[:, : n * percent // 100], 1).astype(np.int32)
    return np.broadcast_to(kept, (samples, kept.shape[1]))


def at(fields: np.ndarray, numbers: np.ndarray) -> Array:
    """Fields `(samples, 1, n)` at the points seen."""
    return jnp.asarray(np.take_along_axis(fields, numbers[:, None], 2))


def interpolated(fields: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The same from there on all points, linearly."""
    x = np.arange(fields.shape[2]) / fields.shape[2]
    rows = [np.interp(x, x[k], u[0, k], period=1.0) for u, k in zip(fields, numbers, strict=True)]
    return np.stack(rows)[:, None].astype(np.float32)


def swapped(op: CORAL) -> CORAL:
    """The operator whose codes are those of this one's outputs."""
    return eqx.tree_at(lambda op: (op.input_field, op.output_field), op, (op.output_field, op.input_field))


def given_back(op: CORAL, numbers: Array, u: Array, n: int) -> Array:
    """The squared relative error of what a function's code gives back."""
    points = cloud(numbers, n)
    field = CodedField(op.input_field, op.code(u, points))
    return relative_l2(jax.vmap(field)(points.coordinates).T, u, points) ** 2


@eqx.filter_jit
def codes(op: CORAL, numbers: Samples, u: Samples, n: int) -> Array:
    """The codes of many functions."""
    return jax.lax.map(lambda sample: op.code(sample[1], cloud(sample[0], n)), (numbers, u), batch_size=32)


@eqx.filter_jit
def applied(model: Normalised, u: Samples, numbers: Samples | None, grid: Grid) -> Array:
    """Outputs on the grid, of functions known there or at the points of these numbers."""
    where = lambda k: grid if k is None else cloud(k, *grid.shape)
    return jax.lax.map(lambda sample: model(sample[0], where(sample[1]), grid), (u, numbers), batch_size=32)


def coral(problem: Problem, config: Config, numbers: np.ndarray, **options: Any) -> tuple[Normalised, float]:
    """Fields, then codes, then the map between codes; with the seconds that took without compilation."""
    size, (n,), compiled, began = config.code_size, problem.domain.shape, [], time.perf_counter()
    keys, embedding = jax.random.split(jax.random.key(options["seed"]), 3), PeriodicEmbedding((1.0,))
    sines: dict[str, Any] = {"hidden_omega": 10.0, "code_size": size, "width": config.width, "depth": config.depth}
    fields = [
        OnCircle(embedding, ModulatedSIREN(2, 1, omega=omega, key=key, **sines))
        for omega, key in zip(config.omegas, keys[:2], strict=True)
    ]
    network = PointwiseMLP((size, config.map_width, config.map_width, size), key=keys[2])
    op = CORAL(fields[0], network, fields[1], in_channels=1, ndim=1, code_size=size, rate=config.inner_rate)
    scales = problem.input, problem.output
    u, v = (jax.vmap(scale.encode)(at(a, numbers)) for scale, a in zip(scales, problem.train, strict=True))

    def of_fields(op: CORAL, batch: Any, *, key: Any, carry: Any) -> Any:
        k, *functions = batch
        sides = zip(("input", "output"), (op, swapped(op)), functions, strict=True)
        errors = {name: jax.vmap(lambda k, u, op=op: given_back(op, k, u, n))(k, u) for name, op, u in sides}
        return {name: Term(values, "losses") for name, values in errors.items()}, {}, carry

    def of_map(latent: Standardised, batch: Any, *, key: Any, carry: Any) -> Any:
        wanted, found = (jax.vmap(latent.output.encode)(z) for z in (batch[1], jax.vmap(latent)(batch[0])))
        return {"codes": Term(found - wanted, "residual")}, {}, carry

    def fitted(objective: Any, model: Any, data: Any, rate: float, steps: int) -> Any:
        how: dict[str, Any] = {"steps": steps, "batch_size": 16, "on_compile": compiled.append, **options}
        return fit(objective, model, data, optimiser(rate, steps), **how).model

    op = fitted(of_fields, op, (numbers, u, v), config.field_rate, config.field_steps)
    z = codes(op, numbers, u, n), codes(swapped(op), numbers, v, n)
    latent = Standardised(network, *(fit_normaliser(part) for part in z))
    latent = fitted(of_map, latent, z, config.map_rate, config.map_steps)
    op = eqx.tree_at(lambda op: op.latent_map, op, latent)
    return Normalised(op, *scales), time.perf_counter() - began - sum(compiled)


def fno(problem: Problem, config: Config, **options: Any) -> tuple[Normalised, float]:
    """On the grid, at the better of the learning rates; with the seconds."""
    shape = sizes("fno", problem, config.parameters)
    built = lambda seed: assemble(CONTESTANTS["fno"], problem, *shape, key=jax.random.key(seed))
    rate = better_rate(built, problem, config.fno_rates, steps=config.fno_steps)
    return train(built(options["seed"]), problem, learning_rate=rate, steps=config.fno_steps, **options)


def cell(problem: Problem, config: Config, arm: str, run: Run) -> Record:
    """Train one arm, and apply it to the test functions from both samplings."""
    name, percent = arm.split("-")
    grid, options = problem.domain, {"seed": run.seed, "progress": not run.quiet}
    part = {"n": grid.shape[0], "percent": int(percent), "own": config.own}
    u, v = problem.test[problem.trained_at]
    seen = draw((run.seed, 0), len(problem.train[0]), **part)
    samplings = {"seen": draw((run.seed, 0), len(u), **part), "new": draw((run.seed, 1), len(u), **part)}
    if name == "coral":
        model, seconds = coral(problem, config, seen, **options)
        known = {label: (at(u, k), k) for label, k in samplings.items()}
    else:
        filled = tuple(interpolated(a, seen) for a in problem.train)
        model, seconds = fno(dataclasses.replace(problem, train=filled), config, **options)
        known = {label: (interpolated(u, k), None) for label, k in samplings.items()}
    outputs = {label: applied(model, *of, grid) for label, of in known.items()}
    error = jax.vmap(lambda a, b: relative_l2(a, b, grid))
    return {
        "errors": {label: float(error(output, v).mean()) for label, output in outputs.items()},
        "parameters": count(model),
        "train_seconds": seconds,
        "output": outputs["new"][0, 0].tolist(),
        "points": samplings["new"][0].tolist(),
    }


def main(config: Config, run: Run) -> dict[str, float]:
    """Train and test each arm, unless that is on disk."""
    problem = read_problem("d1", config.data, smoke=run.smoke)
    data = content_hash((problem.train, dict(problem.test)))
    run.record_data(data)
    metrics = {"relative_l2/mean": baselines(problem)["constant"]["scores"][problem.trained_at]}
    records = {}
    for arm in config.arms:
        make = lambda arm=arm: cell(problem, config, arm, run)
        records[arm] = cached(run.directory / "cells", {"arm": arm, "data": data}, make)
        errors = records[arm]["errors"]
        metrics |= {f"relative_l2/{arm}@{label}": error for label, error in errors.items()}
        metrics |= {f"{quantity}/{arm}": records[arm][quantity] for quantity in ("parameters", "train_seconds")}
        metrics[f"new_over_seen/{arm}"] = errors["new"] / errors["seen"]
    if {"coral-25", "fno-25"} <= records.keys():
        ours, theirs = (records[arm]["errors"] for arm in ("coral-25", "fno-25"))
        metrics |= {f"fno_over_coral@{label}": theirs[label] / ours[label] for label in ours}
    run.save_figure(plot(records, problem))
    return metrics


def plot(records: dict[str, Record], problem: Problem) -> Any:
    """A test function, the new points it is seen at, and the outputs."""
    import matplotlib.pyplot as plt

    u, v = (a[0, 0] for a in problem.test[problem.trained_at])
    x = np.arange(u.size) / u.size
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
    left.plot(x, u, "k", linewidth=0.8)
    right.plot(x, v, "k", linewidth=0.8, label="truth")
    for arm, record in records.items():
        left.plot(x[record["points"]], u[record["points"]], ".", label=arm)
        right.plot(x, record["output"], label=arm)
    left.set(title="input")
    right.set(title="output")
    right.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    launch(main, Config, smoke=SMOKE)
