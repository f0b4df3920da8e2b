"""The plain convolutional residual network: the baseline every neural operator has to beat."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from opkit.layers import Boundary, Conv, FiLM, GroupNorm, Pointwise, check_sizes, make_film
from solvers import AxisNames, Domain, Piece

from .inputs import check_conditioning, check_ndim, checked_args, checked_grid, checked_piece, features, on_query


class ResNetBlock(eqx.Module):
    """`v + conv(act(FiLM(norm(conv(act(v))))))`."""

    first: Conv
    norm: GroupNorm | None
    film: FiLM | None
    second: Conv
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __call__(
        self, v: Float[Array, "*n c"], args: Float[Array, " p"] | None, axis_names: AxisNames | None = None
    ) -> Float[Array, "*n c"]:
        """Apply to the features of one sample."""
        h = self.first.channels_last(self.activation(v), axis_names)
        if self.norm is not None:
            h = self.norm.channels_last(h, axis_names)
        if self.film is not None and args is not None:
            h = self.film.channels_last(h, args)
        return v + self.second.channels_last(self.activation(h), axis_names)


class ResNet(eqx.Module):
    """A convolutional residual network at one resolution, 1-D to 3-D, that knows the boundary per axis.

    A pointwise lift, `depth` blocks `v + conv(act(norm(conv(act(v)))))` and, after a last activation, a pointwise
    projection. It accepts any grid, but **claims no consistency between grids**: its kernels count points, so its
    receptive field shrinks with the spacing and the operator it represents changes. Train and use it at one resolution.

    **Arguments:**

    - `ndim`: 1 to 3. `width`, `depth`: channels and blocks. `kernel`: points per axis, odd.
    - `dilations`: the distances between kernel points, block after block, repeated cyclically; `(1,)` is the plain
      network, `(1, 2, 4, 8)` sees 61 points of an axis through 4 blocks of kernel 3.
    - `boundary`: for all axes or one per axis (see `pad`).
    - `groups`, `coordinates`, `conditioning`, `activation`: as for `FNO`.

    **Call:** as for `FNO`; another `query` needs periodic boundaries, a `Piece` does not. **Raises:** `ValueError` when
    built or traced with what contradicts the above.

    He et al. (2016), Identity mappings in deep residual networks, arXiv:1603.05027; dilations: Stachenfeld et al.
    (2022), Learned coarse models for efficient turbulence simulation, arXiv:2112.15275.
    """

    lift: Pointwise
    blocks: tuple[ResNetBlock, ...]
    project: Pointwise
    in_channels: int = eqx.field(static=True)
    ndim: int = eqx.field(static=True)
    coordinates: bool = eqx.field(static=True)
    conditioning: int = eqx.field(static=True)
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        ndim: int,
        width: int,
        depth: int = 6,
        kernel: int = 3,
        dilations: Sequence[int] = (1,),
        boundary: Boundary | Sequence[Boundary] = "periodic",
        groups: int | None = None,
        coordinates: bool = False,
        conditioning: int = 0,
        activation: Callable[[Array], Array] = jax.nn.gelu,
        key: PRNGKeyArray,
    ):
        check_sizes(in_channels=in_channels, out_channels=out_channels, width=width, depth=depth)
        check_ndim(ndim)
        check_conditioning(conditioning)
        if not dilations:
            raise ValueError("`dilations` is empty; expected at least one distance, as in (1,).")
        self.in_channels, self.ndim, self.coordinates = in_channels, ndim, coordinates
        self.conditioning, self.activation = conditioning, activation
        lift_key, project_key, key = (jax.random.fold_in(key, i) for i in range(3))
        self.lift = Pointwise(in_channels + ndim * coordinates, width, key=lift_key)
        self.project = Pointwise(width, out_channels, key=project_key)
        blocks = []
        for i in range(depth):
            keys = [jax.random.fold_in(jax.random.fold_in(key, i), j) for j in range(3)]
            first, second = (
                Conv(width, width, (kernel,) * ndim, boundary=boundary, dilation=dilations[i % len(dilations)], key=k)
                for k in keys[:2]
            )
            blocks.append(
                ResNetBlock(
                    first=first,
                    norm=None if groups is None else GroupNorm(groups, width),
                    film=make_film(conditioning, width, activation=activation, key=keys[2]),
                    second=second,
                    activation=activation,
                )
            )
        self.blocks = tuple(blocks)

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
        periodic = set(self.blocks[0].first.boundary) == {"periodic"}
        channels, ndim = self.in_channels, self.ndim
        if isinstance(domain, Piece):
            grid = checked_piece(u, domain, query, in_channels=channels, ndim=ndim)
        else:
            grid = checked_grid(u, domain, query, in_channels=channels, ndim=ndim, periodic=periodic)
        args = checked_args(args, self.conditioning)
        v = self.lift.channels_last(features(u, grid, self.coordinates))
        for block in self.blocks:
            v = block(v, args, grid.axis_names)
        return on_query(self.project.channels_last(self.activation(v)), grid, query)
