"""Train while simulating, or on what was simulated before.

Claim: at equal seconds, the solver's among them, training online on Burgers (initial to final states of D1) gives an
MLP at most 0.8 of the error that 200 fixed trajectories give, and an FNO no more than theirs. Published, on other
equations and many cores: errors 68 % lower for an MLP, 16 % for an FNO.

    python experiments/online_vs_offline.py --seeds 0 1 2

- `offline` simulates 200 trajectories, and trains on them for what is left of `--seconds`.
- `online` simulates a block every few steps, so that its solver has the part `--share` of the seconds. Samples pass
  through a reservoir, none is kept on disk.
- `offline-10x` is the control: as `offline`, on ten times the trajectories, whose simulation costs it nothing.

The first two have the better of two learning rates, by trials with a third of the steps on 20 of the 200 trajectories,
on which no trial trains; the control has that of `online`. The solver is ETDRK4 in float32, on half the points and with
half the steps of D1. Its seconds and those of the steps are measured once, turned into numbers of steps and written
down. Each trial and training is a cell in `OUT/online_vs_offline/cells`, so a killed run resumes. `relative_l2` is the
mean over 200 test trajectories, `constant` and `persistence` are the mean output and the input. A seed is meant to take
7 minutes on one core, and the trials, which all seeds share, 3 more.

Meyer, Schouler, Caulk, Ribes and Raffin (2023), Training deep surrogate models with large scale online learning,
arXiv:2306.16133.
"""

import dataclasses
import time
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from problems.cells import Record, cached, optimiser

from opkit.data import BENCH, BlowUpError, Pair, Reservoir, content_hash
from opkit.operators import FNO
from opkit.training import Online, Run, code_hash, evaluate, fit, launch, relative_l2, supervised
from solvers import ETDRK, Grid, repeat

D1 = BENCH["d1"]
TEST, FIXED, LIVE = (jax.random.fold_in(jax.random.key(20), part) for part in range(3))
HELD = 20
"""Of the fixed trajectories, what a trial is measured on."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Two models, three ways of training. Defaults are those of the claim."""

    models: tuple[str, ...] = ("mlp", "fno")
    seconds: float = 60.0
    """Of one training, simulation included."""
    trajectories: int = 200
    share: float = 0.3
    """Of the seconds of `online`, what its solver has."""
    capacity: int = 2048
    """Of the reservoir."""
    points: int = 128
    solver_points: int = 512
    solver_steps: int = 200
    batch_size: int = 16
    block: int = 8
    """Trajectories simulated at a time."""
    warm_up: int = 8
    """Blocks simulated before the first step."""
    learning_rates: tuple[float, ...] = (1e-3, 4e-3)
    width: int = 256
    """Of the MLP's three hidden layers; the FNO has about as many parameters."""
    fno_width: int = 48


SMOKE = {
    "seconds": 1.0, "trajectories": 24, "capacity": 16, "points": 16, "solver_points": 128,
    "batch_size": 4, "block": 12, "warm_up": 1, "width": 8, "fno_width": 4, "learning_rates": (1e-3,),
}  # fmt: skip


class OnGridValues(eqx.Module):
    """An MLP from the values at the points of one grid to others there."""

    network: eqx.nn.MLP

    def __call__(
        self, u: jax.Array, domain: Grid, query: Any = None, *, args: Any = None, key: Any = None
    ) -> jax.Array:
        """Apply to one sample."""
        return self.network(u[0])[None]


