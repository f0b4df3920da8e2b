"""Darcy flow on the unit square: draw it, read it from a file, and draw a picture of what an operator made of it."""

from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix
from jax import lax

from opkit.data import Pair, read_pairs
from opkit.training import Run
from solvers import (
    Dirichlet,
    EllipticProblem,
    EllipticSolution,
    Grid,
    Placement,
    PowerSpectrum,
    Robin,
    gaussian_random_field,
    solve_elliptic,
)


class Problem(NamedTuple):
    """Pairs `(coefficient, pressure)`, each `(samples, 1, n, n)`: to train on, and tests by resolution."""

    train: Pair
    test: Mapping[str, Pair]
    grids: Mapping[str, Grid]
    trained_at: str


def read_darcy(path: str | PathLike[str], placement: Placement) -> Problem:
    """The pairs of a file (see `read_pairs`), on the unit square."""
    pairs = read_pairs(path, ndim=2, dtype=np.float32)
    trained_at = str(pairs.train[0].shape[-1])
    shapes = {trained_at: pairs.train[0].shape[2:]} | {name: x.shape[2:] for name, (x, _) in pairs.test.items()}
    grids = {name: Grid(shape, placement=placement) for name, shape in shapes.items()}
    return Problem(pairs.train, pairs.test, grids, trained_at)


def draw_darcy(resolution: int, samples: int, tests: int, run: Run, *, low: float = 3.0, high: float = 12.0) -> Problem:
    """Draw `-div(a grad u) = 1`, `u = 0` on the boundary, `a` two-valued: where a Gaussian field is positive, `high`.

    The field has the covariance `(-Laplacian + 9)^-2` with Neumann conditions and zero mean (Li et al. 2021). Each
    solution is computed at eight times the training resolution; coarser grids (cell centres) have the coefficient
    of the same field there, and the means of the solution over their cells.
    """
    fine = Grid((8 * resolution,) * 2, placement="cells")
    grids = {str(n): Grid((n, n), placement="cells") for n in (resolution, 2 * resolution, 4 * resolution)}
    spectrum = PowerSpectrum(alpha=2.0, tau=3.0)

    def coefficient(key: jax.Array, grid: Grid) -> jax.Array:
        field = gaussian_random_field(grid, spectrum, basis="neumann", modes=4 * resolution, zero_mean=True, key=key)
        return jnp.where(field > 0, high, low)

    @jax.jit
    def draw(keys: jax.Array) -> tuple[dict[str, Any], dict[str, Any], EllipticSolution]:
        solution = lax.map(lambda key: solve_darcy(coefficient(key, fine), fine), keys, batch_size=8)
        x = {name: jax.vmap(lambda key, g=grid: coefficient(key, g))(keys) for name, grid in grids.items()}
        y = {name: _cell_means(solution.value, grid.shape) for name, grid in grids.items()}
        return x, y, solution

    x, y, solution = draw(jax.random.split(jax.random.fold_in(run.key, 0), samples + tests))
    run.check(solution.result, "the solver that draws the data")
    pairs = {name: (np.asarray(x[name])[:, None], np.asarray(y[name])[:, None]) for name in grids}
    a, u = pairs[str(resolution)]
    test = {name: (a[samples:], u[samples:]) for name, (a, u) in pairs.items()}
    return Problem((a[:samples], u[:samples]), test, grids, str(resolution))


def solve_darcy(a: jax.Array, grid: Grid) -> EllipticSolution:
    """`-div(a grad u) = 1`, `u = 0` on the boundary, for `a: (*n,)` on a grid of `cells` or `left` points.

    On a `left` grid the first row and column lie on the boundary, where `u = 0`; around each other point stands a cell,
    and from the last cells to the boundary it is half a cell more: a resistance, which is a Robin condition.
    """
    if grid.placement == ("cells", "cells"):
        return solve_elliptic(EllipticProblem(grid, a, 1.0, Dirichlet(0.0)), rtol=1e-5)
    h = grid.spacing
    corners = ([x + step / 2 for x, step in zip(x, h, strict=True)] for x in (grid.lower, grid.upper))
    lower, upper = next(corners), [x - step for x, step in zip(next(corners), h, strict=True)]
    inner = Grid([n - 1 for n in grid.shape], lower, upper, "cells")
    a = a[1:, 1:]
    edges = [(a[0], a[-1]), (a[:, 0], a[:, -1])]
    sides = [[Robin(2 * edge / step) for edge in pair] for pair, step in zip(edges, h, strict=True)]
    solution = solve_elliptic(EllipticProblem(inner, a, 1.0, sides), rtol=1e-5)
    return eqx.tree_at(lambda s: s.value, solution, jnp.pad(solution.value, [(1, 0), (1, 0)]))


