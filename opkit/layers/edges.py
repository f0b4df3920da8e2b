"""The edges of point clouds: which points send to which, from how far, with what weight."""

from typing import Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from solvers import (
    Domain,
    Grid,
    Period,
    Points,
    as_points,
    displacement,
    grid_neighbours,
    nearest_neighbours,
    radius_neighbours,
)

Window = Literal["ball", "smooth"]


class Edges(eqx.Module):
    """Edges from `n` senders `y_j` to `q` receivers `x_i`, at most `k` each, as padded arrays.

    `senders`: `(q, k)` numbers, any where there is no edge. `window`: `(q, k)`, from 0 (no edge) to 1. `offset`:
    `(q, k, d)`, `x_i - y_j` to the nearest image. `sender_weights`, `receiver_weights`: `(n,)`, `(q,)`, of quadrature,
    zero for masked points.
    """

    senders: Int[Array, "q k"]
    window: Float[Array, "q k"]
    offset: Float[Array, "q k d"]
    sender_weights: Float[Array, " n"]
    receiver_weights: Float[Array, " q"]

    def gather(self, v: Float[Array, "n *c"]) -> Float[Array, "q k *c"]:
        """Of values at the senders, those of each edge."""
        return v[self.senders]

    @property
    def weights(self) -> Float[Array, "q k"]:
        """The quadrature weight of each edge's sender times the edge's window."""
        return self.gather(self.sender_weights) * self.window

    def mean_weights(self) -> Float[Array, "q k"]:
        """The same, summing to one at each receiver; zero where it has no neighbours."""
        total = jnp.sum(self.weights, -1, keepdims=True)
        return self.weights / jnp.where(total > 0, total, 1)

    def mean_at_senders(self, values: Float[Array, "q k c"]) -> Float[Array, "n c"]:
        """At each sender the mean over its edges of what they carry, with the receivers' weights."""
        weights = self.receiver_weights[:, None] * self.window
        number = self.sender_weights.size
        add = lambda x: jax.ops.segment_sum(x.reshape(-1, *x.shape[2:]), self.senders.reshape(-1), number)
        total = add(weights)[:, None]
        return add(weights[..., None] * values) / jnp.where(total > 0, total, 1)


class Ball(eqx.Module):
    """Edges from every point within `radius`, each point itself among them: integrals over balls.

    **Arguments:**

    - `most`: edges kept at a point of a cloud, the nearest; the others are left out. Choose it by
      `solvers.radius_neighbours`, whose `overflow` says whether there are any. Grids, of known points, need none.
    - `period`: per axis its length, or `None` where it is not periodic.
    - `window`: `"ball"` counts every point of the ball in full; a quadrature over it is then first order at best, since
      points enter and leave at its edge. `"smooth"` multiplies by `(1 - |x - y|^2 / radius^2)^2`, which vanishes there
      with its slope: integrals are of second order on grids, and continuous in the points.

    **Call:** `Ball(...)(source, query, dtype=...)`, a `Grid` or `Points` each, `query=None` for the source itself. A
    cloud that has `neighbours` is not searched. **Raises:** `ValueError` for a radius that is not positive or above
    half a period, another `window`, or a cloud without `most`.
    """

    radius: float = eqx.field(static=True)
    most: int | None = eqx.field(static=True)
    period: tuple[float | None, ...] | None = eqx.field(static=True)
    window: Window = eqx.field(static=True)

    def __init__(
        self, radius: float, most: int | None = None, *, period: Period | None = None, window: Window = "ball"
    ):
        if not radius > 0:
            raise ValueError(f"`radius` is {radius}; expected a positive length.")
        if window not in get_args(Window):
            raise ValueError(f"`window` is {window!r}; expected one of {get_args(Window)}.")
        self.radius, self.most, self.window = float(radius), most, window
        self.period = None if period is None else tuple(period)

    def __call__(self, source: Domain, query: Domain | None = None, *, dtype: DTypeLike = float) -> Edges:
        """The edges from `source` to `query`."""
        if isinstance(source, Grid) and isinstance(query, Grid | None):
            index = grid_neighbours(source, query, radius=self.radius, period=self.period)
        elif isinstance(source, Points) and query is None and source.neighbours is not None:
            index = source.neighbours
        else:
            cloud, at = _clouds(source, query)
            if self.most is None:
                raise ValueError("`most` is missing; a Ball on Points needs the largest number of neighbours to keep.")
            index = radius_neighbours(cloud, self.radius, self.most, at, period=self.period).index
        edges = _edges(index, source, query, self.period, dtype)
        if self.window == "ball":
            return edges
        square = jnp.sum((edges.offset / self.radius) ** 2, -1)
        return eqx.tree_at(lambda e: e.window, edges, edges.window * jnp.maximum(1 - square, 0) ** 2)


class Nearest(eqx.Module):
    """Edges from the `k` nearest points, other than the point itself: graphs that follow the density of the cloud.

    What is computed along them does not converge as the cloud is refined: edges shrink with the distance of the points.

    **Arguments** and **call:** as for `Ball`. **Raises:** `ValueError` for more neighbours than there are points.
    """

    k: int = eqx.field(static=True)
    period: tuple[float | None, ...] | None = eqx.field(static=True)

    def __init__(self, k: int, *, period: Period | None = None):
        if k < 1:
            raise ValueError(f"`k` is {k}; expected at least 1 neighbour.")
        self.k, self.period = k, None if period is None else tuple(period)

    def __call__(self, source: Domain, query: Domain | None = None, *, dtype: DTypeLike = float) -> Edges:
        """The edges from `source` to `query`."""
        if isinstance(source, Grid) and isinstance(query, Grid | None):
            index = grid_neighbours(source, query, k=self.k, period=self.period, include_self=False)
        elif isinstance(source, Points) and query is None and source.neighbours is not None:
            index = source.neighbours
        else:
            cloud, at = _clouds(source, query)
            index = nearest_neighbours(cloud, self.k, at, period=self.period, include_self=False).index
        return _edges(index, source, query, self.period, dtype)


Neighbourhood = Ball | Nearest


def _clouds(source: Domain, query: Domain | None) -> tuple[Points, Points | None]:
    there = as_points(source)
    return there, None if query is None else as_points(query, there.coordinates.dtype)


def _edges(
    index: np.ndarray | Array, source: Domain, query: Domain | None, period: Period | None, dtype: DTypeLike
) -> Edges:
    there, at = _clouds(source, query)
    here = there if at is None else at
    number = there.shape[0]
    index = jnp.asarray(index, jnp.int32)
    senders = jnp.clip(index, 0, number - 1)
    weights = [jnp.ones(p.shape) if p.weights is None else p.weights for p in (there, here)]
    masks = [jnp.ones(p.shape, bool) if p.mask is None else p.mask for p in (there, here)]
    sender_weights, receiver_weights = (
        jnp.where(mask, w, 0).astype(dtype) for w, mask in zip(weights, masks, strict=True)
    )
    exists = (index == senders) & masks[0][senders] & masks[1][:, None]
    # offsets are differences of close numbers: taken in the coordinates' precision, and then rounded
    offset = displacement(here.coordinates[:, None], there.coordinates[senders], period)
    return Edges(senders, exists.astype(dtype), offset.astype(dtype), sender_weights, receiver_weights)
