"""Spend the solver's time on easy problems: the error on hard ones against what the training data cost.

Claim: to solve Burgers' equation at low viscosity, a training set that is a quarter hard and else easier has an error
within 10 % of that of hard samples alone at no more than half the solver steps.

`u_t + u u_x = nu u_xx` on [0, 1), periodic, from Gaussian fields to the time 1, at `nu` 0.02 (easy), 0.004 (medium) and
0.001 (hard), by an exponential integrator that chooses its steps; a sample costs the steps it took, refused ones among
them. All are solved on the same grid: that an easy one would do with fewer points is not counted. One FNO learns from
initial states and the viscosity; errors are on hard test samples. An arm is a mixture and the share it has of what
`samples` hard samples cost:

    all-hard         a smaller set of hard samples, the control of every other arm
    tenth-easy       10 % of the samples hard, the others easy
    quarter-easy     25 % hard, the others easy
    quarter-medium   25 % hard, the others medium
    all-medium       no hard sample: whether they are needed

All take the same steps of the same optimiser, the learning rate of each mixture the better of `learning_rates` on a
tenth of its own training set. A figure is called `relative_l2/ARM@SHARE`, `cost` the share really spent, `hard` the
number of hard samples; `ratio` is the error over that of all hard samples at the full cost. Trained networks are cells
in `OUT/difficulty_mixture/cells`. A seed is meant to take ten minutes on one core.

Choudhary, Singh, Talwalkar, Boffi, Khodak and Marwah (2025), arXiv:2512.00564, of flows around obstacles: 8.9 times
less computation to generate data at equal error.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import diffrax
import jax
import numpy as np
from problems.bench import Problem
from problems.cells import baselines, better_rate, cached, score, train

from opkit.data import BlowUpError, Identity, Mixture, content_hash, mixture
from opkit.operators import FNO
from opkit.training import Run, code_hash, launch, relative_l2
from solvers import ETD43, Grid, PowerSpectrum, gaussian_random_field, spectral_vector_field
from solvers.equations import Burgers

ARMS = {
    "all-hard": {"hard": 1.0},
    "tenth-easy": {"hard": 0.1, "easy": 0.9},
    "quarter-easy": {"hard": 0.25, "easy": 0.75},
    "quarter-medium": {"hard": 0.25, "medium": 0.75},
    "all-medium": {"medium": 1.0},
}
DIFFICULTIES = ("easy", "medium", "hard")
BATCH = 32


@dataclasses.dataclass(frozen=True)
class Config:
    """Train every arm. Defaults are those of the claim."""

    easy: float = 0.02
    medium: float = 0.004
    hard: float = 0.001
    """Viscosities."""
    samples: int = 256
    """Hard samples, whose cost is the whole."""
    tests: int = 128
    shares: tuple[float, ...] = (0.125, 0.25, 0.5)
    """Of the cost, for every arm."""
    points: int = 512
    """Of the solver."""
    stored: int = 128
    """Of the network."""
    width: int = 24
    modes: int = 24
    steps: int = 1500
    """Of training."""
    learning_rates: tuple[float, ...] = (1e-3, 4e-3)


SMOKE = {"samples": 16, "tests": 4, "shares": (0.5,), "points": 64, "stored": 16, "width": 4, "modes": 4}
SMOKE |= {"steps": 2, "learning_rates": (1e-3,), "easy": 0.05, "medium": 0.03, "hard": 0.02}


class Pool:
    """Solved problems by difficulty: the first so many are always the same."""

    def __init__(self, config: Config):
        self.config = config
        self._solve = jax.jit(partial(_solve, config))
        self._made: dict[tuple[str, int], list[np.ndarray]] = {}

    def take(self, difficulty: str, count: int, *, tests: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`(u, nu): (count, 2, n)`, the solutions `(count, 1, n)` and the solver's steps `(count,)`."""
        batches = [self._batch(difficulty, number + 100_000 * tests) for number in range(-(-count // BATCH))]
        inputs, outputs, steps = (np.concatenate(parts)[:count] for parts in zip(*batches, strict=True))
        return inputs, outputs, steps

    def _batch(self, difficulty: str, number: int) -> list[np.ndarray]:
        if (difficulty, number) not in self._made:
            with jax.enable_x64(True):
                nu = getattr(self.config, difficulty)
                key = jax.random.fold_in(jax.random.key(DIFFICULTIES.index(difficulty)), number)
                u, v, steps, solved = jax.device_get(self._solve(nu, key))
            if not solved.all():
                raise BlowUpError(f"{difficulty}: {np.sum(~solved)} of {BATCH} problems were not solved.")
            scaled = np.full_like(u, np.log(nu / self.config.medium))
            fields = [np.concatenate([u, scaled], 1), v]
            self._made[difficulty, number] = [*(field.astype(np.float32) for field in fields), steps]
        return self._made[difficulty, number]


def _solve(config: Config, nu: Any, key: Any) -> tuple[Any, ...]:
    """One batch: the states at 0 and 1 on the stored points, steps, and whether each was solved."""
    grid, spectrum = Grid(config.points), PowerSpectrum(alpha=2, tau=5, sigma=25)
    f = spectral_vector_field(Burgers(nu), grid)
    control = diffrax.PIDController(rtol=1e-5, atol=1e-6 * config.points)

    def one(key: Any) -> tuple[Any, ...]:
        modes = 2 * (config.stored // 2) - 1
        u = gaussian_random_field(grid, spectrum, basis="periodic", modes=modes, key=key, zero_mean=True)[None]
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(f), ETD43(), 0.0, 1.0, 1e-3, f.encode(u), stepsize_controller=control, throw=False
        )
        assert solution.ys is not None
        thin = slice(None, None, config.points // config.stored)
        solved = solution.result == diffrax.RESULTS.successful
        return u[:, thin], f.decode(solution.ys[0])[:, thin], solution.stats["num_steps"], solved

    return jax.vmap(one)(jax.random.split(key, BATCH))


def problem_of(pool: Pool, counts: dict[str, int]) -> Problem:
    """So many samples of each, tested on hard ones."""
    config = pool.config
    parts = [pool.take(difficulty, count)[:2] for difficulty, count in counts.items() if count]
    x, y = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.random.default_rng(0).permutation(len(x))  # lest the part held back be of one difficulty
    label = str(config.stored)
    test = {label: pool.take("hard", config.tests, tests=True)[:2]}
    return Problem(
        "burgers", "pairs", (x[order], y[order]), test, {label: Grid(config.stored)}, label, True, relative_l2,
        Identity(), Identity(), 0, BATCH,
    )  # fmt: skip


def spent(pool: Pool, counts: dict[str, int]) -> float:
    """The steps that so many samples of each really cost."""
    return float(sum(pool.take(difficulty, count)[2].sum() for difficulty, count in counts.items() if count))


def arms(pool: Pool, costs: dict[str, float]) -> dict[tuple[str, float], Mixture]:
    """What each arm holds at each share of the whole cost, which only hard samples have."""
    config = pool.config
    found = {("all-hard", 1.0): mixture(costs, ARMS["all-hard"], samples=config.samples)}
    whole = spent(pool, found["all-hard", 1.0].counts)
    for name, fractions in ARMS.items():
        for share in sorted(config.shares, reverse=True):
            mixed = mixture(costs, fractions, budget=share * whole)
            while spent(pool, mixed.counts) > share * whole:  # costs are means over other samples
                mixed = mixture(costs, fractions, samples=sum(mixed.counts.values()) - 1)
            found[name, share] = mixed
    return found


def plot(metrics: dict[str, float]) -> Any:
    """Error against cost, a line for each mixture."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4.5), layout="constrained")
    for name in ARMS:
        labels = [label.split("/")[1] for label in metrics if label.startswith(f"relative_l2/{name}@")]
        rows = sorted((metrics[f"cost/{label}"], metrics[f"relative_l2/{label}"]) for label in labels)
        axes.loglog(*zip(*rows, strict=True), "o-", label=name)
    axes.set(xlabel="solver steps, of those of all hard samples", ylabel="relative L2 error on hard problems")
    axes.legend()
    return figure


def main(config: Config, run: Run) -> dict[str, float]:
    """Solve, mix and train, or read what was trained before."""
    pool, code, folder = Pool(config), code_hash(Path(__file__).resolve()), run.directory.parents[1] / "cells"
    costs = {name: float(pool.take(name, config.samples)[2].mean()) for name in DIFFICULTIES}
    run.print("steps a sample: " + ", ".join(f"{name} {cost:.1f}" for name, cost in costs.items()))
    metrics, rates, hashes, whole = {f"steps/{name}": cost for name, cost in costs.items()}, {}, [], None

    def built(seed: int) -> FNO:
        sizes: dict[str, Any] = {"modes": (config.modes,), "width": config.width, "coordinates": False}
        return FNO(2, 1, **sizes, key=jax.random.key(seed))

    for (name, share), mixed in arms(pool, costs).items():
        problem, cost = problem_of(pool, mixed.counts), spent(pool, mixed.counts)
        whole = whole or (cost, problem)
        hashes.append(content_hash((problem.train, dict(problem.test))))
        identity = {"data": hashes[-1], "width": config.width, "modes": config.modes, "steps": config.steps}
        if name not in rates:  # at the largest share
            options: dict[str, Any] = {"steps": max(2, config.steps // 3)}
            tried = lambda p=problem, o=options: {"rate": better_rate(built, p, config.learning_rates, **o)}
            rates[name] = cached(folder, identity | {"tried": config.learning_rates}, tried)["rate"]

        def trained(problem: Problem = problem, rate: float = rates[name]) -> dict[str, Any]:
            options: dict[str, Any] = {"steps": config.steps, "seed": run.seed, "progress": not run.quiet}
            model, _ = train(built(run.seed), problem, learning_rate=rate, **options)
            return {"error": score(model, problem, [problem.trained_at])[problem.trained_at], "code": code}

        record = cached(folder, identity | {"learning_rate": rates[name], "seed": run.seed}, trained)
        if record["code"] != code:
            run.print(f"{name}@{share:g}: the cell was made under other code ({record['code']})")
        label = f"{name}@{share:g}"
        metrics |= {f"relative_l2/{label}": record["error"], f"cost/{label}": cost / whole[0]}
        metrics |= {f"ratio/{label}": record["error"] / metrics["relative_l2/all-hard@1"]}
        metrics |= {f"hard/{label}": float(mixed.counts.get("hard", 0)), f"learning_rate/{label}": rates[name]}
        run.print(f"{label}: {mixed.counts}, cost {cost / whole[0]:.3f}, error {record['error']:.4f}")
    assert whole is not None
    for name, record in baselines(whole[1]).items():
        metrics[f"relative_l2/{name}"] = record["scores"][whole[1].trained_at]
    run.record_data(content_hash({str(i): np.frombuffer(bytes.fromhex(h), np.uint8) for i, h in enumerate(hashes)}))
    run.save_figure(plot(metrics))
    return metrics


if __name__ == "__main__":
    launch(main, Config, smoke=SMOKE)
