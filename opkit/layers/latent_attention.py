"""Attention through few learned tokens: every point sees every other at a cost linear in their number."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .initial import normal
from .pointwise import Pointwise


class LatentAttention(eqx.Module):
    """Points to tokens to points: `encode` and `decode`, by attention with `heads` heads.

    - `encode`: learned queries `q_m` attend to the points. With keys `k_i` and values `v_i` of the features `x_i`, and
      quadrature weights `w_i`, `token_m = q_m + sum_i w_i e^{q_m.k_i} v_i / sum_i w_i e^{q_m.k_i}`: a ratio of two
      integrals, which converges with the quadrature and does not know the number of points.
    - `decode`: the points attend to the tokens, `y_i = W sum_m softmax_m(q_i.k_m) v_m + b`.

    The channels are split into heads, and the products divided by the root of a head's channels. Memory and time are
    linear in the points. Softmaxes are taken in float32 at least.

    **Arguments:** `channels`: of the features and the tokens. `tokens`: their number. `heads`: a divisor of `channels`.

    **Call:** `layer(u, weights, mask)`, `u: (channels, *n)`; `channels_last(x, weights, mask)`, `x: (*n, channels)`, a
    cloud of `(n, channels)` or a grid. `weights: (*n,)`, not negative, at any scale; `None` for equal ones. `mask:
    (*n,)`, `False` where a point is padding: it gives nothing, and what it gets is to be ignored. At least one point
    is to be left. No residual path and no normalisation: those are the caller's.

    **Raises:** `ValueError` for `heads` that do not divide, sizes below one, or wrong channels.

    Jaegle et al. (2021), Perceiver: general perception with iterative attention, arXiv:2103.03206; Wu et al. (2023),
    Solving high-dimensional PDEs with latent spectral models, arXiv:2301.12664.
    """

    queries: Float[Array, "heads tokens size"]
    encode_keys: Pointwise
    encode_values: Pointwise
    decode_queries: Pointwise
    decode_keys: Pointwise
    decode_values: Pointwise
    project: Pointwise

    def __init__(self, channels: int, *, tokens: int, heads: int = 1, key: PRNGKeyArray):
        if heads < 1 or channels < 1 or channels % heads:
            raise ValueError(f"`heads` is {heads}; expected a divisor of the {channels} channels.")
        if tokens < 1:
            raise ValueError(f"`tokens` is {tokens}; expected at least 1.")
        keys = [jax.random.fold_in(key, i) for i in range(7)]
        self.queries = normal(keys[0], (heads, tokens, channels // heads), 1.0)
        maps = [Pointwise(channels, channels, use_bias=False, key=k) for k in keys[1:6]]
        self.encode_keys, self.encode_values, self.decode_queries, self.decode_keys, self.decode_values = maps
        self.project = Pointwise(channels, channels, key=keys[6])

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
        return self.decode(x, self.encode(x, weights, mask))

    def encode(
        self,
        x: Float[Array, "*n c"],
        weights: Float[Array, "*n"] | None = None,
        mask: Bool[Array, "*n"] | None = None,
    ) -> Float[Array, "tokens c"]:
        """What the tokens gather from features with the channels last."""
        points = x.reshape(-1, x.shape[-1])
        measure = jnp.ones(len(points), x.dtype) if weights is None else weights.reshape(-1).astype(x.dtype)
        if mask is not None:
            measure = jnp.where(mask.reshape(-1), measure, 0)
        keys, values = (self._split(f.channels_last(points)) for f in (self.encode_keys, self.encode_values))
        queries = self.queries.astype(x.dtype)
        return self._joined(queries + _attend(queries, keys, values, measure))

    def decode(self, x: Float[Array, "*n c"], tokens: Float[Array, "tokens c"]) -> Float[Array, "*n c"]:
        """What the points, with the channels last, gather from the tokens."""
        queries = self._split(self.decode_queries.channels_last(x.reshape(-1, x.shape[-1])))
        keys, values = (self._split(f.channels_last(tokens)) for f in (self.decode_keys, self.decode_values))
        gathered = _attend(queries, keys, values, jnp.ones(len(tokens), x.dtype))
        return self.project.channels_last(self._joined(gathered)).reshape(x.shape)

    def _split(self, x: Float[Array, "n c"]) -> Float[Array, "heads n size"]:
        return jnp.moveaxis(x.reshape(len(x), len(self.queries), -1), 1, 0)

    def _joined(self, x: Float[Array, "heads n size"]) -> Float[Array, "n c"]:
        return jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1)


def _attend(
    queries: Float[Array, "heads m size"],
    keys: Float[Array, "heads n size"],
    values: Float[Array, "heads n size"],
    measure: Float[Array, " n"],
) -> Float[Array, "heads m size"]:
    """`sum_i w_i e^{s_mi} v_i / sum_i w_i e^{s_mi}` with `s = q.k / sqrt(size)`."""
    dtype = np.promote_types(queries.dtype, np.float32)
    scores = (queries @ jnp.swapaxes(keys, 1, 2)).astype(dtype) * queries.shape[-1] ** -0.5
    scores = jnp.where(measure > 0, scores, -jnp.inf)
    # the weights multiply rather than enter as logarithms, whose gradient at weight zero is not finite
    kernel = measure.astype(dtype) * jnp.exp(scores - lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    return (kernel / kernel.sum(axis=-1, keepdims=True)).astype(values.dtype) @ values
