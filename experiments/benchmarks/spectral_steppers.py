"""Microseconds a step of the ETDRK4 steppers, beside their Fourier transforms alone and beside exponax.

Shows, for Burgers, Kuramoto-Sivashinsky and Korteweg-de Vries in 1-D (1024), Navier-Stokes (64, 256), Burgers (128) and
Gray-Scott (128) in 2-D and Burgers in 3-D (48), for one trajectory and a batch of 16, in float32: ours, by `repeat`;
the floor, which is the transforms that the scheme cannot avoid (four stages of the inverse and forward transforms of
each right-hand side, in a loop of their own); exponax's `repeat` of the same stepper, and its `RepeatedStepper`, which
stays in coefficients as we do; and the gradient of the final state's energy in the initial state over the forward run.
Same equation, form, step, order and dealiasing (a cut at two thirds or a half; exponax's keeps a wavenumber or two
less). A batch goes by `vmap` and by `lax.map`, one trajectory after the other, which on a CPU is up to twice as fast
where a batch outgrows its caches (2-D and 3-D); every contestant is taken at its better way. How far the two end states
are apart is printed: exponax takes the real part of its contour means, so on dispersive equations (KdV) it is of first
order, and far; and its advective form in 3-D, compiled, is not its own value uncompiled (jax 0.10, CPU).

Contestants take turns; medians; compile time apart. `worst_ratio` is the largest of ours over exponax's `repeat` in the
2-D and 3-D rows, forward. Run it on one core: on two, XLA hands every kernel to either, and moving the arrays between
their caches costs both contestants more than the second core gives. Costs: three quarters of an hour, nothing else
running; `--only "KS"` runs one equation, `--smoke` takes seconds.

    taskset -c 0 python experiments/benchmarks/spectral_steppers.py --peer exponax --out result.json
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import pi
from pathlib import Path
from statistics import median
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from solvers import ETDRK, Grid, repeat
from solvers.equations import Burgers, Equation, GrayScott, KortewegDeVries, KuramotoSivashinsky, NavierStokes2D


@dataclass(frozen=True)
class Case:
    """An equation on a grid, the transforms of one right-hand side there and back, and exponax's name for it."""

    name: str
    shape: tuple[int, ...]
    extent: float
    dt: float
    equation: Equation
    inverse: int
    forward: int
    peer: str
    options: dict[str, Any]


def cases(smoke: bool) -> list[Case]:
    """All rows."""
    line, small, middle, large, cube = (8, 8, 8, 8, 8) if smoke else (1024, 64, 128, 256, 48)
    burgers = {"diffusivity": 0.01, "conservative": True}
    lamb = {"diffusivity": 0.01, "conservative": False}
    conservative, advective = Burgers(0.01, conservative=True), Burgers(0.01)
    flow = {"diffusivity": 1e-3}
    kdv = {"hyper_diffusivity": 0.0, "conservative": True}
    spots = {"feed_rate": 0.04, "kill_rate": 0.06}
    turn = 2 * pi
    return [
        Case("Burgers 1-D", (line,), turn, 1e-3, conservative, 1, 1, "Burgers", burgers),
        Case("KS 1-D", (line,), 64.0, 0.05, KuramotoSivashinsky(), 1, 1, "KuramotoSivashinskyConservative", {}),
        Case("KdV 1-D", (line,), 8 * turn, 1e-4, KortewegDeVries(), 1, 1, "KortewegDeVries", kdv),
        Case("Navier-Stokes 2-D", (small,) * 2, turn, 1e-3, NavierStokes2D(1e-3), 2, 2, "NavierStokesVorticity", flow),
        Case("Navier-Stokes 2-D", (large,) * 2, turn, 1e-3, NavierStokes2D(1e-3), 2, 2, "NavierStokesVorticity", flow),
        Case("Burgers 2-D, conservative", (middle,) * 2, turn, 1e-3, conservative, 2, 3, "Burgers", burgers),
        Case("Burgers 2-D", (middle,) * 2, turn, 1e-3, advective, 3, 3, "Burgers", lamb),
        Case("Burgers 3-D, conservative", (cube,) * 3, turn, 1e-3, conservative, 3, 6, "Burgers", burgers),
        Case("Burgers 3-D", (cube,) * 3, turn, 1e-3, advective, 6, 4, "Burgers", lamb),
        Case("Gray-Scott 2-D", (middle,) * 2, 1.0, 0.1, GrayScott(2e-5, 1e-5, 0.04, 0.06), 2, 1, "GrayScott", spots),
    ]


@dataclass(frozen=True)
class Config:
    """Command line."""

    peer: tuple[Literal["exponax"], ...] = ()
    only: str = ""
    """Runs the cases whose names begin so."""
    steps: int = 100
    """Of a rollout; a tenth of it for batches beyond one dimension."""
    rounds: int = 7
    batch: int = 16
    gradient: bool = True
    smoke: bool = False
    out: Path | None = None


def initial_state(case: Case, batch: int) -> jax.Array:
    """`(batch, channels, *n)` of a few long waves, of size 1; for Gray-Scott small ones about (1/2, 1/4)."""
    rng = np.random.default_rng(0)
    channels = case.equation.channels(len(case.shape))
    x = 2 * pi * np.stack(np.meshgrid(*[np.arange(n) / n for n in case.shape], indexing="ij"))
    u = np.zeros((batch, channels, *case.shape))
    for _ in range(6):
        k = rng.integers(-2, 3, size=(batch, channels, len(case.shape)))
        phase = rng.uniform(0, 2 * pi, size=(batch, channels) + (1,) * len(case.shape))
        u += np.sin(np.tensordot(k, x, 1) + phase) / 3
    u -= u.mean(axis=tuple(range(2, u.ndim)), keepdims=True)
    if case.peer == "GrayScott":
        u = np.array([0.5, 0.25]).reshape(2, *[1] * len(case.shape)) + 0.05 * u
    return jnp.asarray(u, jnp.float32)


