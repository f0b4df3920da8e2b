"""What a field in pieces costs a device: memory, exchanges and seconds, against the whole field on one.

Shows, on 1, 2, 4 and 8 devices: two ETDRK4 steps of Navier-Stokes in 2-D (slabs) and in 3-D (pencils), two Runge-Kutta
steps of advection and diffusion by finite differences in 2-D, and a two-block FNO with the gradient of its weights; in
float32. Printed are the bytes a device needs for arguments and temporaries (as the compiler counts them) and their
part of one device's (ideally 1 / devices), the exchanges in the compiled program by kind, how far the result is from
one device's, and the seconds of a run. `worst_memory` is the largest product of part and devices, 1 where memory falls
as it should; `all_gathers` counts those anywhere. On a CPU the devices are forced ones that share its cores: their
seconds tell what the exchanges cost, not what is gained. On GPUs they are the real thing.

Is meant to take two minutes on 2 CPU cores, under one on GPUs; `--smoke` takes seconds.

    python experiments/benchmarks/decomposition.py --out decomposition.json
"""

import json
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import pi
from pathlib import Path
from statistics import median
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from opkit.operators import FNO
from solvers import ETDRK, AxisNames, Grid, Piece, finite_difference, repeat
from solvers.equations import NavierStokes2D, NavierStokes3D

EXCHANGES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")


@dataclass(frozen=True)
class Case:
    """A function `(weights, u, domain)` of a field on `grid`, to the same; and by what the field is cut."""

    name: str
    grid: Grid
    channels: int
    axis_names: AxisNames
    function: Callable[[Any, jax.Array, Grid | Piece], jax.Array]
    weights: Any = 0.0
    gradient: bool = False


@dataclass(frozen=True)
class Config:
    """Command line."""

    devices: tuple[int, ...] = (1, 2, 4, 8)
    only: str = ""
    """Runs the cases whose names begin so."""
    rounds: int = 5
    smoke: bool = False
    out: Path | None = None


def flow(equation: NavierStokes2D | NavierStokes3D, _: Any, w: jax.Array, domain: Grid | Piece) -> jax.Array:
    """Two steps of a spectral solver."""
    return repeat(ETDRK(equation, domain, 1e-3, dtype=w.dtype), 2)(w)


def transport(_: Any, u: jax.Array, domain: Grid | Piece) -> jax.Array:
    """Two steps of finite differences."""

    def rate(u: jax.Array) -> jax.Array:
        return sum(
            (0.01 * finite_difference(u, domain, axis, 2) - finite_difference(u, domain, axis) for axis in range(2)),
            jnp.zeros_like(u),
        )

    def step(u: jax.Array, dt: float = 1e-4) -> jax.Array:
        a = rate(u)
        b = rate(u + dt / 2 * a)
        c = rate(u + dt / 2 * b)
        return u + dt / 6 * (a + 2 * b + 2 * c + rate(u + dt * c))

    return repeat(step, 2)(u)


def cases(smoke: bool) -> list[Case]:
    """All rows."""
    plane, cube, modes, width = ((64,) * 2, (16,) * 3, 4, 4) if smoke else ((512,) * 2, (64,) * 3, 16, 24)
    turn = 2 * pi
    operator = FNO(1, 1, modes=(modes, modes), width=width, depth=2, key=jax.random.key(0))
    weights, static = eqx.partition(operator, eqx.is_array)

    def apply(weights: Any, u: jax.Array, domain: Any) -> jax.Array:
        return eqx.combine(weights, static)(u, domain)

    slabs, pencils = ("x", None), ("x", "y", None)
    return [
        Case("Navier-Stokes 2-D", Grid(plane, 0.0, turn), 1, slabs, partial(flow, NavierStokes2D(1e-3))),
        Case("Navier-Stokes 3-D", Grid(cube, 0.0, turn), 3, pencils, partial(flow, NavierStokes3D(1e-3))),
        Case("finite differences", Grid(plane, placement=("nodes", "left")), 1, ("x", "y"), transport),
        Case("FNO and gradient", Grid(plane), 1, slabs, apply, weights, gradient=True),
    ]


