"""A layer that acts on coefficients and stays there."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .fourier import contract
from .initial import normal
from .spectral_weights import mix


class CoefficientMixing(eqx.Module):
    """`a + (M_1 x .. x M_d) act(R(k) a(k) + b(k))`: channels mode by mode, an activation, modes axis by axis.

    It takes the coefficients of a field, not its values; the activation in the space of coefficients couples what is
    on a mode, the matrices `M_j: (k_j, k_j)`, common to all channels, couple the modes. No grid enters: with
    coefficients that do not depend on the resolution, the layer does not either.

    `R: (*k, c, c)` is normal with variance `1 / c`, `M_j` with variance `1 / k_j`: both keep the variance of what
    they act on. `b: (*k, c)` is zero at the start. All are cast to the input's dtype.

    **Arguments:** `shape`: the numbers of coefficients `*k`, 1 to 3 axes. **Call:** `a: (*k, c)` to the same.

    **Raises:** `ValueError` for a shape out of range, or coefficients of another.

    Poli et al. (2022), Transform once: efficient operator learning in frequency domain, arXiv:2211.14453.
    """

    channels: Float[Array, "*k c c"]
    bias: Float[Array, "*k c"]
    modes: tuple[Float[Array, "_ _"], ...]
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(
        self,
        channels: int,
        shape: Sequence[int],
        *,
        activation: Callable[[Array], Array] = jax.nn.gelu,
        key: PRNGKeyArray,
    ):
        if channels < 1 or not 1 <= len(shape) <= 3 or min(shape) < 1:
            raise ValueError(
                f"`channels` is {channels}, `shape` {tuple(shape)}; expected at least one channel, and one to three "
                "positive numbers of coefficients."
            )
        self.channels = normal(jax.random.fold_in(key, 0), (*shape, channels, channels), channels**-0.5)
        self.bias = jnp.zeros((*shape, channels))
        self.modes = tuple(normal(jax.random.fold_in(key, 1 + j), (k, k), k**-0.5) for j, k in enumerate(shape))
        self.activation = activation

    def __call__(self, a: Float[Array, "*k c"]) -> Float[Array, "*k c"]:
        """Apply to the coefficients of one sample."""
        if a.shape != self.bias.shape:
            raise ValueError(
                f"`a` has shape {a.shape}; expected coefficients and channels {self.bias.shape}. Batches come from "
                "jax.vmap."
            )
        h = mix([self.channels.astype(a.dtype)], a[None])[0] + self.bias.astype(a.dtype)
        h = self.activation(h)
        for axis in reversed(range(len(self.modes))):
            h = contract(self.modes[axis], h, axis)
        return a + h