def floor(case: Case, steps: int) -> Callable[[jax.Array], jax.Array]:
    """Nothing but the transforms: per stage `inverse` fields to points and `forward` products back."""
    axes = tuple(range(1, 1 + len(case.shape)))

    def run(u: jax.Array) -> jax.Array:
        start = jnp.fft.rfftn(jnp.resize(u, (case.inverse, *case.shape)), axes=axes)

        def stage(v: jax.Array) -> jax.Array:
            products = jnp.fft.irfftn(v, case.shape, axes=axes)
            if case.forward > case.inverse:
                products = jnp.concatenate([products, products[: case.forward - case.inverse]])
            back = jnp.fft.rfftn(products[: case.forward], axes=axes)
            return back[: case.inverse] if case.forward >= case.inverse else v.at[: case.forward].set(back)

        return jax.lax.scan(lambda v, _: (stage(stage(stage(stage(v)))), None), start, length=steps)[0]

    return run


def exponax(case: Case, steps: int) -> dict[str, Callable[[jax.Array], jax.Array]]:
    """Its stepper, repeated in its two ways."""
    import exponax as peer  # pyright: ignore[reportMissingImports]  # lives in its own environment

    room = peer.stepper.reaction if case.peer == "GrayScott" else peer.stepper
    stepper = getattr(room, case.peer)(len(case.shape), case.extent, case.shape[0], case.dt, order=4, **case.options)
    runs = {"exponax": peer.repeat(stepper, steps), "exponax's coefficients": peer.RepeatedStepper(stepper, steps)}
    if case.peer != "NavierStokesVorticity":
        return runs
    # its vorticity turns the other way
    return {name: lambda u, run=run: -run(-u) for name, run in runs.items()}


def one_by_one(run: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    """A batch, one trajectory after the other."""
    return partial(jax.lax.map, run)


def compare(case: Case, batch: int, config: Config) -> dict[str, Any]:
    """One row."""
    steps = config.steps if batch == 1 or len(case.shape) == 1 else max(1, config.steps // 10)
    stepper = ETDRK(case.equation, Grid(case.shape, 0.0, case.extent), case.dt)
    runs = {"ours": lambda u: repeat(stepper, steps)(u)} | (exponax(case, steps) if config.peer else {})
    u = initial_state(case, batch)

    def energy(run: Callable, u: jax.Array) -> jax.Array:
        return jnp.sum(run(u) ** 2)

    tasks = {}
    for way, batched in {"vmap": jax.vmap, "map": one_by_one}.items() if batch > 1 else [("vmap", jax.vmap)]:
        for name, run in (runs | {"floor": floor(case, steps)}).items():
            tasks[name, way] = jax.jit(batched(run))
            if config.gradient and name != "floor":
                tasks[f"gradient of {name}", way] = jax.jit(jax.grad(partial(energy, batched(run))))
    first, ends, seconds = {}, {}, {task: [] for task in tasks}
    for (name, way), task in tasks.items():
        start = time.perf_counter()
        ends[name] = jax.block_until_ready(task(u))
        first[f"{name}, {way}"] = time.perf_counter() - start
    for _ in range(1 if config.smoke else config.rounds):
        for key, task in tasks.items():
            start = time.perf_counter()
            jax.block_until_ready(task(u))
            seconds[key].append((time.perf_counter() - start) / steps / batch)
    by_way = {key: 1e6 * median(values) for key, values in seconds.items()}
    step = {name: min(value for (other, _), value in by_way.items() if other == name) for name in ends}
    row = {"case": case.name, "shape": case.shape, "batch": batch, "steps": steps, "microseconds": step, "first": first}
    row["by way"] = {f"{name}, {way}": value for (name, way), value in by_way.items()}
    row["of floor"] = step["ours"] / step["floor"]
    for name in runs:
        if name != "ours":
            row[f"of {name}"] = step["ours"] / step[name]
            row["apart"] = float(jnp.abs(ends["ours"] - ends[name]).max() / jnp.abs(ends["ours"]).max())
        if config.gradient:
            row[f"gradient over forward, {name}"] = step[f"gradient of {name}"] / step[name]
    ratios = {key: round(value, 3) for key, value in row.items() if isinstance(value, float)}
    print(f"{case.name} {case.shape} x {batch}:", {k: round(v, 1) for k, v in step.items()}, ratios, flush=True)
    return row


def main(config: Config) -> dict[str, Any]:
    """Runs every row."""
    rows = [
        compare(case, batch, config)
        for case in cases(config.smoke)
        if case.name.startswith(config.only)
        for batch in (1, 2 if config.smoke else config.batch)
    ]
    result: dict[str, Any] = {"rows": rows, "versions": {"jax": jax.__version__, "device": str(jax.devices()[0])}}
    if config.peer:
        result["worst_ratio"] = max((row["of exponax"] for row in rows if len(row["shape"]) > 1), default=None)
        print("worst ratio to exponax in 2-D and 3-D:", result["worst_ratio"])
    if config.out:
        config.out.write_text(json.dumps(result, indent=1))
    return result


if __name__ == "__main__":
    main(tyro.cli(Config))
