"""Maps that act on the channels of each point alone, and so on any grid.

Every layer has two entrances. `layer(u)` takes a field `(channels, *n)`, as operators do. `layer.channels_last(x)`
takes features `(*n, channels)`, and is how operators chain layers: mixing channels is then a plain matrix product, also
under `vmap`, with no transposition between layers.
"""

from collections.abc import Callable
from typing import Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from .initial import uniform
from .wide import scaled, shifted

Skip = Literal["linear", "soft-gating", "identity"]


class Pointwise(eqx.Module):
    """`v(x) = W u(x) + b`: a linear map of the channels, `(in, *n)` to `(out, *n)`; also called a 1x1 convolution.

    `W: (out, in)` and `b: (out,)` are uniform on `+-1 / sqrt(in)`, and cast to the input's dtype.

    **Raises:** `ValueError` for wrong channels.
    """

    weight: Float[Array, "cout cin"]
    bias: Float[Array, " cout"] | None

    def __init__(self, in_channels: int, out_channels: int, *, use_bias: bool = True, key: PRNGKeyArray):
        bound = in_channels**-0.5
        drawn = uniform(key, (out_channels, in_channels + use_bias), bound)
        self.weight = drawn[:, :in_channels]
        self.bias = drawn[:, in_channels] if use_bias else None

    def __call__(self, u: Float[Array, "cin *n"]) -> Float[Array, "cout *n"]:
        """Apply to one sample."""
        return jnp.moveaxis(self.channels_last(jnp.moveaxis(u, 0, -1)), -1, 0)

    def channels_last(self, x: Float[Array, "*n cin"]) -> Float[Array, "*n cout"]:
        """Apply to features with the channels last."""
        if x.shape[-1] != self.weight.shape[1]:
            raise ValueError(f"`u` has {x.shape[-1]} channels; expected {self.weight.shape[1]}, on the first axis.")
        y = lax.dot_general(x, self.weight.astype(x.dtype), (((x.ndim - 1,), (1,)), ((), ())))
        return y if self.bias is None else shifted(y, self.bias)


class ChannelMLP(eqx.Module):
    """Two `Pointwise` maps with an activation between: `(in, *n)` to `(out, *n)` through `hidden` channels."""

    inner: Pointwise
    outer: Pointwise
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        hidden: int,
        out_channels: int,
        *,
        activation: Callable[[Array], Array] = jax.nn.gelu,
        key: PRNGKeyArray,
    ):
        self.inner = Pointwise(in_channels, hidden, key=jax.random.fold_in(key, 0))
        self.outer = Pointwise(hidden, out_channels, key=jax.random.fold_in(key, 1))
        self.activation = activation

    def __call__(self, u: Float[Array, "cin *n"]) -> Float[Array, "cout *n"]:
        """Apply to one sample."""
        return jnp.moveaxis(self.channels_last(jnp.moveaxis(u, 0, -1)), -1, 0)

    def channels_last(self, x: Float[Array, "*n cin"]) -> Float[Array, "*n cout"]:
        """Apply to features with the channels last."""
        return self.outer.channels_last(self.activation(self.inner.channels_last(x)))


class SoftGating(eqx.Module):
    """`v_c(x) = g_c u_c(x)`, one trained gate a channel, ones at the start."""

    gate: Float[Array, " c"]

    def __init__(self, channels: int):
        self.gate = jnp.ones(channels)

    def __call__(self, u: Float[Array, "c *n"]) -> Float[Array, "c *n"]:
        """Apply to one sample."""
        return jnp.moveaxis(self.channels_last(jnp.moveaxis(u, 0, -1)), -1, 0)

    def channels_last(self, x: Float[Array, "*n c"]) -> Float[Array, "*n c"]:
        """Apply to features with the channels last."""
        return scaled(x, self.gate)


class Identity(eqx.Module):
    """`v = u`."""

    def __call__(self, u: Float[Array, "c *n"]) -> Float[Array, "c *n"]:
        """Apply to one sample."""
        return u

    def channels_last(self, x: Float[Array, "*n c"]) -> Float[Array, "*n c"]:
        """Apply to features with the channels last."""
        return x


def make_skip(kind: Skip, channels: int, *, key: PRNGKeyArray) -> Pointwise | SoftGating | Identity:
    """A path around a block: `"linear"` (`Pointwise` without bias), `"soft-gating"` or `"identity"`."""
    if kind == "linear":
        return Pointwise(channels, channels, use_bias=False, key=key)
    if kind == "soft-gating":
        return SoftGating(channels)
    if kind == "identity":
        return Identity()
    raise ValueError(f"`kind` of skip is {kind!r}; expected one of {get_args(Skip)}.")
