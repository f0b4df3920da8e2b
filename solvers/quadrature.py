"""Weights of quadrature on scattered points: `sum_i w_i f(x_i)` for the integral of `f`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from .grid import Domain, Grid, Points
from .neighbours import Period, nearest_neighbours


def as_points(domain: Domain, dtype: DTypeLike | None = None) -> Points:
    """The points of a grid, in row-major order, with its quadrature weights; a cloud in `dtype`, if one is given."""
    if isinstance(domain, Points):
        if dtype is None:
            return domain
        weights = None if domain.weights is None else jnp.asarray(domain.weights, dtype)
        return Points(jnp.asarray(domain.coordinates, dtype), weights, domain.mask, domain.neighbours)
    x = np.stack(np.meshgrid(*domain._host_axes(), indexing="ij"), -1).reshape(-1, domain.ndim)
    with jax.ensure_compile_time_eval():  # a constant, also where the caller is being traced
        return Points(jnp.asarray(x, dtype or jnp.result_type(float)), domain.weights(dtype).reshape(-1))


def mapped_points(grid: Grid, to_physical: Callable[[Array], Array], dtype: DTypeLike | None = None) -> Points:
    """The images of a grid's points under a smooth map `xi -> x`, `(d,)` to `(d,)`, with its quadrature: the grid's
    weights times `|det dx/dxi|`, at the order of the grid's. Row-major order."""
    reference = as_points(grid, dtype)
    volumes = jnp.abs(jnp.linalg.det(jax.vmap(jax.jacfwd(to_physical))(reference.coordinates)))
    return Points(jax.vmap(to_physical)(reference.coordinates), volumes * grid.weights(volumes.dtype).reshape(-1))


def trapezoidal_weights(x: Float[Array, " n"], *, period: float | None = None) -> Float[Array, " n"]:
    """Half the distances to both neighbours on a line: second order in the largest gap.

    The integral is that from the first point to the last, or over one `period`.

    **Raises:** `ValueError` for points that do not increase strictly, or fill more than the period, on concrete values;
    under jit the weights are then NaN.
    """
    if x.ndim != 1 or x.size < 2:
        raise ValueError(f"`x` has shape {x.shape}; expected (n,), at least two points of a line.")
    gaps = jnp.diff(x) if period is None else jnp.diff(x, append=x[:1] + period)
    if not isinstance(gaps, Tracer) and not np.all(np.asarray(gaps) > 0):
        i = int(np.argmin(np.asarray(gaps) > 0))
        if i == x.size - 1:
            raise ValueError(f"`x` runs from {x[0]} to {x[-1]}; expected less than the period {period}.")
        raise ValueError(
            f"`x` has {x[i + 1]} at {i + 1} after {x[i]}; expected strictly increasing points: sort them, and leave "
            "out those that occur twice (numpy.unique does both)."
        )
    gaps = jnp.where(jnp.all(gaps > 0), gaps, jnp.nan) / 2
    if period is not None:
        return gaps + jnp.roll(gaps, 1)
    return jnp.pad(gaps, (0, 1)) + jnp.pad(gaps, (1, 0))


def monte_carlo_weights(points: Points, volume: float | Float[Array, ""]) -> Float[Array, " n"]:
    """`volume / n` each, zero for masked points: for independent uniform points, of order `n^(-1/2)`."""
    mask = jnp.ones(points.shape, bool) if points.mask is None else points.mask
    ones = mask.astype(points.coordinates.dtype)
    return jnp.asarray(volume, ones.dtype) * ones / jnp.sum(ones)


def voronoi_weights(points: Points, reference: Domain, *, period: Period | None = None) -> Float[Array, " n"]:
    """The volume of each point's Voronoi cell, as the sum of the weights of those `reference` points nearest to it.

    For any cloud, evenly distributed or not: first order in the largest distance of the region's points to the cloud,
    and exact on constants. On random points, where the errors of the cells have random signs, of order `1/2 + 1/d` in
    their number. A reference of some 50 points a cell adds little error.

    **Arguments:** `reference`: the region, a `Grid` or `Points` with weights. `period`: see `displacement`.

    **Raises:** `ValueError` for a reference without weights.
    """
    nodes = as_points(reference, points.coordinates.dtype)
    if nodes.weights is None:
        raise ValueError("`reference` has no weights; expected a Grid, or Points with `weights`.")
    owner = nearest_neighbours(points, 1, nodes, period=period).index[:, 0]
    volumes = jnp.where(owner < 0, 0, nodes.weights)
    return jax.ops.segment_sum(volumes, jnp.maximum(owner, 0), points.shape[0])
