"""What equations do with their coefficients: numbers become arrays, signs are checked, fields go to the points."""

import dataclasses
from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Complex, Float

from ..fourier import Fourier


def as_array(value: ArrayLike | Sequence) -> Float[Array, "..."]:
    """A coefficient as a floating-point array, so that it can be differentiated; of a definite type, lest a compiled
    function of the equation be compiled again after an update."""
    array = jnp.asarray(value)
    return array.astype(array.dtype if jnp.issubdtype(array.dtype, jnp.floating) else float)


def as_array_or_none(value: ArrayLike | Sequence | None) -> Float[Array, "..."] | None:
    """As `as_array`, for a coefficient that may be missing."""
    return None if value is None else as_array(value)


def check(equation: eqx.Module, *scalars: str, nonnegative: tuple[str, ...] = ()) -> None:
    """Raises `ValueError` unless the coefficients `scalars` are of shape `()` and, where values are concrete, all are
    finite and those in `nonnegative` not negative."""
    for name in scalars:
        shape = getattr(equation, name).shape
        if shape:
            raise ValueError(
                f"`{name}` has shape {shape}; expected one number. Build a batch of equations inside jax.vmap."
            )
    for field in dataclasses.fields(equation):
        name, value = field.name, getattr(equation, field.name)
        if not isinstance(value, Array) or isinstance(value, Tracer):
            continue
        if not np.all(np.isfinite(value)):
            raise ValueError(f"`{name}` is {value}; expected finite values.")
        if name in nonnegative and (least := np.min(np.asarray(value))) < 0:
            raise ValueError(
                f"`{name}` is {least:.6g}{' somewhere' if value.ndim else ''}; expected no negative value: the "
                "equation would be ill-posed. Signs are those of the formula in the docstring."
            )


def check_dimension(equation: object, ndim: int, *allowed: int) -> None:
    """Raises `ValueError` unless the equation exists in `ndim` dimensions."""
    if ndim not in allowed:
        raise ValueError(f"`grid` has {ndim} axes; {type(equation).__name__} needs {' or '.join(map(str, allowed))}.")


def check_field(name: str, value: Array, shape: tuple[int, ...]) -> None:
    """Raises `ValueError` unless a field has the shape that the grid gives it."""
    if value.shape != shape:
        raise ValueError(f"`{name}` has shape {value.shape}; expected {shape}, values on the points of the grid.")


def on_points(space: Fourier, fields: Float[Array, "c *n"]) -> Float[Array, "c *q"]:
    """Real fields on the grid, less what `space` does not keep, where products are formed.

    Where they do not change, XLA moves these transforms out of the loop over the steps.
    """
    return space.to_points(space.project(space.forward(fields.astype(space.dtype)))).real


def constant(space: Fourier, value: Float[Array, ""]) -> Complex[Array, " *k"]:
    """The coefficients of a constant."""
    origin = jnp.asarray(space.is_wavenumber(*(0,) * space.grid.ndim), space.dtype)
    complex_dtype = np.result_type(space.dtype, np.complex64)
    return value.astype(complex_dtype) * (origin * space.dtype.type(np.prod(space.grid.whole.shape)))
