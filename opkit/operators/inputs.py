"""What every operator on a grid checks when built and at its entrance, and does to its input and its output."""

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from solvers import Domain, Grid, Piece, spectral


def check_ndim(ndim: int) -> None:
    """Raise `ValueError` unless there are one to three axes."""
    if not 1 <= ndim <= 3:
        raise ValueError(f"`ndim` is {ndim}; expected 1, 2 or 3.")


def check_conditioning(conditioning: int) -> None:
    """Raise `ValueError` for a negative number of parameters."""
    if conditioning < 0:
        raise ValueError(f"`conditioning` is {conditioning}; expected the length of `args`, 0 for none.")


def check_values(u: Float[Array, "cin *n"], domain: Domain | Piece, in_channels: int) -> None:
    """Raise `ValueError` unless `u` is `(in_channels, *domain.shape)`."""
    if u.shape != (in_channels, *domain.shape):
        raise ValueError(
            f"`u` has shape {u.shape}; expected {(in_channels, *domain.shape)}: {in_channels} channels on the domain's "
            "points. Batches come from jax.vmap."
        )


def checked_grid(
    u: Float[Array, "cin *n"],
    domain: Domain,
    query: Domain | None,
    *,
    in_channels: int,
    ndim: int,
    periodic: bool,
    uneven: bool = False,
) -> Grid:
    """`domain`, if it is an evenly spaced grid (or `uneven`) of `ndim` axes, `u` on it and `query` can be answered.

    That is the same grid or, of a `periodic` operator, one with other numbers of points on the same periodic box.
    """
    if not isinstance(domain, Grid):
        raise ValueError(
            f"`domain` is a {type(domain).__name__}; this operator needs a Grid. Interpolate to one, or use an "
            "operator on point clouds."
        )
    if domain.ndim != ndim:
        raise ValueError(f"`domain` has {domain.ndim} axes; this operator was built for {ndim}.")
    if "chebyshev" in domain.placement and not uneven:
        raise ValueError(
            f"`domain` has placement {domain.placement}; this operator needs even spacing: interpolate to 'nodes', "
            "'cells' or 'left'."
        )
    check_values(u, domain, in_channels)
    if query is not None and query != domain:
        same_box = (
            isinstance(query, Grid)
            and (query.lower, query.upper, query.placement) == (domain.lower, domain.upper, domain.placement)
        )  # fmt: skip
        if not (same_box and periodic and set(domain.placement) == {"left"}):
            raise ValueError(
                "`query` differs from `domain`; this operator answers on the grid of its input, and on other numbers "
                "of points of the same box only where all is periodic: placement 'left', no padding, periodic "
                "convolutions. Leave `query` out, and interpolate the input before or the output after."
            )
    return domain


def checked_piece(
    u: Float[Array, "cin *n"], piece: Piece, query: Domain | None, *, in_channels: int, ndim: int
) -> Piece:
    """`piece`, if it has `ndim` axes of even spacing, `u` is on it and there is no `query`."""
    if piece.ndim != ndim or "chebyshev" in piece.placement:
        raise ValueError(
            f"`domain` is a piece of {piece.ndim} axes of placement {piece.placement}; this operator takes {ndim}, "
            "evenly spaced."
        )
    check_values(u, piece, in_channels)
    if query is not None:
        raise ValueError(
            f"`query` is a {type(query).__name__} with a Piece for `domain`; on pieces operators answer where their "
            "input is: leave it out."
        )
    return piece


def on_query(v: Float[Array, "*n c"], grid: Grid | Piece, query: Domain | None) -> Float[Array, "c *m"]:
    """Features on `grid` as an output on `query`, as `checked_grid` allows it: see `solvers.spectral.resample`."""
    v = jnp.moveaxis(v, -1, 0)
    if isinstance(query, Grid) and isinstance(grid, Grid) and query != grid:
        return spectral.resample(v, grid, query)
    return v


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


def features(u: Float[Array, "cin *n"], grid: Grid | Piece, coordinates: bool) -> Float[Array, "*n c"]:
    """`u`, then (if asked for) the coordinates of its points scaled to the unit box, with the channels last."""
    if coordinates:
        unit = Grid(grid.whole.shape, placement=grid.placement)
        box = Piece(unit, grid.axis_names) if isinstance(grid, Piece) else unit
        u = jnp.concatenate([u, box.coordinates(u.dtype)])
    return jnp.moveaxis(u, 0, -1)
