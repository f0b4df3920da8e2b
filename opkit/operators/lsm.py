"""The latent spectral model: a U-Net whose levels think in latent tokens."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from opkit.layers import Boundary, LatentSpectral, Pointwise, Wave, average_pool, check_sizes, level_channels
from solvers import Domain, Grid

from .inputs import check_conditioning, check_ndim, checked_args, checked_grid, features, on_query


class LSM(eqx.Module):
    """A `UNet` of one wave with a `LatentSpectral` block on what each level hands to the way up, 1-D to 3-D.

    The blocks see the whole domain through `tokens` learned queries a level, with the quadrature weights of the grid;
    there are no patches and no batch statistics, so that any grid is accepted. The blocks converge with the grid; the
    convolutions around them count points, and so the operator **claims no consistency between grids**: train and use
    it at one resolution.

    **Arguments:** `ndim`, `width`, `multiplier`, `levels`, `boundary`, `groups`, `coordinates`, `conditioning`,
    `activation`: as for `UNet`. `tokens`, `heads`, `harmonics`: see `LatentSpectral`; `heads` divides the channels of
    every level.

    **Call:** as for `FNO`; another `query` needs periodic boundaries. **Raises:** `ValueError` when built or traced
    with what contradicts the above.

    Wu, Hu, Luo, Wang and Long (2023), Solving high-dimensional PDEs with latent spectral models, arXiv:2301.12664;
    theirs has patches and batch normalisation.
    """

    lift: Pointwise
    wave: Wave
    blocks: tuple[LatentSpectral, ...]
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
        tokens: int = 4,
        heads: int = 8,
        harmonics: int = 12,
        boundary: Boundary | Sequence[Boundary] = "periodic",
        groups: int | None = None,
        coordinates: bool = False,
        conditioning: int = 0,
        activation: Callable[[Array], Array] = jax.nn.gelu,
        key: PRNGKeyArray,
    ):
        check_sizes(in_channels=in_channels, out_channels=out_channels, width=width, levels=levels)
        check_ndim(ndim)
        check_conditioning(conditioning)
        self.in_channels, self.ndim = in_channels, ndim
        self.coordinates, self.conditioning = coordinates, conditioning
        keys = [jax.random.fold_in(key, i) for i in range(3 + levels)]
        channels = level_channels(width, multiplier, levels, groups)
        self.lift = Pointwise(in_channels + ndim * coordinates, width, key=keys[0])
        self.project = Pointwise(width, out_channels, key=keys[1])
        self.wave = Wave(
            channels,
            input_copies=False,
            ndim=ndim,
            boundary=boundary,
            groups=groups,
            conditioning=conditioning,
            activation=activation,
            key=keys[2],
        )
        self.blocks = tuple(
            LatentSpectral(c, tokens=tokens, heads=heads, harmonics=harmonics, key=k)
            for c, k in zip(channels, keys[3:], strict=True)
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
        periodic = set(self.wave.down[0].first.boundary) == {"periodic"}
        grid = checked_grid(u, domain, query, in_channels=self.in_channels, ndim=self.ndim, periodic=periodic)
        args = checked_args(args, self.conditioning)
        weights = _level_weights(grid, len(self.blocks))
        v = self.lift.channels_last(features(u, grid, self.coordinates))
        v = self.wave(v, args, lambda level, h: self.blocks[level].channels_last(h, weights[level]))
        return on_query(self.project.channels_last(v), grid, query)


def _level_weights(grid: Grid, levels: int) -> list[Float[Array, "*n"]]:
    """Quadrature weights, up to a factor, on every level: pooling keeps their sum, half a pair counts half."""
    weights = [grid.weights()]
    for _ in range(levels - 1):
        weights.append(average_pool(weights[-1][..., None], ("zero",) * grid.ndim)[..., 0])
    return weights
