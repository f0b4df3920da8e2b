"""The Fourier neural operator."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from opkit.layers import (
    ChannelMLP,
    Factorisation,
    FNOBlock,
    Rank,
    Skip,
    SpectralBasis,
    Transform,
    basis_per_axis,
    check_sizes,
    checked_modes,
)
from solvers import Domain, Grid, Piece

from .inputs import check_conditioning, checked_args, checked_grid, checked_piece, features, on_query


class FNO(eqx.Module):
    """The Fourier neural operator, 1-D to 3-D: `project . block_depth . ... . block_1 . lift`.

    Lifting and projection are channel MLPs, the blocks `FNOBlock`s; the last has no activation. The defaults are
    the design of neuraloperator 2.0, whose own default has about as many parameters at equal width.

    **Conventions.** The transform takes the padded domain as one period. On `left` and `cells` grids that period is the
    box, at any resolution. On `nodes`, where both ends are points, it is one spacing longer than the box, and so
    depends on the resolution. For domains that are not periodic, or on `nodes`, give `padding`: zeros are appended to
    the features beyond the upper end until the period is `1 + padding` times the box (to the nearest point), and
    cropped before the projection. Modes that a grid does not resolve are left out (see `SpectralConv`): a coarser grid
    is accepted.

    **Arguments:**

    - `modes`: per axis, the number of wavenumbers `0 .. m - 1` of the period that are mixed; its length is the
      dimension.
    - `width`, `depth`: channels and blocks. `lifting_ratio`, `projection_ratio`, `mlp_ratio`: the hidden channels of
      these MLPs as multiples of `width` (rounded down); `mlp_ratio=0` leaves the channel MLPs out.
    - `spectral_skip`, `mlp_skip`: see `make_skip`.
    - `groups`: group normalisation of the spectral branch with so many groups; `None` for none, `width` for instance
      normalisation.
    - `coordinates`: append the coordinates, scaled to the unit box, to the input. They jump at the seam of a
      periodic domain: leave them out there.
    - `padding`: a fraction of the box, for all axes or one per axis.
    - `conditioning`: the length of the parameter vector `args`, which scales and shifts every block (see `FiLM`).
    - `activation`: pointwise; smooth ones keep aliasing low.
    - `transform`, `basis`, `factorisation`, `rank`: see `SpectralConv`; factorised, this is the TFNO. An axis of
      another basis than Fourier fits its placement, needs no padding and takes none.
    - `difference_length`: adds a differential kernel of 3 points per axis to every block, of this length (see
      `FDConv`). `integral_radius`: adds an integral kernel of this radius (see `LocalIntegral`). With either this is
      the LocalNO. On axes that are not Fourier, fields are extrapolated over the walls to be differenced, and integrals
      end at the walls. Local kernels need even spacing, and no padding: they would difference its seam, as that of
      `coordinates` on a periodic axis.

    **Claim.** On grids that resolve the fields: periodic and without padding the outputs of two grids differ by
    round-off; with padding at first order; in the cosine and sine bases at second order, unless the fields obey their
    conditions on the walls; in the Chebyshev basis by round-off, without `groups`. With differential kernels at first
    order, with integral ones at second order.

    **Call:** `u: (in_channels, *domain.shape)`, `domain: Grid`; `query`: `None` for the same grid, or, without padding
    on `left` axes, another number of points on the same box: the output's trigonometric polynomial is resampled there.
    Or, of the Fourier basis without padding, `u` a piece of a field and `domain` its `Piece`, in `jax.shard_map`.
    `args`: `(conditioning,)` or `None`; `key` is not used. Returns `(out_channels, *query.shape)`.

    **Raises:** `ValueError` when built or traced with what contradicts the above.

    Li et al. (2021), Fourier neural operator for parametric partial differential equations, arXiv:2010.08895; the
    channel MLP and gated skips: Kossaifi et al. (2023), Multi-grid tensorized Fourier neural operator,
    arXiv:2310.00120.
    """

    lift: ChannelMLP
    blocks: tuple[FNOBlock, ...]
    project: ChannelMLP
    in_channels: int = eqx.field(static=True)
    modes: tuple[int, ...] = eqx.field(static=True)
    coordinates: bool = eqx.field(static=True)
    padding: tuple[float, ...] = eqx.field(static=True)
    basis: tuple[SpectralBasis, ...] = eqx.field(static=True)
    conditioning: int = eqx.field(static=True)
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        modes: Sequence[int],
        width: int,
        depth: int = 4,
        lifting_ratio: int | float = 2.0,
        projection_ratio: int | float = 2.0,
        mlp_ratio: int | float = 0.5,
        spectral_skip: Skip = "linear",
        mlp_skip: Skip = "soft-gating",
        groups: int | None = None,
        coordinates: bool = True,
        padding: int | float | Sequence[float] = 0.0,
        conditioning: int = 0,
        activation: Callable[[Array], Array] = jax.nn.gelu,
        transform: Transform = "auto",
        basis: SpectralBasis | Sequence[SpectralBasis] = "fourier",
        factorisation: Factorisation | None = None,
        rank: Rank = 0.1,
        difference_length: float | None = None,
        integral_radius: float | None = None,
        key: PRNGKeyArray,
    ):
        check_sizes(in_channels=in_channels, out_channels=out_channels, width=width, depth=depth)
        check_conditioning(conditioning)
        self.in_channels, self.modes = in_channels, checked_modes(modes)
        fractions = (padding,) * len(self.modes) if isinstance(padding, int | float) else tuple(padding)
        if len(fractions) != len(self.modes) or min(fractions) < 0:
            raise ValueError(f"`padding` is {padding}; expected a fraction of the box >= 0, or one for each axis.")
        self.padding = tuple(float(p) for p in fractions)
        self.basis = basis_per_axis(basis, len(self.modes))
        with_local = difference_length is not None or integral_radius is not None
        if any(self.padding) and (set(self.basis) != {"fourier"} or with_local):
            raise ValueError(
                f"`padding` is {padding}; expected none with local kernels or another basis than Fourier. For a box "
                "take `basis='cosine'` without padding."
            )
        if coordinates and difference_length is not None and "fourier" in self.basis:
            raise ValueError(
                "`coordinates` is True with `difference_length`; the jump of a coordinate at the seam of a periodic "
                "axis has no derivative. Give `coordinates=False`."
            )
        self.coordinates, self.conditioning, self.activation = coordinates, conditioning, activation
        lift_key, project_key, key = (jax.random.fold_in(key, i) for i in range(3))
        lifting, projection = (max(1, int(ratio * width)) for ratio in (lifting_ratio, projection_ratio))
        lifted = in_channels + len(self.modes) * coordinates
        self.lift = ChannelMLP(lifted, lifting, width, activation=activation, key=lift_key)
        self.project = ChannelMLP(width, projection, out_channels, activation=activation, key=project_key)
        self.blocks = tuple(
            FNOBlock(
                width,
                self.modes,
                mlp_ratio=mlp_ratio,
                spectral_skip=spectral_skip,
                mlp_skip=mlp_skip,
                groups=groups,
                conditioning=conditioning,
                activation=activation,
                transform=transform,
                basis=basis,
                factorisation=factorisation,
                rank=rank,
                difference_length=difference_length,
                integral_radius=integral_radius,
                key=jax.random.fold_in(key, i),
            )
            for i in range(depth)
        )

    def __call__(
        self,
        u: Float[Array, "cin *n"],
        domain: Domain | Piece,
        query: Domain | None = None,
        *,
        args: PyTree = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "cout *m"]:
        """Apply to one sample."""
        periodic = not any(self.padding) and set(self.basis) == {"fourier"}
        channels, ndim = self.in_channels, len(self.modes)
        if isinstance(domain, Piece):
            if not periodic:
                raise ValueError(
                    f"`domain` is a Piece; this operator has padding {self.padding} and the basis {self.basis}, and on "
                    "pieces needs none and Fourier."
                )
            grid = checked_piece(u, domain, query, in_channels=channels, ndim=ndim)
        else:
            uneven = "chebyshev" in self.basis
            grid = checked_grid(u, domain, query, in_channels=channels, ndim=ndim, periodic=periodic, uneven=uneven)
        args = checked_args(args, self.conditioning)
        v = self.lift.channels_last(features(u, grid, self.coordinates))
        extra = _extra_points(grid, self.padding)
        v = jnp.pad(v, [*((0, points) for points in extra), (0, 0)]) if any(extra) else v
        for block in self.blocks[:-1]:
            v = block(v, args, self.activation, grid)
        v = self.blocks[-1](v, args, lambda x: x, grid)
        v = lax.slice(v, (0,) * v.ndim, (*grid.shape, v.shape[-1])) if any(extra) else v
        return on_query(self.project.channels_last(v), grid, query)


def _extra_points(grid: Grid | Piece, padding: tuple[float, ...]) -> tuple[int, ...]:
    """Points to append per axis for a period of `1 + padding` boxes; `nodes` has its own end among them already."""
    return tuple(
        max(0, round(fraction * (n - 1)) - 1) if placement == "nodes" else round(fraction * n)
        for n, placement, fraction in zip(grid.shape, grid.placement, padding, strict=True)
    )
