"""The integral of a squared residual, by its coefficients."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, cast

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from solvers import Basis, Bounded, Grid

ParsevalBasis = Basis | Literal["legendre"]


def parseval(
    residual: Float[Array, "e *n"],
    grid: Grid,
    basis: ParsevalBasis | Sequence[ParsevalBasis] | None = None,
    *,
    order: ArrayLike = 0.0,
) -> Float[Array, "e *k"]:
    """The coefficients of a residual in an orthonormal basis: the sum of their squares is the integral over the box.

    By Parseval's identity, so that the loss of an operator trained on the residual alone is its L2 norm:

        r = parseval(Strong(form)(values, grid), grid)
        Term(r, "residual", count=1)                # the integral of r^2: balanced and least-squares methods see r

    Along an axis the basis is

    - `"periodic"`, on `left`: cosines and sines, the coefficients in the order of `solvers.Bounded`;
    - `"neumann"`, cosines, or `"dirichlet"`, sines, on `nodes` and `cells`; sines take the values on the walls of
      `nodes` as zero, so they are for residuals that vanish there;
    - `"legendre"`, on `chebyshev`: the integral of the square of the polynomial through the values, exactly.

    On uniform axes the sum is the quadrature by `grid.weights()` whatever the values, rounding apart; the integral it
    is for the series that the grid resolves, without the highest cosine or sine.

    **Arguments:** `residual`: values on the grid. `basis`: one for all axes or one per axis; by default periodic,
    cosines and Legendre polynomials. `order`: `s`: the sum is the square of the norm of H^s instead, each mode of
    wavenumber `k` weighing `(1 + |k|^2)^s`, as in `sobolev_norm`: `s = -1` measures the residual of an equation of
    second order as its energy does.

    **Raises:** `ValueError` for values that do not fit the grid, a basis that does not go with a placement, and an
    order with Legendre polynomials, which are no modes of the Laplacian.

    Du, Chalapathi and Krishnapriyan (2024), Neural spectral methods: self-supervised learning in the spectral domain,
    arXiv:2312.05225; negative orders: Cao, Brarda, Li and Xi (2024), Spectral-refiner, arXiv:2405.17211.
    """
    if residual.shape[1:] != grid.shape:
        raise ValueError(
            f"`residual` has shape {residual.shape}; expected (equations, *{grid.shape}). Batches come from jax.vmap."
        )
    names = _names(grid, basis)
    weighted = not (isinstance(order, int | float) and order == 0)
    if weighted and "legendre" in names:
        raise ValueError(f"`order` is {order}; on a 'chebyshev' axis expected 0.")
    square = np.zeros(())
    for axis, name in enumerate(names):
        line = Grid(grid.shape[axis], grid.lower[axis], grid.upper[axis], grid.placement[axis])
        rows = jnp.moveaxis(residual, axis + 1, -1)
        shape, flat = rows.shape[:-1], rows.reshape(-1, rows.shape[-1])
        if name == "legendre":
            matrix = jnp.asarray(_legendre(line.shape[0]) * np.sqrt(line.extent[0]), residual.dtype)
            found = jnp.matmul(flat, matrix.T, precision="highest")
        else:
            series = Bounded(line, name)
            square = np.add.outer(square, series.eigenvalues)
            found = series.forward(flat) * jnp.asarray(_norms(line, name), residual.dtype)
        residual = jnp.moveaxis(found.reshape(*shape, -1), -1, axis + 1)
    if weighted:
        residual = residual * jnp.asarray(1 + square, residual.dtype) ** (jnp.asarray(order, residual.dtype) / 2)
    return residual


def _names(grid: Grid, basis: ParsevalBasis | Sequence[ParsevalBasis] | None) -> tuple[ParsevalBasis, ...]:
    usual = {"left": "periodic", "nodes": "neumann", "cells": "neumann", "chebyshev": "legendre"}
    if basis is None:
        return cast(tuple[ParsevalBasis, ...], tuple(usual[placement] for placement in grid.placement))
    names = (basis,) * grid.ndim if isinstance(basis, str) else tuple(basis)
    if len(names) != grid.ndim:
        raise ValueError(f"`basis` has {len(names)} entries for {grid.ndim} axes; give one, or one an axis.")
    for axis, (name, placement) in enumerate(zip(names, grid.placement, strict=True)):
        fitting = ("neumann", "dirichlet") if usual[placement] == "neumann" else (usual[placement],)
        if name not in fitting:
            raise ValueError(f"`basis` of axis {axis} is {name!r}; on placement {placement!r} expected {fitting}.")
    return names


def _norms(line: Grid, name: Basis) -> np.ndarray:
    """The norms of the series' functions in the quadrature of the grid, where the last alternates from point to point
    and counts twice."""
    n, (placement,) = line.shape[0], line.placement
    squares = np.full(n + (placement == "cells"), 0.5)
    if name != "dirichlet":
        squares[0] = 1
    if name == "periodic" and n % 2 == 0:
        squares[n // 2] = 1
    if (name, placement) in (("neumann", "nodes"), ("dirichlet", "cells")):
        squares[-1] = 1
    return np.sqrt(line.extent[0] * squares)


@lru_cache(maxsize=8)
def _legendre(n: int) -> np.ndarray:
    """From values on `n` Chebyshev points to coefficients of polynomials orthonormal on an interval of length 1."""
    points = -np.cos(np.pi * np.arange(n) / (n - 1))
    vander = np.polynomial.legendre.legvander(points, n - 1)
    return np.linalg.inv(vander) / np.sqrt(2 * np.arange(n) + 1)[:, None]
