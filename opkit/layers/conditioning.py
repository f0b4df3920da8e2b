"""How parameters of the problem reach a layer."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .pointwise import Pointwise
from .wide import scaled, shifted


class FiLM(eqx.Module):
    """`(1 + s(a)) u + t(a)` with a scale and a shift per channel, both from a parameter vector `a` by a small MLP.

    The MLP's last layer starts at zero, so that the layer starts as the identity.

    **Arguments:** `parameters`: the length of `a`. `hidden`: the MLP's width.

    **Call:** `u: (channels, *n)`, `a: (parameters,)`.

    Perez et al. (2018), FiLM: visual reasoning with a general conditioning layer, arXiv:1709.07871.
    """

    inner: Pointwise
    outer: Pointwise
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(
        self,
        parameters: int,
        channels: int,
        *,
        hidden: int,
        activation: Callable[[Array], Array] = jax.nn.gelu,
        key: PRNGKeyArray,
    ):
        self.inner = Pointwise(parameters, hidden, key=key)
        self.outer = jax.tree.map(jnp.zeros_like, Pointwise(hidden, 2 * channels, key=key))
        self.activation = activation

    def __call__(self, u: Float[Array, "c *n"], a: Float[Array, " p"]) -> Float[Array, "c *n"]:
        """Apply to one sample."""
        return jnp.moveaxis(self.channels_last(jnp.moveaxis(u, 0, -1), a), -1, 0)

    def channels_last(self, x: Float[Array, "*n c"], a: Float[Array, " p"]) -> Float[Array, "*n c"]:
        """Apply to features with the channels last."""
        hidden = self.activation(self.inner.channels_last(a.astype(x.dtype)))
        scale, shift = jnp.split(self.outer.channels_last(hidden), 2)
        return shifted(scaled(x, 1 + scale), shift)


def make_film(
    parameters: int, channels: int, *, activation: Callable[[Array], Array], key: PRNGKeyArray
) -> FiLM | None:
    """`FiLM` with as many hidden channels as the features have, or `None` where there are no parameters."""
    if parameters == 0:
        return None
    return FiLM(parameters, channels, hidden=channels, activation=activation, key=key)
