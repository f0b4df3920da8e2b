"""Learn diffusion from problems read in random coordinates too.

Claim: on 500 problems `-(a u')' = f`, `u = 0` at both ends, pulled back by a random monotone map at half of the
training steps, the test error of an FNO and of a residual network falls by at least 10 %; a multilayer perceptron may
lose. The augmented solution differs from another solve by 2e-3 in the median (`defect`, with the 95th percentile).

`a = exp(g)` and `f = 1 + h` on 128 cells, `g` and `h` Gaussian of covariance `64 (-Lap + 9)^-2`. Networks of
`parameters` numbers get `log a` and `f`; each arm has the same optimiser, steps and trials, the learning rate being the
better of `learning_rates` on a tenth of the training set. `relative_l2/NAME` is the error without, `/NAME-augmented`
with, `ratio/NAME` one over the other. A seed is meant to take six minutes on one core.

Fanaskov, Yu, Rudikov and Oseledets (2023), arXiv:2301.12730: 23 % less error on average, from -80 to +17 %.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array
from problems.bench import Problem
from problems.cells import baselines, cached, score, train, trial
from problems.contestants import CONTESTANTS, Contestant, assemble, count, sizes

from opkit.data import BlowUpError, content_hash, coordinate_map, fit_normaliser, pull_back
from opkit.layers import PointwiseMLP
from opkit.training import Run, augmented, code_hash, launch, relative_l2, supervised
from solvers import Dirichlet, Domain, EllipticProblem, Grid, PowerSpectrum, gaussian_random_field, solve_elliptic


@dataclasses.dataclass(frozen=True)
class Config:
    """Train each network without and with. Defaults are those of the claim."""

    points: int = 128
    samples: int = 500
    tests: int = 200
    modes: int = 5
    """Of the maps."""
    least_slope: float = 0.2
    share: float = 0.5
    """Of the samples of a step, that are pulled back."""
    parameters: int = 40_000
    steps: int = 1500
    learning_rates: tuple[float, ...] = (1e-3, 4e-3)


SMOKE = {"points": 16, "samples": 20, "tests": 4, "parameters": 3000, "steps": 2, "learning_rates": (1e-3,)}


class OnValues(eqx.Module):
    """A perceptron on all values at once, whatever lies beside what."""

    network: PointwiseMLP

    def __call__(self, u: Array, domain: Domain, query: Domain | None = None, *, args=None, key=None) -> Array:
        """Apply to one sample."""
        return self.network(u.reshape(-1)).reshape(-1, *domain.shape)


def perceptron(p: Problem, width: int, depth: int, *, key: Array) -> OnValues:
    """The perceptron of a problem."""
    n = p.domain.shape[0]
    return OnValues(PointwiseMLP((p.inputs * n, *(width,) * (depth - 1), p.outputs * n), key=key))


CONTESTANTS["perceptron"] = Contestant(perceptron)
NETWORKS = ("fno", "resnet", "perceptron")


def solved(a: Array, f: Array, grid: Grid) -> Array:
    """The solution, NaN where there is none."""
    solution = solve_elliptic(EllipticProblem(grid, a, f, Dirichlet()))
    return jnp.where(solution.result == lx.RESULTS.successful, solution.value, jnp.nan)


def draw(config: Config, grid: Grid, key: Array) -> tuple[Array, Array]:
    """`(log a, f)` and `u`, of one problem."""
    spectrum = PowerSpectrum(sigma=8.0)
    log_a, h = (
        gaussian_random_field(grid, spectrum, basis="neumann", modes=config.points // 4, key=k)
        for k in jax.random.split(key)
    )
    return jnp.stack([log_a, 1 + h]), solved(jnp.exp(log_a), 1 + h, grid)[None]


def pulled_back(config: Config, grid: Grid, sample: tuple[Array, Array], *, key: Array) -> tuple[Array, Array]:
    """A sample in random coordinates."""
    x, u = sample
    m = coordinate_map(config.modes, least_slope=config.least_slope, key=key, dtype=x.dtype)
    a, f, u = pull_back(jnp.exp(x[:1]), x[1:], u, grid, [m])
    return jnp.concatenate([jnp.log(a), f]), u


def sometimes(config: Config, grid: Grid, sample: tuple[Array, Array], *, key: Array) -> tuple[Array, Array]:
    """`pulled_back` for a share of the samples, the others as they are."""
    choice, key = jax.random.split(key)
    chosen = jax.random.bernoulli(choice, config.share)
    moved = pulled_back(config, grid, sample, key=key)
    return jax.tree.map(lambda new, old: jnp.where(chosen, new, old), moved, sample)


def problem_of(config: Config, grid: Grid) -> tuple[Problem, np.ndarray]:
    """The samples, and by how much pulled back solutions of the test samples miss those solved anew."""

    def moved(sample: tuple[Array, Array], key: Array) -> Array:
        x, u = pulled_back(config, grid, sample, key=key)
        return relative_l2(u, solved(jnp.exp(x[0]), x[1], grid)[None], grid)

    count = config.samples + config.tests
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), count)
        x, y = jax.jit(lambda keys: jax.lax.map(lambda key: draw(config, grid, key), keys))(keys)
        test = (x[config.samples :], y[config.samples :])
        defects = jax.jit(lambda test, keys: jax.lax.map(lambda of: moved(*of), (test, keys)))(
            test, keys[: len(test[0])]
        )
        x, y, defects = jax.device_get((x, y, defects))
    if not (np.isfinite(y).all() and np.isfinite(defects).all()):
        raise BlowUpError("A problem of diffusion was not solved.")
    x, y, label = x.astype(np.float32), y.astype(np.float32), str(config.points)
    pair, held = ((x[part], y[part]) for part in (slice(None, config.samples), slice(config.samples, None)))
    options: dict[str, Any] = {"input": fit_normaliser(pair[0]), "output": fit_normaliser(pair[1])}
    problem = Problem(
        "diffusion", "pairs", pair, {label: held}, {label: grid}, label, False, relative_l2, **options,
        parameters=config.parameters, batch_size=16,
    )  # fmt: skip
    return problem, defects


def main(config: Config, run: Run) -> dict[str, float]:
    """Train, or read, every arm."""
    grid, folder = Grid(config.points, placement="cells"), run.directory.parents[1] / "cells"
    problem, defects = problem_of(config, grid)
    code, data = code_hash(Path(__file__).resolve()), content_hash((problem.train, dict(problem.test)))
    run.record_data(data)
    metrics = {"defect/median": float(np.median(defects)), "defect/p95": float(np.quantile(defects, 0.95))}
    label, plain = problem.trained_at, supervised(problem.loss, problem.domain)
    objectives = {"": plain, "-augmented": augmented(plain, partial(sometimes, config, grid))}
    for name in NETWORKS:
        width, depth = sizes(name, problem, config.parameters)

        def built(seed: int, of: Contestant = CONTESTANTS[name], width: int = width, depth: int = depth) -> Any:
            return assemble(of, problem, width, depth, key=jax.random.key(seed))

        metrics[f"parameters/{name}"] = count(built(0))
        for arm, objective in objectives.items():
            identity = {"data": data, "operator": name, "size": [width, depth], "steps": config.steps, "arm": arm}
            identity |= {"map": [config.modes, config.least_slope, config.share]} if arm else {}
            options: dict[str, Any] = {"objective": objective}

            def tried(rate: float, options: dict[str, Any] = options, built: Any = built) -> dict[str, Any]:
                steps = max(2, config.steps // 3)
                return {"error": trial(built(1000), problem, learning_rate=rate, steps=steps, seed=1000, **options)}

            rates = dict.fromkeys(config.learning_rates, 0.0)
            if len(rates) > 1:
                rates = {r: cached(folder, identity | {"trial": r}, partial(tried, r))["error"] for r in rates}
            rate = min(rates, key=lambda r: rates[r])

            def trained(rate: float = rate, options: dict[str, Any] = options, built: Any = built) -> dict[str, Any]:
                options = options | {"steps": config.steps, "seed": run.seed, "progress": not run.quiet}
                model, _ = train(built(run.seed), problem, learning_rate=rate, **options)
                return {"error": score(model, problem, [label])[label], "code": code}

            record = cached(folder, identity | {"learning_rate": rate, "seed": run.seed}, trained)
            if record["code"] != code:
                run.print(f"{name}{arm}: the cell was made under other code ({record['code']})")
            metrics |= {f"relative_l2/{name}{arm}": record["error"], f"learning_rate/{name}{arm}": rate}
        metrics[f"ratio/{name}"] = metrics[f"relative_l2/{name}-augmented"] / metrics[f"relative_l2/{name}"]
    metrics["relative_l2/constant"] = baselines(problem)["constant"]["scores"][label]
    return metrics


if __name__ == "__main__":
    launch(main, Config, smoke=SMOKE)
