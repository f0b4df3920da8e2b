"""The bench without time: D2 Darcy flow, D7 Calderon's inverse problem, D8 regression on functions."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, PRNGKeyArray

from solvers import (
    Dirichlet,
    EllipticProblem,
    EllipticSolution,
    Grid,
    PowerSpectrum,
    Robin,
    gaussian_random_field,
    solve_elliptic,
)


@dataclasses.dataclass(frozen=True)
class SampleRecipe:
    """What `generate` makes a data set of that has no time: pairs of fields, measurements, numbers.

    **Arguments:** `name`, `title`, `solver`: as for the file, the latter two in words. `draw`: maps a key to the arrays
    of one sample by name, where `{}` stands for the part, `train` or `test`; a name that ends in a digit is for tests
    only, as `x_{}65` of `read_pairs`. It is called in float64 and stored in float32; where its solver fails it returns
    NaN. `constants`: makes the arrays that all samples share. `train`, `test`: how many. `batch`: how many a call.

    **Raises:** `ValueError` for sizes that are not positive.
    """

    name: str
    title: str
    solver: str
    draw: Callable[[PRNGKeyArray], Mapping[str, Array]]
    train: int
    test: int
    constants: Callable[[], Mapping[str, Array]] = dict
    batch: int = 16

    def __post_init__(self):
        for size in ("train", "test", "batch"):
            if getattr(self, size) < 1:
                raise ValueError(f"`{size}` is {getattr(self, size)}; expected 1 or more.")


_DARCY = Grid((129, 129), placement="nodes")
_CELLS, _SENSORS, _CURRENTS = 64, 32, 20
_TIMES, _TERMS = 51, 50


def solve_darcy_on_nodes(a: Float[Array, "n m"], grid: Grid) -> EllipticSolution:
    """`-div(a grad u) = 1`, `u = 0` on the boundary, by finite volumes of five points, on a grid of `nodes`.

    A cell stands around each inner node, and half a cell is left to the boundary: a resistance, a Robin condition. The
    solution's `value: (n, m)` has the zeros of the boundary.
    """
    steps = grid.spacing
    lower, upper = (
        [x + sign * h / 2 for x, h in zip(corner, steps, strict=True)]
        for corner, sign in ((grid.lower, 1), (grid.upper, -1))
    )
    inside = Grid([n - 2 for n in grid.shape], lower, upper, "cells")
    a = a[1:-1, 1:-1]
    edges = ((a[0], a[-1]), (a[:, 0], a[:, -1]))
    sides = [[Robin(2 * edge / h) for edge in pair] for pair, h in zip(edges, steps, strict=True)]
    solution = solve_elliptic(EllipticProblem(inside, a, 1.0, sides))
    return EllipticSolution(
        jnp.pad(solution.value, 1),
        solution.result,
        solution.iterations,
        solution.relative_residual,
        solution.incompatibility,
    )


def dirichlet_to_neumann(
    a: Float[Array, "n n"], values: Float[Array, " 4*n"], grid: Grid
) -> tuple[Float[Array, " 4*n"], lx.RESULTS]:
    """The current `a du/dn` out of a square, `div(a grad u) = 0`, where its boundary has the potential `values`.

    Both are numbers at the faces of the cells on the boundary, counter-clockwise from the corner of the least
    coordinates: along the first axis, up the second, and back. The slope is that of the parabola through the boundary
    and two cells, and `a` is extrapolated; for smooth `a` and `values` the largest error, in the corners, is of first
    order.

    **Returns:** the currents and Lineax's code.
    """
    low, right, top, left = jnp.split(values, 4)
    g = ((left[::-1], right), (low, top[::-1]))
    boundary = [[Dirichlet(side) for side in pair] for pair in g]
    solution = solve_elliptic(EllipticProblem(grid, a, 0.0, boundary))

    def current(axis: int, side: int) -> Array:
        first, second = (0, 1) if side == 0 else (-1, -2)
        u, b = (jnp.moveaxis(v, axis, 0) for v in (solution.value, a))
        slope = (8 * g[axis][side] - 9 * u[first] + u[second]) / (3 * grid.spacing[axis])
        return (1.5 * b[first] - 0.5 * b[second]) * slope

    faces = (current(1, 0), current(0, 1), current(1, 1)[::-1], current(0, 0)[::-1])
    return jnp.concatenate(faces), solution.result


def potentials(sensors: int) -> Float[Array, "20 faces"]:
    """The plane waves `cos(2 pi (x cos t + y sin t))`, `t = 0, pi / 20, ...`, at `sensors` faces a side of the unit
    square, in the order of `dirichlet_to_neumann`."""
    along, zero = (jnp.arange(sensors) + 0.5) / sensors, jnp.zeros(sensors)
    x = jnp.concatenate([along, zero + 1, along[::-1], zero])
    y = jnp.concatenate([zero, along, zero + 1, along[::-1]])
    angles = jnp.pi * jnp.arange(_CURRENTS)[:, None] / _CURRENTS
    return jnp.cos(2 * jnp.pi * (x * jnp.cos(angles) + y * jnp.sin(angles)))


def _draw_darcy(key: PRNGKeyArray) -> Mapping[str, Array]:
    """`a` is 12 where a Gaussian field of covariance (-Lap + 9)^-2 is positive, else 3 (arXiv:2010.08895)."""
    field = gaussian_random_field(_DARCY, PowerSpectrum(), basis="neumann", modes=64, zero_mean=True, key=key)
    a = jnp.where(field > 0, 12.0, 3.0)
    solution = solve_darcy_on_nodes(a, _DARCY)
    u = jnp.where(solution.result == lx.RESULTS.successful, solution.value, jnp.nan)
    coarse = {"": 4, "65": 2}
    return {
        f"{name}_{{}}{label}": field[None, ::step, ::step]
        for label, step in coarse.items()
        for name, field in (("x", a), ("y", u))
    }


def _draw_calderon(key: PRNGKeyArray) -> Mapping[str, Array]:
    """`a = exp(sum_k c_k sin(k pi x) sin(k pi y))`, one to five terms, `c` uniform in (-1, 1) (arXiv:2301.11167)."""
    key_count, key_size = jax.random.split(key)
    k = jnp.arange(1, 6)
    c = jnp.where(k <= jax.random.randint(key_count, (), 1, 6), jax.random.uniform(key_size, (5,), minval=-1.0), 0.0)

    def conductivity(grid: Grid) -> Array:
        x, y = (jnp.sin(jnp.pi * k[:, None] * axis) for axis in grid.axes())
        return jnp.exp(jnp.einsum("k,kx,ky->xy", c, x, y))

    fine = Grid((_CELLS, _CELLS), placement="cells")
    a = conductivity(fine)
    currents, result = jax.vmap(lambda g: dirichlet_to_neumann(a, g, fine))(potentials(_CELLS))
    currents = currents.reshape(_CURRENTS, 4 * _SENSORS, -1).mean(-1)
    solved = jnp.all(result == lx.RESULTS.successful)
    return {
        "currents_{}": jnp.where(solved, currents, jnp.nan),
        "conductivity_{}": conductivity(Grid((_SENSORS, _SENSORS), placement="cells"))[None],
    }


def _draw_regression(key: PRNGKeyArray) -> Mapping[str, Array]:
    """Case 3 of arXiv:2106.10414: `X = sum_k z_k r_k phi_k`, `r_k` uniform of unit variance, `z_1 = z_3 = 5`, `z_5 =
    z_10 = 3`, the others 1; `Y = (z_5 r_5)^2`. The noise of `X` has the deviation 1, that of `Y` 0.2."""
    key_r, key_x, key_y = jax.random.split(key, 3)
    z = jnp.ones(_TERMS).at[jnp.array([0, 2])].set(5.0).at[jnp.array([4, 9])].set(3.0)
    c = z * jax.random.uniform(key_r, (_TERMS,), minval=-(3**0.5), maxval=3**0.5)
    waves = jnp.cos(jnp.pi * jnp.arange(_TERMS)[:, None] * jnp.linspace(0, 1, _TIMES)) * 2**0.5
    x = c @ waves.at[0].set(1.0) + jax.random.normal(key_x, (_TIMES,))
    return {"x_{}": x[None], "y_{}": c[4:5] ** 2 + 0.2 * jax.random.normal(key_y, (1,))}


SAMPLE_BENCH = {
    recipe.name: recipe
    for recipe in (
        SampleRecipe(
            name="d2",
            title="Darcy flow, -div(a grad u) = 1 on [0, 1]^2, u = 0 on the boundary; a two-valued, 12 where a "
            "Gaussian field, (-Lap + 9)^-2 with Neumann conditions and no mean, is positive, else 3",
            solver="finite volumes of five points on 129 x 129 nodes, multigrid conjugate gradients, float64; every "
            "fourth node, and every second",
            draw=_draw_darcy,
            train=1000,
            test=200,
        ),
        SampleRecipe(
            name="d7",
            title="Calderon's problem, div(a grad u) = 0 on [0, 1]^2, u = g_l on the boundary, l = 1 ... 20; the "
            "currents a du/dn along the boundary, and a",
            solver="finite volumes of five points on 64 x 64 cells, multigrid conjugate gradients, float64; currents "
            "are means over two faces",
            draw=_draw_calderon,
            constants=lambda: {"potentials": potentials(_SENSORS)},
            train=1000,
            test=200,
        ),
        SampleRecipe(
            name="d8",
            title="Regression on noisy functions: X = sum_k c_k phi_k on [0, 1], cosines, and Y = c_5^2",
            solver="none",
            draw=_draw_regression,
            constants=lambda: {"t": jnp.linspace(0, 1, _TIMES)},
            train=3200,
            test=800,
            batch=200,
        ),
    )
}
"""D2 Darcy flow at 33 and 65 nodes an axis, as pairs; D7 `potentials` (20, 128), `currents` (samples, 20, 128),
`conductivity` (samples, 1, 32, 32); D8 functions at 51 points and numbers, as pairs."""
