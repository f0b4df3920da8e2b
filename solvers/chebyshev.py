"""Chebyshev collocation on boxes: coefficients, derivatives, and Helmholtz problems with boundary values.

A field on a grid of placement `chebyshev` stands for the polynomial through its values, spectrally accurate without any
symmetry about the walls. Matrices are computed in float64 and cast: products with them cost `n^2` an axis, cheaper than
transforms up to some hundred points."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float

from .boundary import Condition, Dirichlet, Neumann, Periodic, Robin, per_side
from .bounded import Bounded
from .grid import Grid

Wall = Dirichlet | Neumann | Robin


def chebyshev_coefficients(u: Float[Array, "c *n"], grid: Grid) -> Float[Array, "c *n"]:
    """`a_k` of `u(x) = sum_k a_k T_k(s)`, `s` in [-1, 1], along each axis: a cosine transform, in `O(n log n)`.

    **Raises:** `ValueError` for a grid of another placement.
    """
    return _cosines(grid).forward(u) * _alternating(grid, u.dtype)


def chebyshev_values(a: Float[Array, "c *n"], grid: Grid) -> Float[Array, "c *n"]:
    """The values on the grid: the inverse of `chebyshev_coefficients`."""
    return _cosines(grid).inverse(a * _alternating(grid, a.dtype))


def chebyshev_derivative(u: Float[Array, "c *n"], grid: Grid, axis: int, order: int = 1) -> Float[Array, "c *n"]:
    """`d^order u / dx_axis^order` of the polynomial, on the grid, whose other axes may have any placement.

    The rounding error is about `eps n^(2 order)` of the largest value.

    **Raises:** `ValueError` for an axis that is not a Chebyshev one, or an order below 0.
    """
    if not 0 <= axis < grid.ndim or grid.placement[axis] != "chebyshev":
        raise ValueError(f"`axis` is {axis}; expected a Chebyshev axis of placement {grid.placement}.")
    if order < 0:
        raise ValueError(f"`order` is {order}; expected 0, 1, 2, ...")
    matrix = np.linalg.matrix_power(_differentiation(grid.shape[axis], grid.extent[axis]), order)
    return _apply(matrix, u, axis + 1)


def solve_chebyshev(
    f: Float[Array, " *n"],
    grid: Grid,
    boundary: Condition | Sequence[Condition | Sequence[Condition]],
    c: ArrayLike = 0.0,
) -> Float[Array, " *n"]:
    """The solution of `-laplacian(u) + c u = f` with boundary values, by collocation.

    Directly: the second-derivative matrix of each axis, the walls eliminated by their conditions, is diagonalised (its
    eigenvalues are real and negative), and the equation holds at every interior point. `f` on the walls is not used.
    Where two walls meet, the value is by the condition of the last axis. Differentiable in `f`, in `c` and in what the
    conditions prescribe; the `alpha` of `Robin` has to be concrete: built outside of `jit`.

    **Arguments:** `f`: `(*n,)`, without a channel axis. `grid`: placement `chebyshev` on every axis, three points or
    more. `boundary`: `Dirichlet`, `Neumann` or `Robin`, as in `EllipticProblem` with `a = 1`. `c`: a number.

    **Raises:** `ValueError` for another placement, a shape that does not fit, a periodic side, an `alpha` that is
    traced, varies or is negative, or nothing but `Neumann` sides with `c = 0`: `u` is then determined up to a constant.

    Haidvogel and Zang (1979), The accurate solution of Poisson's equation by expansion in Chebyshev polynomials,
    doi:10.1016/0021-9991(79)90097-4; the eigenvalues: Gottlieb and Lustman (1983), doi:10.1137/0720063.
    """
    if any(name != "chebyshev" for name in grid.placement) or min(grid.shape) < 3:
        raise ValueError(
            f"`grid` has {grid.shape} points of placement {grid.placement}; expected 'chebyshev' on every axis, with "
            "three points or more."
        )
    if f.shape != grid.shape:
        raise ValueError(
            f"`f` has shape {f.shape}; expected {grid.shape}, without channels. Batches come from jax.vmap."
        )
    sides = [[_wall(side) for side in pair] for pair in per_side(boundary, grid)]
    axes = [_Axis(n, length, pair) for n, length, pair in zip(grid.shape, grid.extent, sides, strict=True)]
    if not isinstance(c, Tracer) and np.all(np.asarray(c) == 0) and not any(axis.anchored for axis in axes):
        raise ValueError(
            "`boundary` has Neumann sides only and `c` is 0: `u` is determined up to a constant. Give `c > 0`."
        )

    def data(axis: int, filled: int) -> Array:
        """What is prescribed on the walls across `axis`, stacked, on the whole of the first `filled` axes."""
        faces = []
        for side in sides[axis]:
            value = side.flux if isinstance(side, Neumann) else side.value
            face = jnp.broadcast_to(value.astype(f.dtype), grid.shape[:axis] + grid.shape[axis + 1 :])
            faces.append(jnp.expand_dims(face, axis))
        inside = [slice(None) if k < filled or k == axis else slice(1, -1) for k in range(grid.ndim)]
        return jnp.concatenate(faces, axis)[tuple(inside)]

    u = f[(slice(1, -1),) * grid.ndim]
    for k, axis in enumerate(axes):
        u = u + _apply(axis.source, data(k, 0), k)
    eigenvalues = np.zeros(())
    for k, axis in enumerate(axes):
        u = _apply(axis.to_modes, u, k)
        eigenvalues = np.add.outer(eigenvalues, axis.eigenvalues)
    u = u / (jnp.asarray(c, f.dtype) - jnp.asarray(eigenvalues, f.dtype))
    for k, axis in enumerate(axes):
        u = _apply(axis.from_modes, u, k)
    for k, axis in enumerate(axes):
        walls = _apply(axis.from_data, data(k, k), k) - _apply(axis.from_inside, u, k)
        first, last = (lax.slice_in_dim(walls, i, i + 1, axis=k) for i in (0, 1))
        u = jnp.concatenate([first, u, last], k)
    return u


class _Axis:
    """The second derivative along an axis, its walls eliminated and its modes found.

    The conditions `B_w u_w + B_i u_i = g` give the values on the walls, `u_w = B_w^-1 g - B_w^-1 B_i u_i`."""

    def __init__(self, n: int, extent: float, sides: Sequence[Wall]):
        first = _differentiation(n, extent)
        second = first @ first
        conditions = np.stack([_alpha(side) * np.eye(n)[end] for side, end in zip(sides, (0, -1), strict=True)])
        for row, (side, end, outward) in enumerate(zip(sides, (0, -1), (-1, 1), strict=True)):
            if not isinstance(side, Dirichlet):
                conditions[row] += outward * first[end]
        self.anchored = any(_alpha(side) != 0 for side in sides)
        self.from_data = np.linalg.inv(conditions[:, [0, -1]])
        self.from_inside = self.from_data @ conditions[:, 1:-1]
        self.source = second[1:-1, [0, -1]] @ self.from_data
        eigenvalues, modes = np.linalg.eig(second[1:-1, 1:-1] - second[1:-1, [0, -1]] @ self.from_inside)
        self.eigenvalues, self.from_modes = np.real(eigenvalues), np.real(modes)
        self.to_modes = np.linalg.inv(self.from_modes)


def _wall(side: Condition) -> Wall:
    if isinstance(side, Periodic):
        raise ValueError(
            "`boundary` has a periodic side; Chebyshev polynomials need Dirichlet, Neumann or Robin sides."
        )
    return side


def _alpha(side: Wall) -> float:
    """What multiplies the value in a condition."""
    if not isinstance(side, Robin):
        return float(isinstance(side, Dirichlet))
    if isinstance(side.alpha, Tracer) or side.alpha.ndim or np.asarray(side.alpha) < 0:
        raise ValueError(
            f"`boundary` has a Robin side whose `alpha` is {side.alpha}; expected one concrete number of at least 0 "
            "(build the condition outside of jit and grad)."
        )
    return float(np.asarray(side.alpha))


def _differentiation(n: int, extent: float) -> np.ndarray:
    """`D` with `(D u)_i = u'(x_i)`, by differences of the points free of cancellation and rows that sum to zero.

    Baltensperger and Trummer (2003), Spectral differencing with a twist, doi:10.1137/S1064827501388182."""
    i = np.arange(n)
    half = np.pi * i / (2 * (n - 1))
    apart = 2 * np.sin(half[:, None] + half) * np.sin(half[:, None] - half) + np.eye(n)
    ends = np.where((i == 0) | (i == n - 1), 2.0, 1.0) * (-1.0) ** i
    matrix = np.outer(ends, 1 / ends) / apart
    matrix -= np.diag(matrix.sum(1))
    return matrix * 2 / extent


def _apply(matrix: np.ndarray, u: Array, axis: int) -> Array:
    product = jnp.tensordot(jnp.asarray(matrix, u.dtype), u, (1, axis), precision="highest")
    return jnp.moveaxis(product, 0, axis)


def _cosines(grid: Grid) -> Bounded:
    if any(name != "chebyshev" for name in grid.placement):
        raise ValueError(f"`grid` has placement {grid.placement}; expected 'chebyshev' on every axis.")
    return Bounded(Grid(grid.shape, placement="nodes"), "neumann")


def _alternating(grid: Grid, dtype) -> Array:
    """`T_k` of `-cos(theta)` is `(-1)^k cos(k theta)`."""
    signs = np.ones(())
    for n in grid.shape:
        signs = np.multiply.outer(signs, (-1.0) ** np.arange(n))
    return jnp.asarray(signs, dtype)
