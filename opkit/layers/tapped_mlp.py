"""A multilayer perceptron that shows several of its layers."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .pointwise import Pointwise


class TappedMLP(eqx.Module):
    """The last `taps` layers of an MLP, `(in,)` to `(taps, width)`: a branch or a trunk of a `DeepONet`.

    `h_l = activation(W_l h_{l-1} + b_l)` for `l = 1 .. depth`, the last without activation; `h_0 = x`.

    **Raises:** `ValueError` where `taps` is not from 1 to `depth`, or for an input of another length.
    """

    layers: tuple[Pointwise, ...]
    taps: int = eqx.field(static=True)
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        *,
        width: int,
        depth: int,
        taps: int = 1,
        activation: Callable[[Array], Array] = jax.nn.gelu,
        key: PRNGKeyArray,
    ):
        if not 1 <= taps <= depth:
            raise ValueError(f"`taps` is {taps}; expected from 1 to `depth` = {depth}.")
        self.layers = tuple(
            Pointwise(width if i else in_size, width, key=jax.random.fold_in(key, i)) for i in range(depth)
        )
        self.taps, self.activation = taps, activation

    def __call__(self, x: Float[Array, " n"]) -> Float[Array, "taps width"]:
        """Evaluate at one input."""
        hidden = []
        for layer in self.layers[:-1]:
            x = self.activation(layer.channels_last(x))
            hidden.append(x)
        hidden.append(self.layers[-1].channels_last(x))
        return jnp.stack(hidden[-self.taps :])
