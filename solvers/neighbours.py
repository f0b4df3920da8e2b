"""Who is near whom: searches among scattered points in arrays of fixed shape, and on grids once and for all.

Distances are Euclidean. Along an axis with a `period` they are those of the nearest image. Indices carry no gradient.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import inf

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from .grid import Grid, Points

Period = Sequence[float | None]


class Neighbours(eqx.Module):
    """The neighbours of `q` points, at most `k` each, the nearest first.

    `index`: `(q, k)` numbers of points of the source, `-1` for none. `count`: `(q,)`, how many there are within the
    radius, which may be more than `k`.
    """

    index: Int[Array, "q k"]
    count: Int[Array, " q"]

    @property
    def overflow(self) -> Bool[Array, ""]:
        """Whether some point has more neighbours than `k`: then the farthest are left out."""
        return jnp.any(self.count > self.index.shape[1])


def displacement(
    x: Float[Array, "*#n d"], y: Float[Array, "*#n d"], period: Period | None = None
) -> Float[Array, "*m d"]:
    """`x - y`, along a periodic axis to the nearest image.

    **Arguments:** `period`: per axis its length, or `None` where it is not periodic.

    **Raises:** `ValueError` for a period that is not positive, or not one an axis.
    """
    difference = x - y
    if period is None:
        return difference
    if len(period) != difference.shape[-1] or not all(p is None or p > 0 for p in period):
        raise ValueError(
            f"`period` is {tuple(period)}; expected a positive length, or None, for each of the "
            f"{difference.shape[-1]} axes."
        )
    lengths = jnp.asarray([p or 0 for p in period], difference.dtype)
    turns = jnp.round(difference / jnp.where(lengths > 0, lengths, 1))
    return difference - lax.stop_gradient(turns) * lengths


def nearest_neighbours(
    source: Points,
    k: int,
    query: Points | None = None,
    *,
    period: Period | None = None,
    include_self: bool = True,
    chunk: int = 1024,
) -> Neighbours:
    """The `k` points of `source` nearest to each point of `query`; masked points have and are no neighbours.

    **Arguments:** `query`: `None` for the points of the source itself; only then `include_self=False` leaves each
    point out of its own neighbours. `chunk`: queries at a time, so that memory is `chunk` times the source.

    **Raises:** `ValueError` for more neighbours than the source has points, or a wrong `period`.
    """
    has = source.shape[0]
    if source.mask is not None and not isinstance(source.mask, Tracer):
        has = int(np.asarray(source.mask).sum())
    has -= query is None and not include_self
    if not 1 <= k <= has:
        raise ValueError(f"`k` is {k}; expected 1 to {has}, the number of points there are to choose from.")
    return _search(source, k, inf, query, period, include_self, chunk)


def radius_neighbours(
    source: Points,
    radius: float,
    most: int,
    query: Points | None = None,
    *,
    period: Period | None = None,
    include_self: bool = True,
    chunk: int = 1024,
) -> Neighbours:
    """The points of `source` within `radius` of each point of `query`, the nearest `most` of them.

    `result.count` says how many there are, `result.overflow` whether that is more than `most`, wherever.

    **Arguments:** as for `nearest_neighbours`. `radius`: of a closed ball, up to rounding.

    **Raises:** `ValueError` for a radius that is not positive or above half a period, `most` below 1, or a wrong
    `period`.
    """
    _check_radius(radius, period)
    if most < 1:
        raise ValueError(f"`most` is {most}; expected at least 1.")
    return _search(source, min(most, source.shape[0]), radius, query, period, include_self, chunk)


def grid_neighbours(
    source: Grid,
    query: Grid | None = None,
    *,
    k: int | None = None,
    radius: float = inf,
    period: Period | None = None,
    include_self: bool = True,
) -> Int[np.ndarray, "q most"]:
    """The same search on grids, whose points are known: a constant, found once on the host by a k-d tree.

    Points are numbered in row-major order. The `k` nearest within `radius`, or with `k=None` all within it, in as many
    columns as the fullest ball needs, `-1` for none.

    **Raises:** `ValueError` as above, or for neither `k` nor `radius`.
    """
    if k is None and radius == inf:
        raise ValueError("`k` and `radius` are both left out; give one of them.")
    _check_radius(radius, period)
    has = int(np.prod(source.shape)) - (query is None and not include_self)
    if k is not None and not 1 <= k <= has:
        raise ValueError(f"`k` is {k}; expected 1 to {has}, the number of points there are to choose from.")
    return _on_grids(source, query, k, radius, None if period is None else tuple(period), include_self)


def check_distinct(points: Points, tolerance: float = 0.0) -> None:
    """Nothing, if no two points of the cloud are within `tolerance` of each other; masked ones do not count.

    **Raises:** `ValueError` that names two of them, or for coordinates that are being traced.
    """
    if isinstance(points.coordinates, Tracer):
        raise ValueError("`points` are being traced; check them outside jit, where their values are known.")
    from scipy.spatial import KDTree  # takes a while to import

    real = np.arange(points.shape[0]) if points.mask is None else np.flatnonzero(np.asarray(points.mask))
    if len(real) < 2:
        return
    x = np.asarray(points.coordinates, np.float64)[real]
    distance, near = (np.asarray(result) for result in KDTree(x).query(x, k=2))
    i = int(np.argmin(distance[:, 1]))
    if distance[i, 1] <= tolerance:
        j = near[i, 1] if near[i, 1] != i else near[i, 0]
        raise ValueError(
            f"`points` {sorted((int(real[i]), int(real[j])))} are {distance[i, 1]:.3g} apart, both near "
            f"{x[i].tolist()}; expected more than {tolerance}. Leave one of each pair out, as numpy.unique does."
        )


def _check_radius(radius: float, period: Period | None) -> None:
    if not radius > 0:
        raise ValueError(f"`radius` is {radius}; expected a positive length.")
    if radius != inf and period is not None and any(p is not None and 2 * radius > p for p in period):
        raise ValueError(f"`radius` is {radius} for `period` {tuple(period)}; expected at most half of each period.")


def _search(
    source: Points, k: int, radius: float, query: Points | None, period: Period | None, include_self: bool, chunk: int
) -> Neighbours:
    at = source if query is None else query
    if at.ndim != source.ndim:
        raise ValueError(f"`query` has {at.ndim} dimensions; `source` has {source.ndim}.")
    x, y = (lax.stop_gradient(points.coordinates) for points in (at, source))
    there, asked = (jnp.ones(p.shape, bool) if p.mask is None else p.mask for p in (source, at))

    def of_one(row: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        number, point, real = row
        square = jnp.sum(displacement(point[None], y, period) ** 2, -1)
        keep = there & real & (square <= radius**2)
        if query is None and not include_self:
            keep &= jnp.arange(len(y)) != number
        least, index = lax.top_k(jnp.where(keep, -square, -jnp.inf), k)
        return jnp.where(least > -jnp.inf, index, -1).astype(jnp.int32), jnp.sum(keep, dtype=jnp.int32)

    index, count = lax.map(of_one, (jnp.arange(len(x)), x, asked), batch_size=min(chunk, len(x)))
    return Neighbours(index, count)


@lru_cache(maxsize=16)
def _on_grids(
    source: Grid, query: Grid | None, k: int | None, radius: float, period: Period | None, include_self: bool
) -> np.ndarray:
    from scipy.spatial import KDTree  # takes a while to import

    lengths = np.array([p or 0.0 for p in period or [None] * source.ndim])
    x, y = (_host_points(grid, lengths) for grid in (query or source, source))
    tree = KDTree(y, boxsize=lengths if lengths.any() else None)
    alone = query is None and not include_self
    radius = radius * (1 + 1e-9)  # closed, whatever the rounding of the coordinates
    if k is None:
        k = max(1, int(np.max(tree.query_ball_point(x, radius, return_length=True))) - alone)
    _, found = tree.query(x, k=k + alone, distance_upper_bound=radius)
    index = np.asarray(found).reshape(len(x), k + alone)
    index = np.where(index == len(y), -1, index)
    if alone:
        index = index[index != np.arange(len(x))[:, None]].reshape(len(x), k)
    return index.astype(np.int32)


def _host_points(grid: Grid, lengths: np.ndarray) -> np.ndarray:
    x = np.stack(np.meshgrid(*grid._host_axes(), indexing="ij"), -1).reshape(-1, grid.ndim)
    wrapped = np.mod(x, np.where(lengths > 0, lengths, 1))
    return np.where(lengths > 0, np.where(wrapped >= lengths, 0, wrapped), x)
