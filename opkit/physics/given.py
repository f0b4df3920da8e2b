"""Data that are numbers, arrays or functions of the point."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from solvers import as_module

Given = Callable[[Array], Any]


class Constant(eqx.Module):
    """The same array at every point."""

    array: Array

    def __call__(self, x: Float[Array, " d"]) -> Array:
        """The array."""
        return self.array


def given(value: Any) -> Given:
    """A number, array or function as a function of the point."""
    if callable(value):
        return as_module(value)
    array = jnp.asarray(value)
    return Constant(array if jnp.issubdtype(array.dtype, jnp.inexact) else array.astype(jnp.result_type(float)))


def spread(name: str, value: Any, c: int, x: Float[Array, " d"]) -> Float[Array, " c"]:
    """A number or `(c,)` as `(c,)`, in the precision of the point. **Raises:** `ValueError` for another shape."""
    array = jnp.asarray(value)
    if array.shape not in ((), (c,)):
        raise ValueError(f"{name} has shape {array.shape}; expected a number or ({c},), as many as components.")
    return jnp.broadcast_to(array.astype(x.dtype), (c,))


def value_of(field: Any, x: Float[Array, " d"]) -> Float[Array, " c"]:
    """`field(x)`. **Raises:** `ValueError` for what is no field, or does not give one array `(c,)`."""
    if not callable(field):
        raise ValueError(f"`field` is a {type(field).__name__}; expected a field `f(x)`.")
    value = field(x)
    if not isinstance(value, jax.Array) or value.ndim != 1:
        what = f"an array of shape {value.shape}" if isinstance(value, jax.Array) else f"a {type(value).__name__}"
        raise ValueError(f"`field` gives {what}; expected one array (c,), a number being an array (1,).")
    return value


def check_point(name: str, x: Float[Array, "..."], d: int | None = None) -> None:
    """Raise `ValueError` unless `x` is one point, of `d` coordinates."""
    if x.ndim != 1 or d not in (None, x.size):
        expected = "(d,)" if d is None else f"({d},)"
        raise ValueError(f"`{name}` has shape {x.shape}; expected {expected}, one point. Batches come from jax.vmap.")