def mesh_of(names: AxisNames, devices: int) -> Mesh:
    """So many devices, in two rows where two axes are cut."""
    given = [name for name in names if name is not None]
    rows = 1 if len(given) == 1 or devices == 1 else 2
    return Mesh(np.array(jax.devices()[:devices]).reshape((devices,) if len(given) == 1 else (-1, rows)), given)


def program(case: Case, devices: int) -> tuple[Callable, tuple[Any, jax.Array]]:
    """What runs, and on what."""
    mesh, cut = mesh_of(case.axis_names, devices), P(None, *case.axis_names)
    u = np.random.default_rng(0).normal(size=(case.channels, *case.grid.shape)).astype(np.float32)
    arguments = jax.device_put((case.weights, u - u.mean()), (NamedSharding(mesh, P()), NamedSharding(mesh, cut)))

    def on_piece(weights: Any, u: jax.Array) -> jax.Array:
        return case.function(weights, u, Piece(case.grid, case.axis_names) if devices > 1 else case.grid)

    run = jax.shard_map(on_piece, mesh=mesh, in_specs=(P(), cut), out_specs=cut) if devices > 1 else on_piece
    if case.gradient:
        return jax.grad(lambda weights, u: jnp.mean(run(weights, u) ** 2)), arguments
    return run, arguments


def measure(case: Case, devices: int, config: Config) -> tuple[dict[str, Any], Any]:
    """One row, and the result."""
    function, arguments = program(case, devices)
    compiled = jax.jit(function).lower(*arguments).compile()
    memory: Any = compiled.memory_analysis()
    kinds = re.findall(rf" ({'|'.join(EXCHANGES)})(?:-start)?\(", compiled.as_text() or "")
    seconds = []
    result = jax.block_until_ready(compiled(*arguments))
    for _ in range(1 if config.smoke else config.rounds):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        seconds.append(time.perf_counter() - start)
    needed = memory.temp_size_in_bytes + memory.argument_size_in_bytes
    row = {"case": case.name, "devices": devices, "bytes": needed, "exchanges": dict(Counter(kinds))}
    return row | {"seconds": median(seconds)}, jax.tree.map(np.asarray, result)


def apart(found: Any, expected: Any) -> float:
    """The relative distance of two results, all their arrays together."""
    found, expected = (np.concatenate([a.ravel() for a in jax.tree.leaves(tree)]) for tree in (found, expected))
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def main(config: Config) -> dict[str, Any]:
    """Runs every row."""
    jax.config.update("jax_num_cpu_devices", max(config.devices))
    counts = sorted({1, *(n for n in config.devices if n <= len(jax.devices()))})
    rows = []
    for case in cases(config.smoke):
        if not case.name.startswith(config.only):
            continue
        one, whole = measure(case, 1, config)
        for devices in counts:
            row, result = measure(case, devices, config) if devices > 1 else (one, whole)
            row |= {"memory": row["bytes"] / one["bytes"], "apart": apart(result, whole)}
            rows.append(row)
            figures = f"memory {row['memory']:.3f}, apart {row['apart']:.1e}, {row['seconds']:.3g} s"
            print(f"{case.name} {case.grid.shape} on {devices}: {figures}, {row['exchanges']}", flush=True)
    result = {
        "rows": rows,
        "worst_memory": max(row["memory"] * row["devices"] for row in rows),
        "all_gathers": sum(row["exchanges"].get("all-gather", 0) for row in rows),
        "versions": {"jax": jax.__version__, "device": str(jax.devices()[0])},
    }
    print({name: result[name] for name in ("worst_memory", "all_gathers")})
    if config.out:
        config.out.write_text(json.dumps(result, indent=1))
    return result


if __name__ == "__main__":
    main(tyro.cli(Config))
