"""Starting values of weights, drawn with few compilations.

Built eagerly, a model costs what compiling the generator costs: about 0.2 s on a CPU for every new shape, up to 1 s for
one of many axes. So weights are drawn flat, small ones at one common length: a shorter draw is the beginning of a
longer one (with JAX's default, partitionable generator), and the values are those of a draw of the very shape.
Layers derive keys by `jax.random.fold_in`, which compiles once, not once per number of keys as `split` does.
"""

from math import prod

import jax
from jaxtyping import Array, Float, PRNGKeyArray

_COMMON = 4096


def uniform(key: PRNGKeyArray, shape: tuple[int, ...], bound: float) -> Float[Array, "..."]:
    """Independent, uniform on `+-bound`."""
    drawn = jax.random.uniform(key, (max(prod(shape), _COMMON),), minval=-bound, maxval=bound)
    return drawn[: prod(shape)].reshape(shape)


def normal(key: PRNGKeyArray, shape: tuple[int, ...], deviation: float) -> Float[Array, "..."]:
    """Independent, normal with mean zero."""
    drawn = jax.random.normal(key, (max(prod(shape), _COMMON),))
    return deviation * drawn[: prod(shape)].reshape(shape)
