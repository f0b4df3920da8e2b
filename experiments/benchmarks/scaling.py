"""A training step and a solver on several devices: samples a second, and what the devices exchange for them.

Shows, on 1, 2, 4 and 8 devices, for a training step of an FNO (by FFT, 2-D, AdamW) and for steps of Navier-Stokes flow
(`vmap` of ETDRK4):

- `samples_per_second` with as many samples on any number of devices (`strong`) and as many on each (`weak`), and
  `efficiency`: of that of one device, times their number where they are real. Forced devices of a CPU
  share its cores, which one of them uses already: there they are not multiplied, and what it loses is overhead;
- `all_gathers` and `all_reduces` in the compiled program, ours (`data_parallel`, `shard_map`) and, as a control, a
  plain `jit` of the same step on a sharded batch, whose Fourier transforms gather it on every device; `of_plain`, our
  part of its time; and how far apart the results are. `all_gathers` alone is the sum of all of ours;
- the same with one device in each of 2 and 4 processes, where devices are forced.

All contestants take turns within one run (the processes after them); medians; compilation apart. A collective in a
loop counts once. Beside other load take `--cpu`, which counts seconds of the processor instead of the clock.

Cost: is meant to take five minutes on two cores. On eight GPUs (`--preset gpu`), which it takes where there are any,
three, most of it compilation; on one there is nothing to compare but seconds.

    python experiments/benchmarks/scaling.py --out runs
"""

