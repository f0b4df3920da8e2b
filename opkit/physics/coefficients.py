"""What an equation is given: numbers, values on the grid, or functions of a point."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float

Coefficient = Callable[..., Any] | Float[Array, "..."]
"""A number, `(k,)` numbers, values `(*n,)` or `(k, *n)` on the grid, or a function of one point `(d,)` that gives a
number or `(k,)`: a network, too."""


def as_coefficient(value: Any) -> Coefficient:
    """A function as it is, and all else as an array of floats, so that it can be differentiated."""
    return value if callable(value) else _as_array(value)


def as_number(name: str, value: ArrayLike, *, least: float = -np.inf) -> Float[Array, ""]:
    """One number as an array; `ValueError` for more, and for a concrete one below `least` or not finite."""
    array = _as_array(value)
    if array.shape:
        raise ValueError(f"`{name}` has shape {array.shape}; expected one number. Batches come from jax.vmap.")
    if not isinstance(array, Tracer) and not (np.isfinite(array) and array >= least):
        raise ValueError(f"`{name}` is {array}; expected a finite number of at least {least}.")
    return array


def coefficient_at(
    name: str, value: Coefficient, *x: Float[Array, "_ ..."], components: int | None = None
) -> Float[Array, "..."]:
    """The values `(k, *n)` at the points `x: (d, *n)`, in their precision; several `x` are a function's arguments.

    With `components`, `k` is that number, a single one standing for all; else it is what is given.

    **Raises:** `ValueError` for shapes that are none of those of `Coefficient`.
    """
    shape, dtype = x[0].shape[1:], x[0].dtype
    if callable(value):
        found = over_points(lambda *points: jnp.atleast_1d(value(*points)), len(shape))(*x)
    elif value.shape == shape:
        found = value[None]
    else:
        found = value.reshape(-1, *(1 for _ in shape)) if value.ndim < 2 else value
    wanted = (found.shape[0] if components is None else components, *shape)
    if found.ndim != len(wanted) or any(n not in (1, m) for n, m in zip(found.shape, wanted, strict=True)):
        several = "(k,)" if components is None else f"({components},)"
        raise ValueError(
            f"`{name}` {'gives' if callable(value) else 'has'} the shape {found.shape}; expected a number or {several} "
            f"at each point, the points being {shape}."
        )
    return jnp.broadcast_to(found.astype(dtype), wanted)


def over_points(function: Callable[..., Any], axes: int) -> Callable[..., Any]:
    """A function of points `(d,)`, as one of arrays of points `(d, *n)` with so many axes after the first."""
    for _ in range(axes):
        function = jax.vmap(function, -1, -1)
    return function


def _as_array(value: Any) -> Array:
    array = jnp.asarray(value)
    return array.astype(array.dtype if jnp.issubdtype(array.dtype, jnp.floating) else float)
