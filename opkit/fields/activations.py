"""Activations with trained parameters.

A network keeps one copy a layer. Parameters are scalars, shared by the units of a layer, or `(units,)`, one each.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float


class Snake(eqx.Module):
    """`x + sin^2(a x) / a`: grows like a linear map and carries a period, `pi / a`, beyond the data.

    The derivative is `1 + sin(2 a x) >= 0`. The logarithm of `a` is trained, so that it stays positive.

    **Arguments:** `frequency`: `a` at the start, scalar or `(units,)`; 5 to 50 where the data are known to be periodic.
    **Raises:** `ValueError` for an `a` that is not positive.

    Ziyin, Hartwig and Ueda (2020), Neural networks fail to learn periodic functions and how to fix it,
    arXiv:2006.08195.
    """

    log_frequency: Float[Array, "*units"]

    def __init__(self, frequency: ArrayLike = 1.0):
        self.log_frequency = _log("frequency", frequency)

    def __call__(self, x: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """Apply to the units of one point, on the last axis."""
        a = jnp.exp(_fitting("frequency", self.log_frequency, x))
        return x + jnp.sin(a * x) ** 2 / a


class Cauchy(eqx.Module):
    """`(p x + q) / (x^2 + d^2)`: localised, with poles at `+-i d`.

    The logarithm of `d` is trained, so that it stays positive; `p` and `q` are trained as they are.

    **Arguments:** `odd`, `even`, `width`: `p`, `q` and `d` at the start, scalars or `(units,)`.
    **Raises:** `ValueError` for a `width` that is not positive.

    Li, Xia and Zhang (2024), Cauchy activation function and XNet, arXiv:2409.19221.
    """

    odd: Float[Array, "*units"]
    even: Float[Array, "*units"]
    log_width: Float[Array, "*units"]

    def __init__(self, odd: ArrayLike = 1.0, even: ArrayLike = 1.0, width: ArrayLike = 1.0):
        self.odd, self.even = (jnp.asarray(value, float) for value in (odd, even))
        self.log_width = _log("width", width)

    def __call__(self, x: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """Apply to the units of one point, on the last axis."""
        p, q = _fitting("odd", self.odd, x), _fitting("even", self.even, x)
        d = jnp.exp(_fitting("width", self.log_width, x))
        return (p * x + q) / (x * x + d * d)


def _log(name: str, value: ArrayLike) -> Array:
    if not isinstance(value, Tracer) and not np.all(np.asarray(value) > 0):
        raise ValueError(f"`{name}` is {value}; expected positive numbers.")
    return jnp.log(jnp.asarray(value, float))


def _fitting(name: str, parameter: Array, x: Array) -> Array:
    if parameter.shape not in ((), x.shape[-1:]):
        raise ValueError(
            f"`{name}` has shape {parameter.shape} in a layer of shape {x.shape}; expected a scalar, or one a unit."
        )
    return parameter.astype(x.dtype)
