"""A block that solves in few latent tokens what the points together show."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .initial import normal
from .latent_attention import LatentAttention


class LatentSpectral(eqx.Module):
    """`x + decode(x, T + sum_k a_k sin(pi k T / K) + b_k cos(pi (k - 1) T / K))`, `k = 1 .. K`, `T = encode(x)`.

    Attention with quadrature weights gathers the field into tokens `T` and hands them back (see `LatentAttention`);
    between, each channel of a token goes through a trigonometric series in its own value. The tokens are those of the
    whole domain, not of patches: the block knows no resolution, and converges with the quadrature. Every term has a
    gradient: the sines begin at `k = 1`, the cosines with the constant. `a` and `b` are `(channels, K)`, normal with
    variance `1 / (2 K)`.

    **Arguments:** `tokens`, `heads`: see `LatentAttention`. `harmonics`: `K`. **Call:** as `LatentAttention`.

    Wu, Hu, Luo, Wang and Long (2023), Solving high-dimensional PDEs with latent spectral models, arXiv:2301.12664.
    """

    attention: LatentAttention
    sines: Float[Array, "c k"]
    cosines: Float[Array, "c k"]

    def __init__(self, channels: int, *, tokens: int, heads: int = 1, harmonics: int = 12, key: PRNGKeyArray):
        if harmonics < 1:
            raise ValueError(f"`harmonics` is {harmonics}; expected at least 1.")
        self.attention = LatentAttention(channels, tokens=tokens, heads=heads, key=jax.random.fold_in(key, 0))
        drawn = normal(jax.random.fold_in(key, 1), (2, channels, harmonics), (2 * harmonics) ** -0.5)
        self.sines, self.cosines = drawn[0], drawn[1]

    def __call__(
        self,
        u: Float[Array, "c *n"],
        weights: Float[Array, "*n"] | None = None,
        mask: Bool[Array, "*n"] | None = None,
    ) -> Float[Array, "c *n"]:
        """Apply to one sample."""
        return jnp.moveaxis(self.channels_last(jnp.moveaxis(u, 0, -1), weights, mask), -1, 0)

    def channels_last(
        self,
        x: Float[Array, "*n c"],
        weights: Float[Array, "*n"] | None = None,
        mask: Bool[Array, "*n"] | None = None,
    ) -> Float[Array, "*n c"]:
        """Apply to features with the channels last."""
        tokens = self.attention.encode(x, weights, mask)
        return x + self.attention.decode(x, tokens + self.series(tokens))

    def series(self, tokens: Float[Array, "m c"]) -> Float[Array, "m c"]:
        """The trigonometric series in the value of each channel."""
        harmonics = self.sines.shape[1]
        k = jnp.asarray(np.pi * np.arange(harmonics + 1) / harmonics, tokens.dtype)
        angles = tokens[..., None] * k
        sines, cosines = jnp.sin(angles[..., 1:]), jnp.cos(angles[..., :-1])
        return jnp.sum(self.sines.astype(tokens.dtype) * sines + self.cosines.astype(tokens.dtype) * cosines, axis=-1)
