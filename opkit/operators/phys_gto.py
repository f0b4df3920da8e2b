"""PhysGTO: messages between neighbours, and attention through latent tokens for what is far."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from opkit.layers import FluxPassing, LatentAttention, Neighbourhood, PointwiseMLP, check_sizes
from solvers import Domain, as_points

from .inputs import check_conditioning, checked_args
from .point_inputs import on_points, point_coordinates, point_features, point_values


class PhysGTOBlock(eqx.Module):
    """`f <- flux(f)`, `f <- f + attention(f)`, `f <- f + mlp(f)` (see `FluxPassing`, `LatentAttention`)."""

    flux: FluxPassing
    attention: LatentAttention
    mlp: PointwiseMLP


class PhysGTO(eqx.Module):
    """Flux messages along edges and projection attention through latent tokens, at a cost linear in the points.

    A lift of values and coordinates, `depth` blocks, and a projection; with `residual`, `u + silu(alpha) Q f` with a
    trained `alpha`, 1/30 at the start. On `Points`, masked ones too, and on a `Grid`. Attention is a ratio of
    integrals and converges with the points. Messages do with a `Ball` for neighbourhood, at the order of its quadrature
    (see there); with `Nearest` neighbours the operator claims no consistency.

    **Arguments:**

    - `ndim`, `neighbourhood`. `width`, `depth`: channels and blocks. `tokens`, `heads`: see `LatentAttention`.
    - `coordinates`: append the coordinates to the input; without them only differences enter.
    - `residual`: predict a change of `u`, which then has as many channels as the output.
    - `conditioning`: the length of `args`, appended to the input of every point.

    **Call:** `u: (in_channels, *domain.shape)`. `query`: any `Grid` or `Points`, interpolated to at second order. `key`
    is not used. Returns `(out_channels, *query.shape)`. Values at masked points are to be ignored.

    **Raises:** `ValueError` when built or traced with what contradicts the above.

    Liu et al. (2025), An efficient graph-transformer operator for learning physical dynamics with manifolds embedding,
    arXiv:2512.10227; its normalisations, its waves of the position and its mesh sampler are left out.
    """

    lift: PointwiseMLP
    blocks: tuple[PhysGTOBlock, ...]
    project: PointwiseMLP
    alpha: Float[Array, ""] | None
    neighbourhood: Neighbourhood
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
        neighbourhood: Neighbourhood,
        width: int = 64,
        depth: int = 4,
        tokens: int = 64,
        heads: int = 4,
        coordinates: bool = True,
        residual: bool = False,
        conditioning: int = 0,
        activation: Callable[[Array], Array] = jax.nn.silu,
        key: PRNGKeyArray,
    ):
        check_sizes(in_channels=in_channels, out_channels=out_channels, ndim=ndim, width=width, depth=depth)
        check_conditioning(conditioning)
        if residual and in_channels != out_channels:
            raise ValueError(f"`residual` adds {in_channels} channels to {out_channels}; expected as many.")
        keys = [jax.random.fold_in(key, i) for i in range(3)]
        inputs = in_channels + ndim * coordinates + conditioning
        self.lift = PointwiseMLP((inputs, width, width), activation=activation, key=keys[0])
        self.project = PointwiseMLP((width, width, out_channels), activation=activation, key=keys[1])
        blocks = []
        for i in range(depth):
            parts = [jax.random.fold_in(jax.random.fold_in(keys[2], i), j) for j in range(3)]
            blocks.append(
                PhysGTOBlock(
                    FluxPassing(width, ndim=ndim, activation=activation, key=parts[0]),
                    LatentAttention(width, tokens=tokens, heads=heads, key=parts[1]),
                    PointwiseMLP((width, 2 * width, width), activation=activation, key=parts[2]),
                )
            )
        self.blocks = tuple(blocks)
        self.alpha = jnp.array(1 / 30) if residual else None
        self.neighbourhood, self.in_channels, self.ndim = neighbourhood, in_channels, ndim
        self.coordinates, self.conditioning = coordinates, conditioning

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
        values = point_values(u, domain, in_channels=self.in_channels, ndim=self.ndim)
        args, cloud = checked_args(args, self.conditioning), as_points(domain)
        parts = [values, point_coordinates(domain, values.dtype)] if self.coordinates else [values]
        f = self.lift.channels_last(point_features(*parts, args=args))
        edges = self.neighbourhood(domain, dtype=values.dtype)
        for block in self.blocks:
            f = block.flux.channels_last(f, edges)
            f = f + block.attention.channels_last(f, cloud.weights, cloud.mask)
            f = f + block.mlp.channels_last(f)
        out = self.project.channels_last(f)
        if self.alpha is not None:
            out = values + jax.nn.silu(self.alpha.astype(out.dtype)) * out
        return on_points(out, domain, query, self.neighbourhood.period)
