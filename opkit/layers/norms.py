"""Normalisation that knows no resolution: statistics are means over the domain, weights are per channel."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from solvers import AxisNames


class GroupNorm(eqx.Module):
    """`(u - mean) / sqrt(variance + eps) * scale + shift`, moments over each group of channels and all of space.

    `groups = channels` is instance normalisation, `groups = 1` takes every channel together. Means over the points are
    quadrature (exact for resolved periodic fields on `left` grids, the midpoint rule on `cells`, first order on
    `nodes`, whose ends they count in full), so that the layer converges with the grid. A LayerNorm with a weight for
    every point would not, and is not here. `scale` and `shift` are `(channels,)`. Moments are taken in float32 at
    least. With `axis_names`, of a `Piece`, the field is in pieces, and moments are over all of them.

    **Raises:** `ValueError` where `groups` does not divide `channels`, or for wrong channels.

    Wu and He (2018), Group normalization, arXiv:1803.08494.
    """

    scale: Float[Array, " c"]
    shift: Float[Array, " c"]
    groups: int = eqx.field(static=True)
    eps: float = eqx.field(static=True)

    def __init__(self, groups: int, channels: int, *, eps: float = 1e-5):
        if groups < 1 or channels % groups:
            raise ValueError(f"`groups` is {groups}; expected a divisor of the {channels} channels.")
        self.scale, self.shift = jnp.ones(channels), jnp.zeros(channels)
        self.groups, self.eps = groups, eps

    def __call__(self, u: Float[Array, "c *n"], axis_names: AxisNames | None = None) -> Float[Array, "c *n"]:
        """Apply to one sample."""
        return jnp.moveaxis(self.channels_last(jnp.moveaxis(u, 0, -1), axis_names), -1, 0)

    def channels_last(self, x: Float[Array, "*n c"], axis_names: AxisNames | None = None) -> Float[Array, "*n c"]:
        """Apply to features with the channels last."""
        if x.shape[-1] != self.scale.size:
            raise ValueError(f"`u` has {x.shape[-1]} channels; expected {self.scale.size}, on the first axis.")
        y = x.astype(np.promote_types(x.dtype, np.float32)).reshape(-1, self.groups, x.shape[-1] // self.groups)
        cuts = [name for name in axis_names or () if name is not None]
        mean = lambda y: lax.pmean(y.mean(axis=(0, 2), keepdims=True), cuts) if cuts else y.mean((0, 2), keepdims=True)
        y = y - mean(y)
        y = y * lax.rsqrt(mean(y * y) + self.eps)
        return (y.reshape(x.shape) * self.scale.astype(y.dtype) + self.shift.astype(y.dtype)).astype(x.dtype)