import dataclasses
import json
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import equinox as eqx
import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from opkit.operators import FNO
from opkit.training import (
    BATCH_AXIS,
    Run,
    data_parallel,
    init_state,
    initialise_processes,
    is_first,
    launch,
    make_train_step,
    relative_l2,
    run_processes,
    supervised,
)
from solvers import ETDRK, Grid, repeat
from solvers.equations import NavierStokes2D


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes, and numbers of devices; those that are not there are left out."""

    devices: tuple[int, ...] = (1, 2, 4, 8)
    processes: tuple[int, ...] = (2, 4)
    points: int = 64
    """Along each of two axes."""
    modes: int = 12
    width: int = 24
    batch: int = 16
    """Samples of a call, the same for any number of devices."""
    each: int = 4
    """Samples of a call on each device."""
    steps: int = 10
    """Of the solver, a call."""
    rounds: int = 7
    """Turns each contestant takes; the median is reported."""
    cpu: bool = False
    """Count seconds of the processor; of processes, those of the first."""


PRESETS = {"gpu": Config(processes=(), points=128, modes=24, width=64, batch=64, each=16, rounds=20)}
SMOKE = {"devices": (1, 2), "processes": (2,), "points": 8, "modes": 3, "width": 4, "batch": 4, "each": 2, "rounds": 1}
FORCED = 8
COLLECTIVE = re.compile(r" (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")


@dataclasses.dataclass
class Contestant:
    """A compiled program that moves its state on at each call."""

    samples: int
    collectives: Counter[str]
    advance: Callable[[], Any]


# A case gives a function of a state and a batch to the next state, for one device's part of the batch within a mesh or
# for the whole batch, and these two.
Case = Callable[[Config, int, Mesh | None], tuple[Callable[[Any, Any], Any], Any, Any]]


def fno(config: Config, samples: int, mesh: Mesh | None) -> tuple[Callable[[Any, Any], Any], Any, Any]:
    """A training step."""
    grid, modes, key = Grid((config.points,) * 2), (config.modes,) * 2, jax.random.key(0)
    optimiser, goal = optax.adamw(1e-3), supervised(relative_l2, grid)
    step = make_train_step(goal, optimiser, axis=None if mesh is None else BATCH_AXIS)
    if mesh is not None:
        step = data_parallel(step, list(mesh.devices.flat))
    build = lambda: FNO(1, 1, modes=modes, width=config.width, coordinates=False, transform="fft", key=key)
    state, static = eqx.partition(init_state(build(), optimiser), eqx.is_array)

    def advance(state: Any, batch: Any) -> Any:
        return eqx.filter(step(eqx.combine(state, static), batch, key=key)[0], eqx.is_array)

    x = np.random.default_rng(0).normal(size=(samples, 1, *grid.shape)).astype(np.float32)
    return advance, state, (x, np.roll(x, 1, -1))


def solver(config: Config, samples: int, mesh: Mesh | None) -> tuple[Callable[[Any, Any], Any], Any, Any]:
    """Steps of the solver: the batch is given as `None`, and the state is what is split."""
    grid = Grid((config.points,) * 2, 0.0, 2 * np.pi)
    run = jax.vmap(repeat(ETDRK(NavierStokes2D(1e-2), grid, 1e-3), config.steps))
    if mesh is not None:
        run = jax.shard_map(run, mesh=mesh, in_specs=P(BATCH_AXIS), out_specs=P(BATCH_AXIS), check_vma=False)
    u = np.random.default_rng(0).normal(size=(samples, 1, *grid.shape)).astype(np.float32)
    return lambda state, batch: run(state), u - u.mean((2, 3), keepdims=True), None


CASES: dict[str, Case] = {"fno": fno, "solver": solver}


def contestant(
    case: str, config: Config, samples: int, devices: list[Any], *, plain: bool
) -> tuple[Contestant, np.ndarray]:
    """Compiled, and called once; and what the first device has then."""
    mesh = Mesh(np.array(devices), (BATCH_AXIS,))
    function, state, batch = CASES[case](config, samples, None if plain else mesh)
    split, whole = NamedSharding(mesh, P(BATCH_AXIS)), NamedSharding(mesh, P())
    held = split if case == "solver" else whole

    def put(tree: Any, sharding: NamedSharding) -> Any:
        arrays = jax.tree.map(np.array, tree)
        return jax.tree.map(lambda a: jax.make_array_from_callback(a.shape, sharding, lambda i: a[i]), arrays)

    state, batch = put(state, held), put(batch, split)
    program = jax.jit(function, donate_argnums=0, out_shardings=held).lower(state, batch).compile()

    def advance() -> None:
        nonlocal state
        state = jax.block_until_ready(program(state, batch))

    advance()
    inexact = jax.tree.leaves(eqx.filter(state, eqx.is_inexact_array))
    first = np.concatenate([np.ravel(leaf.addressable_data(0)) for leaf in inexact])
    return Contestant(samples, Counter(COLLECTIVE.findall(program.as_text() or "")), advance), first


def timed(contestants: dict[str, Contestant], config: Config) -> dict[str, float]:
    """Samples a second of each, by its median time; they take turns."""
    clock = time.process_time if config.cpu else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(config.rounds):
        for name in list(contestants)[:: 1 if turn % 2 else -1]:
            start = clock()
            contestants[name].advance()
            seconds[name].append(clock() - start)
    return {name: contestants[name].samples / median(values) for name, values in seconds.items()}


def compare(case: str, config: Config, run: Run) -> dict[str, float]:
    """All figures of one case on the devices of this process."""
    real = jax.default_backend() != "cpu"
    counts = [n for n in config.devices if n <= len(jax.devices())]
    arms: dict[tuple[str, int], Contestant] = {}
    metrics: dict[str, float] = {}
    for n in counts:
        devices = jax.devices()[:n]
        arms["strong", n], ours = contestant(case, config, config.batch, devices, plain=False)
        arms["plain", n], plain = contestant(case, config, config.batch, devices, plain=True)
        arms["weak", n], _ = contestant(case, config, n * config.each, devices, plain=False)
        metrics[f"apart/{case}@{n}"] = float(np.linalg.norm(ours - plain) / np.linalg.norm(plain))
    rates = timed({f"{way}@{n}": arm for (way, n), arm in arms.items()}, config)
    metrics |= {f"samples_per_second/{case}/{name}": rate for name, rate in rates.items()}
    for n in counts:
        for way in ("strong", "weak"):
            ideal = rates[f"{way}@1"] * (n if real else 1)
            metrics[f"efficiency/{case}/{way}@{n}"] = rates[f"{way}@{n}"] / ideal
        ours, plain = arms["strong", n], arms["plain", n]
        metrics[f"of_plain/{case}@{n}"] = rates[f"plain@{n}"] / rates[f"strong@{n}"]
        for kind in ("all-gather", "all-reduce"):
            name = kind.replace("-", "_") + "s"
            metrics[f"{name}/{case}/ours@{n}"] = ours.collectives[kind]
            metrics[f"{name}/{case}/plain@{n}"] = plain.collectives[kind]
        others = {kind for arm in (ours, plain) for kind in arm.collectives} - {"all-gather", "all-reduce"}
        run.print(f"{case} on {n}: {rates[f'strong@{n}']:.3g} samples a second", *sorted(others))
    return metrics


def worker(config: Config, out: Path) -> None:
    """One of several processes: what they reach together, each with its devices, and exchange; the first writes it."""
    initialise_processes()
    found: dict[str, Any] = {}
    for case in CASES:
        arm, _ = contestant(case, config, config.batch, jax.devices(), plain=False)
        found[case] = {"samples_per_second": timed({"": arm}, config)[""], "collectives": arm.collectives}
    if is_first():
        out.write_text(json.dumps(found))


def over_processes(count: int, config: Config, rates: dict[str, float]) -> dict[str, float]:
    """The figures of so many processes. `rates`: of one device."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        run_processes([__file__, "worker", json.dumps(dataclasses.asdict(config)), str(out)], count)
        found = json.loads(out.read_text())
    metrics = {}
    for case, figures in found.items():
        rate, collectives = figures["samples_per_second"], Counter(figures["collectives"])
        metrics[f"samples_per_second/{case}/processes@{count}"] = rate
        metrics[f"efficiency/{case}/processes@{count}"] = rate / rates[case]
        metrics[f"all_gathers/{case}/processes@{count}"] = collectives["all-gather"]
        metrics[f"all_reduces/{case}/processes@{count}"] = collectives["all-reduce"]
    return metrics


def main(config: Config, run: Run) -> dict[str, float]:
    """Runs both cases, on devices and in processes."""
    if 1 not in config.devices:
        raise ValueError(f"`devices` is {config.devices}; expected 1 among them, to compare with.")
    metrics: dict[str, float] = {}
    for case in CASES:
        metrics |= compare(case, config, run)
    rates = {case: metrics[f"samples_per_second/{case}/strong@1"] for case in CASES}
    for count in config.processes if jax.default_backend() == "cpu" else ():
        metrics |= over_processes(count, config, rates)
    ours = [value for name, value in metrics.items() if name.startswith("all_gathers/") and "/plain" not in name]
    return {"all_gathers": sum(ours), **metrics}


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        worker(Config(**json.loads(sys.argv[2])), Path(sys.argv[3]))
    else:
        jax.config.update("jax_num_cpu_devices", FORCED)
        launch(main, Config, presets=PRESETS, smoke=SMOKE)
