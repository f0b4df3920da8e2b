"""Transform Once (T1): one transform in, a network on coefficients, one transform out."""

from collections.abc import Callable, Sequence
from math import prod

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from opkit.layers import (
    ChannelMLP,
    CoefficientMixing,
    Pointwise,
    SpectralBasis,
    basis_per_axis,
    check_sizes,
    checked_modes,
    series_coefficients,
    series_shape,
    series_values,
)
from solvers import Domain

from .inputs import checked_args, checked_grid, features, on_query


class TransformOnce(eqx.Module):
    """Transform Once (T1), 1-D to 3-D: `project . inverse . mixing_depth . ... . mixing_1 . lift . forward`.

    One transform takes the input to its first coefficients, `depth` layers of `CoefficientMixing` act on them, and one
    transform gives the values that a channel MLP projects, point by point. A block therefore costs what its modes
    cost, whatever the grid.

    **Claim.** The coefficients are those of the function, by quadrature (see `series_coefficients`), times the square
    root of their number, which makes them of order one for a field whose power is spread over them. Nothing else sees
    the points, so any resolution is accepted. The outputs of two grids differ by the quadrature: by round-off in the
    Fourier basis for periodic fields on grids that resolve them, and in the Chebyshev basis for smooth ones; at second
    order in the cosine and sine bases, unless the field obeys their conditions on the walls.

    **Arguments:**

    - `modes`: per axis, as for `series_coefficients`. `basis`: one for all axes or one per axis, each for the
      placements given there.
    - `width`, `depth`: channels and layers. `projection_ratio`: hidden channels of the projection over `width`.
    - `skip`: the projection sees the input too, for what lies above the modes.
    - `coordinates`, `activation`: as for `FNO`; the activation acts on coefficients and in the projection.

    **Call:** as for `FNO`; it takes no `args`. **Raises:** `ValueError` when built or traced with what contradicts the
    above.

    Poli et al. (2022), Transform once: efficient operator learning in frequency domain, arXiv:2211.14453.
    """

    lift: Pointwise
    mixing: tuple[CoefficientMixing, ...]
    project: ChannelMLP
    in_channels: int = eqx.field(static=True)
    modes: tuple[int, ...] = eqx.field(static=True)
    basis: tuple[SpectralBasis, ...] = eqx.field(static=True)
    coordinates: bool = eqx.field(static=True)
    skip: bool = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        modes: Sequence[int],
        width: int,
        depth: int = 4,
        basis: SpectralBasis | Sequence[SpectralBasis] = "cosine",
        projection_ratio: int | float = 2.0,
        skip: bool = True,
        coordinates: bool = False,
        activation: Callable[[Array], Array] = jax.nn.gelu,
        key: PRNGKeyArray,
    ):
        check_sizes(in_channels=in_channels, out_channels=out_channels, width=width, depth=depth)
        self.in_channels, self.coordinates, self.skip = in_channels, coordinates, skip
        self.modes = checked_modes(modes)
        self.basis = basis_per_axis(basis, len(self.modes))
        lift_key, project_key, key = (jax.random.fold_in(key, i) for i in range(3))
        lifted = in_channels + len(self.modes) * coordinates
        self.lift = Pointwise(lifted, width, use_bias=False, key=lift_key)
        shape = series_shape(self.basis, self.modes)
        self.mixing = tuple(
            CoefficientMixing(width, shape, activation=activation, key=jax.random.fold_in(key, i)) for i in range(depth)
        )
        hidden = max(1, int(projection_ratio * width))
        self.project = ChannelMLP(width + lifted * skip, hidden, out_channels, activation=activation, key=project_key)

    def __call__(
        self,
        u: Float[Array, "cin *n"],
        domain: Domain,
        query: Domain | None = None,
        *,
        args: PyTree = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "cout *m"]:
        """Apply to one sample."""
        periodic = set(self.basis) == {"fourier"}
        grid = checked_grid(
            u, domain, query, in_channels=self.in_channels, ndim=len(self.modes), periodic=periodic, uneven=True
        )
        checked_args(args, 0)
        x = features(u, grid, self.coordinates)
        dtype = np.promote_types(x.dtype, np.float32)
        axes = list(zip(self.basis, grid.placement, self.modes, strict=True))
        a = self.lift.channels_last(series_coefficients(x.astype(dtype), axes))
        scale = prod(a.shape[:-1]) ** 0.5
        a = a * scale
        for layer in self.mixing:
            a = layer(a)
        v = series_values(a / scale, axes, grid.shape).astype(x.dtype)
        v = self.project.channels_last(jnp.concatenate([v, x], -1) if self.skip else v)
        return on_query(v, grid, query)
