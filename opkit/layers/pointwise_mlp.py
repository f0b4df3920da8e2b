"""A multilayer perceptron on the channels of each point, or of each edge."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .pointwise import Pointwise


class PointwiseMLP(eqx.Module):
    """`Pointwise` maps from `sizes[0]` channels through `sizes[1]`, ... to `sizes[-1]`, an activation between two.

    **Raises:** `ValueError` for fewer than two sizes, one below 1, or wrong channels.
    """

    layers: tuple[Pointwise, ...]
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(self, sizes: Sequence[int], *, activation: Callable[[Array], Array] = jax.nn.gelu, key: PRNGKeyArray):
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(f"`sizes` is {tuple(sizes)}; expected two or more numbers of channels, input to output.")
        steps = enumerate(pairwise(sizes))
        self.layers = tuple(Pointwise(m, n, key=jax.random.fold_in(key, i)) for i, (m, n) in steps)
        self.activation = activation

    def __call__(self, u: Float[Array, "cin *n"]) -> Float[Array, "cout *n"]:
        """Apply to one sample."""
        return jnp.moveaxis(self.channels_last(jnp.moveaxis(u, 0, -1)), -1, 0)

    def channels_last(self, x: Float[Array, "*n cin"]) -> Float[Array, "*n cout"]:
        """Apply to features with the channels last."""
        for layer in self.layers[:-1]:
            x = self.activation(layer.channels_last(x))
        return self.layers[-1].channels_last(x)
