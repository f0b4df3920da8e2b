"""Darcy flow by multigrid-preconditioned conjugate gradients, against SciPy's sparse LU.

Shows (1) solves per second of a batch of `-div(a grad u) = 1`, `u = 0` on the boundary, `a` in {3, 12} by the
sign of a Gaussian random field (darcy16's coefficients), to a residual of 1e-8, set-up of the hierarchy
included, beside `scipy.sparse.linalg.spsolve` a sample (assembly excluded) in the same run, and how far the
two agree; (2) iterations and seconds of one solve against size and contrast, the inclusions not aligned with
any grid.

Cost: a few minutes on two cores, most of it compilation. Medians over `--repeats`; compile times apart.
Both sides are interleaved, so that another load on the machine falls on both."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as sla
import tyro

from solvers import (
    Dirichlet,
    EllipticProblem,
    EllipticSolution,
    Grid,
    PowerSpectrum,
    gaussian_random_field,
    solve_elliptic,
)


@dataclass(frozen=True)
class Config:
    """What to measure."""

    sizes: tuple[int, ...] = (64, 128)
    """Points a side of the batched solves."""
    batch: int = 64
    """Samples a call."""
    chunk: int = 1
    """Samples solved together within a call, by `lax.map`; `batch` makes it one `vmap`."""
    repeats: int = 5
    """Timed calls, after one to compile."""
    growth: tuple[int, ...] = (32, 64, 128, 256)
    """Points a side of the table of iterations."""
    contrasts: tuple[float, ...] = (4.0, 1e3, 1e6)
    """Ratios of the coefficient's two values in that table."""
    single: bool = True
    """The multigrid cycle in float32, inside the float64 iteration."""
    seed: int = 0
    """Of the coefficients."""
    out: Path | None = None
    """Where to write the figures, as JSON."""
    smoke: bool = False
    """Shrink everything to seconds."""


def coefficients(grid: Grid, low: float, high: float, count: int, seed: int) -> jax.Array:
    """Two-valued fields `(count, *n)`: the same functions at every resolution."""
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(jnp.arange(count))
    draw = lambda key: gaussian_random_field(
        grid, PowerSpectrum(2.0, 3.0), basis="neumann", modes=24, zero_mean=True, key=key
    )
    return jnp.where(jax.jit(jax.vmap(draw))(keys) >= 0, high, low)


def solver(grid: Grid, single: bool):
    """One sample's solve, `a -> EllipticSolution`."""
    dtype = jnp.float32 if single else None

    def solve(a: jax.Array) -> EllipticSolution:
        return solve_elliptic(EllipticProblem(grid, a, 1.0, Dirichlet()), rtol=1e-8, preconditioner_dtype=dtype)

    return solve


def assemble(a: np.ndarray) -> sp.csc_matrix:
    """The same five-point equations as a sparse matrix."""
    number, flat = np.arange(a.size).reshape(a.shape), a.ravel()
    diagonal, matrix = np.zeros(a.size), sp.csc_matrix((a.size, a.size))
    for axis, size in enumerate(a.shape):
        first, second = (np.delete(number, end, axis).ravel() for end in (-1, 0))
        face = 2 / (1 / flat[first] + 1 / flat[second]) * size**2
        coupling = sp.csc_matrix((face, (first, second)), matrix.shape)
        matrix = matrix - coupling - coupling.T
        for end in (0, -1):
            edge = number.take(end, axis)
            diagonal[edge] += 2 * flat[edge] * size**2
        np.add.at(diagonal, first, face)
        np.add.at(diagonal, second, face)
    return sp.csc_matrix(matrix + sp.diags(diagonal))


def seconds(function) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def throughput(n: int, config: Config) -> dict:
    """Solves per second of both solvers at `n` by `n`."""
    grid = Grid((n, n), placement="cells")
    a = coefficients(grid, 3.0, 12.0, config.batch, config.seed)
    solve = solver(grid, config.single)
    run = jax.jit(lambda a: jax.lax.map(solve, a, batch_size=config.chunk))
    compiled = []
    compile_seconds = seconds(lambda: compiled.append(run.lower(a).compile()))
    run = compiled[0]
    ours = jax.block_until_ready(run(a))

    matrices = [assemble(np.asarray(each)) for each in a[: min(config.batch, 8)]]
    right = np.ones(n * n)
    lu = lambda: [cast(np.ndarray, sla.spsolve(matrix, right)) for matrix in matrices]
    difference = [
        np.linalg.norm(np.ravel(u) - expected) / np.linalg.norm(expected)
        for u, expected in zip(ours.value[: len(matrices)], lu(), strict=True)
    ]
    times = [
        (seconds(lambda: jax.block_until_ready(run(a))) / config.batch, seconds(lu) / len(matrices))
        for _ in range(config.repeats)
    ]
    mine, theirs = np.median(np.array(times), axis=0)
    return {
        "n": n,
        "ms_per_solve": 1e3 * mine,
        "spsolve_ms": 1e3 * theirs,
        "ratio": float(np.median([theirs / mine for mine, theirs in times])),
        "iterations": int(ours.iterations.max()),
        "residual": float(ours.relative_residual.max()),
        "difference": max(difference),
        "compile_s": compile_seconds,
    }


def growth(n: int, config: Config) -> list[dict]:
    """Iterations and seconds of single solves at `n` by `n`, for each contrast; the worst of three draws."""
    grid = Grid((n, n), placement="cells")
    run = jax.jit(solver(grid, single=False))
    rows = []
    for contrast in config.contrasts:
        draws = coefficients(grid, 1.0, contrast, 3, config.seed)
        solutions = [jax.block_until_ready(run(a)) for a in draws]
        times = [seconds(lambda a=a: jax.block_until_ready(run(a))) for a in draws for _ in range(config.repeats)]
        rows.append(
            {
                "n": n,
                "contrast": contrast,
                "iterations": max(int(s.iterations) for s in solutions),
                "residual": max(float(s.relative_residual) for s in solutions),
                "ms": 1e3 * float(np.median(times)),
            }
        )
    return rows


def show(row: dict) -> None:
    """One line of a table."""
    print("  ".join(f"{name} {value:.3g}" for name, value in row.items()), flush=True)


def main(config: Config) -> dict:
    """Print both tables; return them."""
    jax.config.update("jax_enable_x64", True)
    batched, single = [], []
    for n in (16,) if config.smoke else config.sizes:
        batched.append(throughput(n, config))
        show(batched[-1])
    for n in (8, 16) if config.smoke else config.growth:
        for row in growth(n, config):
            single.append(row)
            show(row)
    figures = {"config": asdict(config) | {"out": str(config.out)}, "throughput": batched, "growth": single}
    if config.out is not None:
        config.out.write_text(json.dumps(figures, indent=2))
    return figures


if __name__ == "__main__":
    main(tyro.cli(Config))
