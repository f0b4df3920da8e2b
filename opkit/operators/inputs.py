"""What every operator on a grid checks at its entrance, at trace time, and appends to its input."""

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from solvers import Domain, Grid


def checked_grid(
    u: Float[Array, "cin *n"], domain: Domain, query: Domain | None, *, in_channels: int, ndim: int
) -> Grid:
    """`domain`, if it is an evenly spaced grid of `ndim` axes, `u` lives on it and `query` is the same grid."""
    if not isinstance(domain, Grid):
        raise ValueError(
            f"`domain` is a {type(domain).__name__}; this operator needs a Grid. Interpolate to one, or use an "
            "operator on point clouds."
        )
    if domain.ndim != ndim:
        raise ValueError(f"`domain` has {domain.ndim} axes; this operator was built for {ndim}.")
    if "chebyshev" in domain.placement:
        raise ValueError(
            f"`domain` has placement {domain.placement}; this operator needs even spacing: interpolate to 'nodes', "
            "'cells' or 'left'."
        )
    if u.shape != (in_channels, *domain.shape):
        raise ValueError(
            f"`u` has shape {u.shape}; expected {(in_channels, *domain.shape)}: {in_channels} channels on the domain's "
            "points. Batches come from jax.vmap."
        )
    if query is not None and query != domain:
        raise ValueError(
            "`query` differs from `domain`; this operator answers on the grid of its input. Leave `query` out, and "
            "resample the input before or the output after."
        )
    return domain


def checked_args(args: PyTree, conditioning: int) -> Float[Array, " p"] | None:
    """`args` as the parameter vector `(conditioning,)`, or `None` for an operator that takes none."""
    if conditioning == 0:
        if args is not None:
            raise ValueError("`args` was given, but the operator was built without; build it with `conditioning=p`.")
        return None
    if args is None:
        raise ValueError(f"`args` is missing; the operator was built with `conditioning={conditioning}`.")
    args = jnp.asarray(args)
    if args.shape != (conditioning,):
        raise ValueError(f"`args` has shape {args.shape}; expected ({conditioning},), as in `conditioning`.")
    return args


def features(u: Float[Array, "cin *n"], grid: Grid, coordinates: bool) -> Float[Array, "*n c"]:
    """`u`, then (if asked for) the coordinates of its points scaled to the unit box, with the channels last."""
    if coordinates:
        u = jnp.concatenate([u, Grid(grid.shape, placement=grid.placement).coordinates(u.dtype)])
    return jnp.moveaxis(u, 0, -1)
