"""The multigrid neural operator."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from opkit.layers import Boundary, CoarseRHS, CoarseStart, FiLM, Pointwise, VCycle, check_sizes, make_film
from solvers import Domain

from .inputs import check_conditioning, check_ndim, checked_args, checked_grid, features, on_query


class MgNOLayer(eqx.Module):
    """`act(FiLM(W_mg v + B v))`: a V-cycle and a pointwise affine map."""

    cycle: VCycle
    pointwise: Pointwise
    film: FiLM | None
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __call__(self, v: Float[Array, "*n cin"], args: Float[Array, " p"] | None) -> Float[Array, "*n cout"]:
        """Apply to the features of one sample."""
        h = self.cycle.channels_last(v) + self.pointwise.channels_last(v)
        if self.film is not None and args is not None:
            h = self.film.channels_last(h, args)
        return self.activation(h)


class MgNO(eqx.Module):
    """The multigrid neural operator, 1-D to 3-D: `depth` layers `act(W_mg v + B v)`, and a pointwise linear output.

    `W_mg` is a `VCycle` from `u = 0`, whose weights reach across the domain at a cost linear in the points. Nothing
    lifts the input: the first layer takes it to `width` channels.

    It accepts any grid, with fewer levels where it is small, but **claims no consistency between grids**: its stencils
    count points, so that the operator changes with the spacing. Train and use it at one resolution. There is no
    normalisation with a weight for every point.

    **Arguments:**

    - `ndim`: 1 to 3. `width`, `depth`: channels and layers.
    - `levels`, `pre`, `post`, `rhs`, `coarse_start`, `boundary`: see `VCycle`. Five levels of the textbook's residual
      cycle are the default; the published code for Darcy's problem is `levels=6, pre=1, post=0, rhs="raw",
      coarse_start="restricted"`. The geometry of the coarse grids is exact for an odd number of `nodes`, for interior
      nodes `2^k - 1` with `"zero"`, and for an even number of `left` points with `"periodic"`.
    - `coordinates`, `conditioning`, `activation`: as for `FNO`.

    **Call:** as for `FNO`; another `query` needs periodic boundaries. **Raises:** `ValueError` when built or traced
    with what contradicts the above.

    He, Liu and Xu (2024), MgNO: efficient parameterization of linear operators via multigrid, arXiv:2310.19809.
    """

    layers: tuple[MgNOLayer, ...]
    project: Pointwise
    in_channels: int = eqx.field(static=True)
    ndim: int = eqx.field(static=True)
    boundary: tuple[Boundary, ...] = eqx.field(static=True)
    coordinates: bool = eqx.field(static=True)
    conditioning: int = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        ndim: int,
        width: int,
        depth: int = 4,
        levels: int = 5,
        pre: int | Sequence[int] = 1,
        post: int | Sequence[int] = 1,
        rhs: CoarseRHS = "residual",
        coarse_start: CoarseStart = "zero",
        boundary: Boundary | Sequence[Boundary] = "periodic",
        coordinates: bool = False,
        conditioning: int = 0,
        activation: Callable[[Array], Array] = jax.nn.gelu,
        key: PRNGKeyArray,
    ):
        check_sizes(in_channels=in_channels, out_channels=out_channels, width=width, depth=depth)
        check_ndim(ndim)
        check_conditioning(conditioning)
        self.in_channels, self.ndim = in_channels, ndim
        self.coordinates, self.conditioning = coordinates, conditioning
        layers = []
        for i in range(depth):
            keys = [jax.random.fold_in(jax.random.fold_in(key, i + 1), j) for j in range(3)]
            ins = width if i else in_channels + ndim * coordinates
            cycle = VCycle(
                ins,
                width,
                ndim=ndim,
                levels=levels,
                pre=pre,
                post=post,
                rhs=rhs,
                coarse_start=coarse_start,
                boundary=boundary,
                key=keys[0],
            )
            film = make_film(conditioning, width, activation=activation, key=keys[2])
            layers.append(MgNOLayer(cycle, Pointwise(ins, width, key=keys[1]), film, activation))
        self.layers = tuple(layers)
        self.project = Pointwise(width, out_channels, key=jax.random.fold_in(key, 0))
        self.boundary = layers[0].cycle.levels[0].operator.boundary

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
        periodic = set(self.boundary) == {"periodic"}
        grid = checked_grid(u, domain, query, in_channels=self.in_channels, ndim=self.ndim, periodic=periodic)
        args = checked_args(args, self.conditioning)
        v = features(u, grid, self.coordinates)
        for layer in self.layers:
            v = layer(v, args)
        return on_query(self.project.channels_last(v), grid, query)
