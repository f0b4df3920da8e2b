"""Find the conductivity inside from currents along the boundary: Calderon's problem by a neural inverse operator.

Claim: on D7 (1000 conductivities of the unit square, 20 potentials each) a neural inverse operator has at most 0.8 of
the error of a convolutional network with as many parameters, both at the better of two learning rates on a tenth of the
training set and with the same steps. Trained on bags, a random number of measurements drawn with replacement, its error
from 10 measurements is at most 1.3 of that from 20, and the order of the measurements changes nothing. Errors are means
over the test samples of the relative L2 error of the conductivity; the mean conductivity stands beside.

    python experiments/generate_bench.py --out data --sets d7
    python experiments/nio_calderon.py --data data --seeds 0 1 2

A seed takes more than 35 minutes of one core: what it takes is not measured yet.

Molinaro, Yang, Engquist and Mishra (2023), Neural inverse operators for solving PDE inverse problems,
arXiv:2301.11167. Theirs normalises and pads otherwise.
"""

import dataclasses
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from problems.bench import Problem, read_problem
from problems.cells import baselines, better_rate, score, train
from problems.contestants import CONTESTANTS, assemble, count, sizes

from opkit.data import Normalised, content_hash
from opkit.operators import bag
from opkit.training import Run, Term, launch, relative_l2


@dataclasses.dataclass(frozen=True)
class Config:
    """Learn the inverse. Defaults are those of the claim."""

    data: Path = Path("data")
    """The folder of d7.h5."""
    parameters: int = 150_000
    steps: int = 1500
    learning_rates: tuple[float, ...] = (1e-3, 4e-3)


SMOKE = {"parameters": 5000, "steps": 2, "learning_rates": (1e-3,)}


class Masked(eqx.Module):
    """A trained inverse on the measurements that a mask keeps."""

    model: Normalised

    def __call__(self, u: jax.Array, domain: Any, mask: jax.Array) -> jax.Array:
        """Apply to one set."""
        inverse: Any = self.model.op
        return self.model.output.decode(inverse.op(u, inverse.sensors, domain, mask=mask))


class Bagged(eqx.Module):
    """The objective of training on bags: the mean relative L2 error."""

    domain: Any

    def __call__(self, model: Normalised, batch: Any, *, key: Any, carry: Any) -> Any:
        """Evaluate on one batch."""

        def loss(measurements: jax.Array, target: jax.Array, key: jax.Array) -> jax.Array:
            drawn, mask = bag(measurements, key=key)
            return relative_l2(Masked(model)(drawn, self.domain, mask), target, self.domain)

        x, y = batch
        return {"data": Term(jax.vmap(loss)(x, y, jax.random.split(key, len(x))), "losses")}, {}, carry


def with_fewer(problem: Problem, number: int) -> Problem:
    """Tested on the first so many measurements."""
    test = {label: (x[:, :number], y) for label, (x, y) in problem.test.items()}
    return dataclasses.replace(problem, test=test)


def main(config: Config, run: Run) -> dict[str, float]:
    """Train all, test on all and on half of the measurements."""
    problem = read_problem("d7", config.data, smoke=run.smoke)
    run.record_data(content_hash((problem.train, dict(problem.test))))
    label = problem.trained_at
    metrics = {"relative_l2/mean": baselines(problem)["constant"]["scores"][label]}
    models = {}
    for arm, name in {"nio": "nio", "nio-bagged": "nio", "fcnn": "fcnn"}.items():
        shape = sizes(name, problem, config.parameters)
        options: dict[str, Any] = {
            "steps": config.steps,
            "objective": Bagged(problem.domain) if arm == "nio-bagged" else None,
        }

        def built(seed: int, name: str = name, shape: tuple[int, int] = shape) -> Normalised:
            return assemble(CONTESTANTS[name], problem, *shape, key=jax.random.key(seed))

        rate = better_rate(built, problem, config.learning_rates, **options)
        models[arm], seconds = train(
            built(run.seed), problem, learning_rate=rate, seed=run.seed, progress=not run.quiet, **options
        )
        metrics |= {
            f"relative_l2/{arm}": score(models[arm], problem, [label])[label],
            f"parameters/{arm}": count(models[arm]),
            f"learning_rate/{arm}": rate,
            f"train_seconds/{arm}": seconds,
        }
        if name == "nio":
            for number in (10, 5):
                fewer = score(models[arm], with_fewer(problem, number), [label])[label]
                metrics[f"relative_l2_from_{number}/{arm}"] = fewer
    x = jnp.asarray(problem.test[label][0][0])
    order = np.random.default_rng(run.seed).permutation(len(x))
    here, there = (models["nio"](u, problem.domain) for u in (x, x[order]))
    metrics["permutation/nio"] = float(relative_l2(there, here))
    metrics["gain/nio"] = metrics["relative_l2/nio"] / metrics["relative_l2/fcnn"]
    metrics["loss_at_10/nio-bagged"] = metrics["relative_l2_from_10/nio-bagged"] / metrics["relative_l2/nio-bagged"]
    run.save_figure(plot(models, problem))
    return metrics


def plot(models: dict[str, Any], problem: Problem) -> Any:
    """Conductivities of four test samples, and what was found."""
    import matplotlib.pyplot as plt

    x, y = problem.test[problem.trained_at]
    rows = {"truth": [a[0] for a in y[:4]]}
    rows |= {name: [np.asarray(model(u, problem.domain))[0] for u in x[:4]] for name, model in models.items()}
    figure, axes = plt.subplots(len(rows), 4, figsize=(9, 2.2 * len(rows)), squeeze=False, layout="constrained")
    for line, (name, fields) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name)
        for axis, field, truth in zip(line, fields, rows["truth"], strict=True):
            axis.imshow(field.T, origin="lower", vmin=truth.min(), vmax=truth.max())
            axis.set(xticks=[], yticks=[])
    return figure


if __name__ == "__main__":
    launch(main, Config, smoke=SMOKE)
