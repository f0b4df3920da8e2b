"""What every operator on points checks at its entrance, at trace time, and how it answers elsewhere."""

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from solvers import Domain, Grid, Period, Points, as_points, interpolate_scattered

from .inputs import check_values


def point_values(u: Float[Array, "cin *n"], domain: Domain, *, in_channels: int, ndim: int) -> Float[Array, "n cin"]:
    """`u` as one row a point, a grid's in row-major order, if it lives on the `ndim`-dimensional `domain`."""
    if not isinstance(domain, Grid | Points):
        raise ValueError(f"`domain` is a {type(domain).__name__}; this operator needs a Grid or Points.")
    if domain.ndim != ndim:
        raise ValueError(f"`domain` has {domain.ndim} dimensions; this operator was built for {ndim}.")
    check_values(u, domain, in_channels)
    return u.reshape(in_channels, -1).T


def point_coordinates(domain: Domain, dtype: DTypeLike) -> Float[Array, "n d"]:
    """The coordinates, one row a point."""
    return as_points(domain).coordinates.astype(dtype)


def point_features(*parts: Float[Array, "n _"], args: Float[Array, " p"] | None) -> Float[Array, "n c"]:
    """`parts` side by side, and at every point `args` beside them."""
    if args is not None:
        args = jnp.broadcast_to(args.astype(parts[0].dtype), (len(parts[0]), args.size))
    return jnp.concatenate(parts if args is None else [*parts, args], -1)


def on_points(
    v: Float[Array, "n c"], domain: Domain, query: Domain | None, period: Period | None = None
) -> Float[Array, "c *m"]:
    """Values at the points of `domain` as a field on `query`: elsewhere they are interpolated, at second order."""
    if query is None or query is domain or (isinstance(query, Grid) and query == domain):
        return v.T.reshape(-1, *domain.shape)
    if query.ndim != domain.ndim:
        raise ValueError(f"`query` has {query.ndim} dimensions; `domain` has {domain.ndim}.")
    source = as_points(domain)
    there = as_points(query, source.coordinates.dtype)
    return interpolate_scattered(v, source, there, period=period).T.reshape(-1, *query.shape)