def build(config: Config, name: str, seed: int) -> Any:
    """A model by its name."""
    key, n = jax.random.key(seed), config.points
    if name == "mlp":
        return OnGridValues(eqx.nn.MLP(n, n, config.width, 3, jax.nn.gelu, key=key))
    if name == "fno":
        return FNO(1, 1, modes=(min(16, n // 2),), width=config.fno_width, depth=4, coordinates=False, key=key)
    raise ValueError(f"`models` has {name!r}; expected mlp or fno.")


class Solver:
    """Pairs of D1's initial and final states, in blocks."""

    def __init__(self, config: Config):
        grid, dt = Grid(config.solver_points), D1.dt * D1.every * (D1.frames - 1) / config.solver_steps
        _, equation = D1.draw(TEST, grid)
        run, stride = repeat(ETDRK(equation, grid, dt), config.solver_steps), config.solver_points // config.points

        def solve(key: Any) -> tuple[jax.Array, jax.Array]:
            u, _ = D1.draw(key, grid)
            return u[:, ::stride], run(u)[:, ::stride]

        self.block = config.block
        self.simulate = lambda key: jax.vmap(solve)(jax.random.split(key, config.block))
        self._compiled = jax.jit(self.simulate)

    def pairs(self, key: Any, count: int) -> Pair:
        """So many pairs, as arrays."""
        blocks = [self._compiled(jax.random.fold_in(key, i)) for i in range(-(-count // self.block))]
        x, y = (np.concatenate(parts)[:count] for parts in zip(*jax.device_get(blocks), strict=True))
        if not np.isfinite(y).all():
            raise BlowUpError(f"`solver_steps` gives a step too large for {len(y)} trajectories to stay finite.")
        return x, y

    def seconds(self, repeats: int = 10) -> float:
        """Of one block, the least of several, as other processes disturb it."""
        stamps = []
        for _ in range(repeats + 1):
            self.pairs(TEST, self.block)
            stamps.append(time.perf_counter())
        return float(np.diff(stamps).min())


def train(
    config: Config, name: str, solver: Solver, fixed: Pair | None, rate: float, plan: Record, seed: int, **options: Any
) -> tuple[Any, Record]:
    """The model after `plan["steps"]` steps, on the pairs or, without, online; and what it took."""
    grid, compiled = Grid(config.points), []
    objective, carry, model, steps = supervised(relative_l2, grid), None, build(config, name, seed), plan["steps"]
    if fixed is None:
        objective = Online(objective, solver.simulate, batch_size=config.batch_size, every=plan["every"])
        empty = Reservoir(jax.eval_shape(solver.simulate, LIVE), config.capacity)
        start = partial(objective.start, empty, blocks=config.warm_up, key=jax.random.fold_in(LIVE, seed))
        start()  # compiles
        began = time.perf_counter()
        carry = jax.block_until_ready(start())
    else:
        options["batch_size"] = min(config.batch_size, len(fixed[0]))
        began = time.perf_counter()
    state = fit(
        objective, model, fixed, optimiser(rate, steps), steps=steps, carry=carry, seed=seed,
        on_compile=compiled.append, **options,
    )  # fmt: skip
    seconds = time.perf_counter() - began - sum(compiled)
    seen = int(state.carry.reservoir.arrived) if fixed is None else len(fixed[0])
    return state.model, {"steps": steps, "train_seconds": seconds, "trajectories": seen, "learning_rate": rate}


def step_seconds(config: Config, name: str, solver: Solver, fixed: Pair | None, every: int, chunk: int) -> float:
    """The time of a step, in the fastest of 19 chunks, as other processes disturb it."""
    stamps: list[float] = []
    options = {"chunk": chunk, "log": lambda step, figures: stamps.append(time.perf_counter())}
    train(config, name, solver, fixed, 1e-6, {"steps": 20 * chunk, "every": every}, 0, **options)
    return float(np.diff(stamps).min()) / chunk


def planned(config: Config, name: str, solver: Solver, fixed: Pair) -> Record:
    """Seconds of a block and of the steps, and the steps that `config.seconds` give each way of training."""
    block = solver.seconds()
    offline = step_seconds(config, name, solver, fixed, 1, 20)
    every = max(1, round(block * (1 - config.share) / (config.share * offline)))
    online = step_seconds(config, name, solver, None, every, every * -(-20 // every))
    left = {
        "offline": config.seconds - block * config.trajectories / config.block,
        "online": config.seconds - block * config.warm_up,
    }
    steps = {"offline": int(left["offline"] / offline), "online": int(left["online"] / online)}
    if min(left.values()) <= 0:
        raise ValueError(
            f"`seconds` is {config.seconds}, and simulating {config.trajectories} trajectories takes longer."
        )
    return {"block": block, "every": every, "step": {"offline": offline, "online": online}, "steps": steps}


def score(config: Config, model: Any, pairs: Pair) -> float:
    """The mean relative L2 error."""
    grid = Grid(config.points)
    return float(np.mean(evaluate(model, {"": pairs}, {"error": relative_l2}, {"": grid}, batch_size=50)["error@"]))


def compare(config: Config, run: Run, name: str, solver: Solver, many: Pair, test: Pair) -> dict[str, float]:
    """One model, trained in every way or read from its cells: its figures, as `relative_l2/mlp/online`."""
    few = (many[0][: config.trajectories], many[1][: config.trajectories])
    folder, code = run.directory.parents[1] / "cells", code_hash(Path(__file__).resolve())
    setting = {k: v for k, v in dataclasses.asdict(config).items() if k != "models"} | {"data": run.data}
    identity = {"model": name, **setting}
    plan = cached(folder, identity | {"planned": True}, partial(planned, config, name, solver, few))
    run.print(f"{name}: a block takes {1e3 * plan['block']:.3g} ms, a step {1e3 * plan['step']['offline']:.3g} ms")
    rates, tries, metrics = config.learning_rates, {}, {}

    def tried(fixed: Pair | None, rate: float, steps: Record) -> Record:
        rest = None if fixed is None else (fixed[0][HELD:], fixed[1][HELD:])
        model, _ = train(config, name, solver, rest, rate, steps | {"steps": max(2, steps["steps"] // 3)}, 1000)
        return {"error": score(config, model, (few[0][:HELD], few[1][:HELD]))}

    def trained(fixed: Pair | None, rate: float, steps: Record) -> Record:
        model, cost = train(config, name, solver, fixed, rate, steps, run.seed, progress=not run.quiet)
        return {"error": score(config, model, test), "cost": cost, "code": code}

    for arm, fixed in (("offline", few), ("online", None), ("offline-10x", many)):
        steps = {"steps": plan["steps"][arm.removesuffix("-10x")], "every": plan["every"]}
        own = identity | {"arm": arm, "plan": steps}
        if arm in plan["steps"] and len(rates) > 1:
            tries = {r: cached(folder, own | {"trial": r}, partial(tried, fixed, r, steps))["error"] for r in rates}
        rate = min(rates, key=lambda r: tries.get(r, 0.0))
        record = cached(folder, own | {"seed": run.seed, "rate": rate}, partial(trained, fixed, rate, steps))
        if record["code"] != code:
            run.print(f"the cell of {name}, {arm}, was made under other code ({record['code']})")
        simulated = plan["block"] * config.trajectories / config.block if arm == "offline" else 0
        metrics |= {f"relative_l2/{name}/{arm}": record["error"]}
        metrics |= {f"{quantity}/{name}/{arm}": value for quantity, value in record["cost"].items()}
        metrics |= {f"seconds/{name}/{arm}": record["cost"]["train_seconds"] + simulated}
    offline = metrics[f"relative_l2/{name}/offline"]
    ratios = {
        f"ratio/{name}/{arm}": metrics[f"relative_l2/{name}/{arm}"] / offline for arm in ("online", "offline-10x")
    }
    return {**metrics, **ratios}


def main(config: Config, run: Run) -> dict[str, float]:
    """Make the data, and compare the ways of training each model."""
    solver, metrics = Solver(config), {}
    many, test = solver.pairs(FIXED, 10 * config.trajectories), solver.pairs(TEST, 8 if run.smoke else 200)
    run.record_data(content_hash((many, test)))
    for name in config.models:
        metrics |= compare(config, run, name, solver, many, test)
    for name, guess in {"constant": np.broadcast_to(many[1].mean(0), test[1].shape), "persistence": test[0]}.items():
        errors = jax.vmap(lambda a, b: relative_l2(a, b, Grid(config.points)))(jnp.asarray(guess), jnp.asarray(test[1]))
        metrics[f"relative_l2/{name}"] = float(jnp.mean(errors))
    run.save_figure(plot(metrics, config.models))
    return metrics


def plot(metrics: dict[str, float], models: tuple[str, ...]) -> Any:
    """Errors by model and way of training."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for place, arm in enumerate(("offline", "online", "offline-10x")):
        errors = [metrics[f"relative_l2/{name}/{arm}"] for name in models]
        axis.bar(np.arange(len(models)) + 0.25 * place, errors, 0.25, label=arm)
    axis.set(xticks=np.arange(len(models)) + 0.25, xticklabels=models, ylabel="relative L2 error", yscale="log")
    axis.legend()
    return figure


if __name__ == "__main__":
    launch(main, Config, smoke=SMOKE)
