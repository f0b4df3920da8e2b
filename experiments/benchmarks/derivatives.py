"""What derivatives of a network cost, and their gradient in its parameters: ours beside the usual ways to write them.

Shows: milliseconds, megabytes of temporary memory and seconds of compilation for a batch of points of an MLP of 4
hidden layers of 64 with tanh, of

- its Laplacian, in 3 and 10 dimensions: `opkit.physics.laplacian`, the trace of `jax.hessian`, forward over forward,
  reverse over forward, and `jax.experimental.jet` along each axis;
- the residual of Burgers' equation, `u_t + u u_x - nu u_xx`, and of Korteweg and de Vries', with `u_xxx`: by one call
  of `opkit.physics.derivatives`, and each term by its own nested `jax.jvp`;

and of the gradient of their mean square in the parameters, which is what training computes. All results are compared.
Contestants take turns within one run; medians of each turn's mean; compilation apart. Beside other load compare on one
core, with `--cpu`.

Costs: three minutes on one core; `--smoke` takes seconds.

    taskset -c 0 python experiments/benchmarks/derivatives.py --cpu --out derivatives.json
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.experimental.jet import jet

from opkit.physics import derivatives, laplacian

TARGETS = {"Laplacian 3-D, value": 0.85, "Laplacian 3-D, gradient": 0.35}


@dataclass(frozen=True)
class Config:
    """Command line."""

    dimensions: tuple[int, ...] = (3, 10)
    """Of the Laplacians."""
    points: int = 10_000
    width: int = 64
    depth: int = 4
    rounds: int = 5
    """Turns each contestant takes; the median is reported."""
    calls: int = 2
    """A turn."""
    precision: Literal["float32", "float64"] = "float32"
    seed: int = 0
    cpu: bool = False
    """Count seconds of the processor, not of the clock: for one core beside other load."""
    smoke: bool = False
    out: Path | None = None


# A way to write an expression: of the field and a point, an array of one entry.
Way = Callable[[Callable[[jax.Array], jax.Array], jax.Array], jax.Array]


def along(f: Callable[[jax.Array], jax.Array], v: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """The derivative of a field along `v`, a field again."""
    return lambda x: jax.jvp(f, (x,), (v,))[1]


def per_axis(second: Callable[[Any, jax.Array, jax.Array], jax.Array]) -> Way:
    """The Laplacian by second derivatives along an axis."""
    return lambda f, x: jax.vmap(lambda v: second(f, x, v))(jnp.eye(x.size, dtype=x.dtype)).sum(0)


LAPLACIANS: dict[str, Way] = {
    "opkit": laplacian,
    "hessian": lambda f, x: jnp.trace(jax.hessian(f)(x), axis1=1, axis2=2),
    "forward over forward": per_axis(lambda f, x, v: along(along(f, v), v)(x)),
    "reverse over forward": per_axis(lambda f, x, v: jax.grad(lambda x: along(f, v)(x)[0])(x)[None] @ v),
    "jet": per_axis(lambda f, x, v: jet(f, (x,), ((v, jnp.zeros_like(v)),))[1][1]),
}


def evolution(order: int) -> dict[str, Way]:
    """`u_t + u u_x - d^n u / dx^n / 100`."""

    def together(f: Any, point: jax.Array) -> jax.Array:
        u, u_t, u_x, u_n = derivatives(f, point, (), 0, 1, (1,) * order)
        return u_t + u * u_x - 0.01 * u_n

    def apart(f: Any, point: jax.Array) -> jax.Array:
        t, x = jnp.eye(2, dtype=point.dtype)
        highest = f
        for _ in range(order):
            highest = along(highest, x)
        return along(f, t)(point) + f(point) * along(f, x)(point) - 0.01 * highest(point)

    return {"opkit": together, "term by term": apart}


@dataclass
class Contestant:
    """A compiled way, what it gave, and what compiling it cost."""

    name: str
    run: Callable[[], Any]
    result: Any
    compilation: float
    megabytes: float


def contestant(
    name: str, way: Way, what: str, dimension: int, config: Config, clock: Callable[[], float]
) -> Contestant:
    """Compiled, and run once."""
    key, points = jax.random.split(jax.random.key(config.seed))
    dtype = jnp.dtype(config.precision)
    mlp = eqx.nn.MLP(dimension, 1, config.width, config.depth, jnp.tanh, dtype=dtype, key=key)
    parameters, static = eqx.partition(mlp, eqx.is_inexact_array)
    x = jax.random.uniform(points, (config.points, dimension), dtype)

    def values(parameters: Any) -> jax.Array:
        return jax.vmap(partial(way, eqx.combine(parameters, static)))(x)

    function = values if what == "value" else jax.grad(lambda parameters: jnp.mean(values(parameters) ** 2))
    start = clock()
    compiled = jax.jit(function).lower(parameters).compile()
    compilation = clock() - start
    run = lambda: jax.block_until_ready(compiled(parameters))
    memory = compiled.memory_analysis()
    return Contestant(name, run, run(), compilation, memory.temp_size_in_bytes / 1e6 if memory else float("nan"))


def timed(contestants: list[Contestant], config: Config, clock: Callable[[], float]) -> dict[str, float]:
    """Median seconds a call of each, taking turns."""
    seconds: dict[str, list[float]] = {each.name: [] for each in contestants}
    for turn in range(config.rounds):
        for each in contestants if turn % 2 else contestants[::-1]:
            start = clock()
            for _ in range(config.calls):
                each.run()
            seconds[each.name].append((clock() - start) / config.calls)
    return {name: median(values) for name, values in seconds.items()}


def difference(a: Any, b: Any) -> float:
    """The largest, relative to the largest entry of `b`."""
    pairs = [(np.asarray(x), np.asarray(y)) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)]
    return float(max(abs(x - y).max() for x, y in pairs) / max(abs(y).max() for _, y in pairs))


def main(config: Config) -> dict[str, Any]:
    """Runs all; `ratios` are ours over each other way's, in time."""
    if config.smoke:
        config = Config(
            points=8, width=8, depth=2, rounds=1, calls=1, precision=config.precision, smoke=True, out=config.out
        )
    if config.precision == "float64":
        jax.config.update("jax_enable_x64", True)
    clock = time.process_time if config.cpu else time.perf_counter
    cases = {f"Laplacian {d}-D": (LAPLACIANS, d) for d in config.dimensions}
    cases |= {"Burgers": (evolution(2), 2), "Korteweg-de Vries": (evolution(3), 2)}
    results: dict[str, Any] = {"ratios": {}, "targets": TARGETS}
    for case, (ways, dimension) in cases.items():
        for what in ("value", "gradient"):
            contestants = [contestant(name, way, what, dimension, config, clock) for name, way in ways.items()]
            seconds = timed(contestants, config, clock)
            ours, *others = contestants
            print(f"{case}, {what}")
            for each in contestants:
                print(
                    f"  {each.name:22s} {1e3 * seconds[each.name]:9.2f} ms  {each.megabytes:7.1f} MB  compiled in "
                    f"{each.compilation:5.2f} s, differs by {difference(each.result, ours.result):.0e}",
                    flush=True,
                )
            results[f"{case}, {what}"] = {
                each.name: {"seconds": seconds[each.name], "megabytes": each.megabytes, "compiled in": each.compilation}
                for each in contestants
            }
            ratios = {f"{case}, {what}: opkit / {each.name}": seconds["opkit"] / seconds[each.name] for each in others}
            results["ratios"] |= ratios
    for name, ratio in results["ratios"].items():
        print(f"{name:60s} {ratio:.3f}")
    results["versions"] = {"jax": jax.__version__, "device": str(jax.devices()[0])}
    if config.out:
        config.out.write_text(json.dumps(results, indent=1))
    return results


if __name__ == "__main__":
    main(tyro.cli(Config))
