"""The U-Net, and several small ones in series."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from opkit.layers import Boundary, Pointwise, Wave, check_sizes, level_channels
from solvers import Domain

from .inputs import check_conditioning, check_ndim, checked_args, checked_grid, features, on_query


class UNet(eqx.Module):
    """A U-Net at one resolution, 1-D to 3-D, or `waves` of them in series (SineNet), that knows the boundary per axis.

    A pointwise lift, waves `v + wave(v)` (a single one without the residual path), and a pointwise projection. A wave
    goes down `levels` grids, average pooling over pairs between them, and up again by linear interpolation, every level
    handing its features across; each level has two convolutions a way. Axes of any length are taken: an odd one is
    extended by a point by its boundary rule, and cropped on the way up.

    It accepts any grid, but **claims no consistency between grids**: its kernels count points, so that the operator
    changes with the spacing. Train and use it at one resolution.

    **Arguments:**

    - `ndim`: 1 to 3. `width`: channels of the finest level. `multiplier`: from a level's channels to the next one's,
      rounded. `levels`: grids. `waves`: U-Nets in series; to compare at equal parameters, lower the multiplier.
    - `input_copies`: every coarser level of a wave also sees the wave's input, pooled as often, so that the flow's
      displacement is spread over the waves. By default where there are several.
    - `boundary`: of convolutions, pooling and interpolation, for all axes or one per axis (see `pad`).
    - `groups`, `coordinates`, `conditioning`, `activation`: as for `FNO`; the norm follows every convolution, `args`
      enter each pair of them.

    **Call:** as for `FNO`; another `query` needs periodic boundaries. **Raises:** `ValueError` when built or traced
    with what contradicts the above.

    Ronneberger, Fischer and Brox (2015), U-Net, arXiv:1505.04597; Zhang et al. (2024), SineNet: learning temporal
    dynamics in time-dependent partial differential equations, arXiv:2403.19507.
    """

    lift: Pointwise
    waves: tuple[Wave, ...]
    project: Pointwise
    in_channels: int = eqx.field(static=True)
    ndim: int = eqx.field(static=True)
    coordinates: bool = eqx.field(static=True)
    conditioning: int = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        ndim: int,
        width: int,
        multiplier: float = 2.0,
        levels: int = 4,
        waves: int = 1,
        input_copies: bool | None = None,
        boundary: Boundary | Sequence[Boundary] = "periodic",
        groups: int | None = None,
        coordinates: bool = False,
        conditioning: int = 0,
        activation: Callable[[Array], Array] = jax.nn.gelu,
        key: PRNGKeyArray,
    ):
        check_sizes(in_channels=in_channels, out_channels=out_channels, width=width, levels=levels, waves=waves)
        check_ndim(ndim)
        check_conditioning(conditioning)
        if multiplier <= 0:
            raise ValueError(f"`multiplier` is {multiplier}; expected a positive number.")
        self.in_channels, self.ndim = in_channels, ndim
        self.coordinates, self.conditioning = coordinates, conditioning
        self.lift = Pointwise(in_channels + ndim * coordinates, width, key=jax.random.fold_in(key, 0))
        self.project = Pointwise(width, out_channels, key=jax.random.fold_in(key, 1))
        self.waves = tuple(
            Wave(
                level_channels(width, multiplier, levels, groups),
                input_copies=waves > 1 if input_copies is None else input_copies,
                ndim=ndim,
                boundary=boundary,
                groups=groups,
                conditioning=conditioning,
                activation=activation,
                key=jax.random.fold_in(key, 2 + i),
            )
            for i in range(waves)
        )

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
        periodic = set(self.waves[0].down[0].first.boundary) == {"periodic"}
        grid = checked_grid(u, domain, query, in_channels=self.in_channels, ndim=self.ndim, periodic=periodic)
        args = checked_args(args, self.conditioning)
        v = self.lift.channels_last(features(u, grid, self.coordinates))
        for wave in self.waves:
            v = v + wave(v, args) if len(self.waves) > 1 else wave(v, args)
        return on_query(self.project.channels_last(v), grid, query)