def fit_classical(problem: Problem, run: Run, *, samples: int = 100) -> Callable[..., np.ndarray] | None:
    """The classical solver with the two values of the coefficient fitted to the first `samples` training pairs: a
    function of coefficients `(samples, 1, n, n)` and their grid, to solutions of the same shape. `None` where the
    coefficient is not two-valued.

    Fitted are the relative errors, in the least-squares sense, by Levenberg-Marquardt through the solver.
    """
    x, y = problem.train
    low, high = float(x.min()), float(x.max())
    if not np.isin(x, (low, high)).all() or low == high:
        return None
    x, y = jnp.asarray(x[:samples, 0]), jnp.asarray(y[:samples, 0])
    size = jnp.sqrt(jnp.sum(y**2, (1, 2), keepdims=True))

    def solve(logarithms: jax.Array, x: jax.Array, grid: Grid) -> EllipticSolution:
        return solve_darcy(jnp.exp(logarithms[0] + (x - low) / (high - low) * (logarithms[1] - logarithms[0])), grid)

    def residual(logarithms: jax.Array, _: None) -> jax.Array:
        u = jax.vmap(lambda x: solve(logarithms, x, problem.grids[problem.trained_at]).value)(x)
        return (u - y) / size

    start = jnp.log(jnp.asarray([3.0, 12.0], x.dtype))
    fitted = optimistix.least_squares(residual, optimistix.LevenbergMarquardt(1e-3, 1e-3), start, throw=False)
    run.check(fitted.result, "the fit of the coefficient's two values")
    run.print(f"classical solver: a = {np.exp(fitted.value[0]):.4g} and {np.exp(fitted.value[1]):.4g}, fitted")

    def solutions(x: np.ndarray, grid: Grid) -> np.ndarray:
        batched = lambda x: lax.map(lambda x: solve(fitted.value, x, grid), x, batch_size=50)
        solution = jax.jit(batched)(x[:, 0])
        run.check(solution.result, f"the classical solver on {grid.shape}")
        return np.asarray(solution.value)[:, None]

    return solutions


class SolutionCorrection(eqx.Module):
    """`u_1 + op(u)`: an operator that learns what the solution in the second channel lacks."""

    op: Any

    def __call__(self, u: jax.Array, domain: Any, query: Any = None, *, args: Any = None, key: Any = None) -> jax.Array:
        """Apply to one sample."""
        return u[1:] + self.op(u, domain, query, args=args, key=key)


def with_solutions(problem: Problem, solver: Callable[..., np.ndarray]) -> Problem:
    """The problem with the solver's solution as a second channel of the inputs, at every resolution."""
    both = lambda x, grid: np.concatenate([x, solver(x, grid)], 1)
    (x, y), test = problem.train, problem.test
    train = both(x, problem.grids[problem.trained_at]), y
    return problem._replace(train=train, test={n: (both(x, problem.grids[n]), y) for n, (x, y) in test.items()})


def interpolated(fields: np.ndarray, source: Grid, target: Grid) -> np.ndarray:
    """Fields `(samples, 1, *n)` on another grid, linear between points and constant beyond the outermost."""
    for axis, (old, new) in enumerate(zip(source.axes(), target.axes(), strict=True), start=2):
        matrix = np.stack([np.interp(new, old, row) for row in np.eye(len(old))])
        fields = np.moveaxis(np.tensordot(fields, matrix, (axis, 0)), -1, axis)
    return fields.astype(np.float32)


def plot_darcy(rows: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]], title: str) -> Any:
    """A row a resolution: coefficient, solution and prediction (on one scale), prediction minus solution.

    **Arguments:** `rows`: by resolution `(coefficient, solution, prediction)`, `(n, n)` each.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(rows), 4, figsize=(11, 2.75 * len(rows)), squeeze=False, layout="constrained")
    for line, (name, (a, u, prediction)) in zip(axes, rows.items(), strict=True):
        error = prediction - u
        relative = np.linalg.norm(error) / np.linalg.norm(u)
        scale = {"vmin": min(u.min(), prediction.min()), "vmax": max(u.max(), prediction.max())}
        panels = [
            ("coefficient $a$", a, {"cmap": "cividis"}),
            ("solution $u$", u, scale),
            ("prediction", prediction, scale),
            (f"error, {100 * relative:.1f} % in $L^2$", error, {"cmap": "RdBu_r", **_symmetric(error)}),
        ]
        for axis, (label, field, options) in zip(line, panels, strict=True):
            image = axis.imshow(field.T, origin="lower", extent=(0, 1, 0, 1), **options)
            axis.set_title(label, fontsize=10)
            axis.set_xticks([0, 1])
            axis.set_yticks([0, 1])
            figure.colorbar(image, ax=axis, shrink=0.85)
        line[0].set_ylabel(f"{name} $\\times$ {name}")
    figure.suptitle(title)
    return figure


def _cell_means(u: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    rows, columns = (fine // coarse for fine, coarse in zip(u.shape[1:], shape, strict=True))
    return u.reshape(-1, shape[0], rows, shape[1], columns).mean((2, 4))


def _symmetric(error: np.ndarray) -> dict[str, float]:
    largest = float(np.abs(error).max())
    return {"vmin": -largest, "vmax": largest}
