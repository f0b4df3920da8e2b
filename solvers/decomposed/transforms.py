"""Fourier transforms of fields that lie in pieces on several devices.

Axis by axis, the last first, each at a time when it is whole: between two axes, the one that was transformed is cut in
place of the one that comes next (`lax.all_to_all`). So coefficients are cut one axis further than fields: those of a
field with `axis_names` `("x", "y", None)` by `(None, "x", "y")`. Where the devices do not divide the coefficients of an
axis (such as the `n // 2 + 1` of real fields), zeros stand after them.

Pekurovsky (2012), P3DFFT: a framework for parallel computations of Fourier transforms in three dimensions,
doi:10.1137/11082748X.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Complex, Float, Inexact

from .piece import AxisNames, axis_size, checked_names, padded_to_multiple

Resize = Callable[[Array, int], Array]
"""`resize(u_hat, axis)`: coefficients with others left out or zeros put in along that axis, which is whole then."""


def rfftn(u: Float[Array, "c *n"], axis_names: AxisNames) -> Complex[Array, "c *k"]:
    """This device's piece of `jnp.fft.rfftn` over the spatial axes of the field, from its piece of the field.

    **Arguments:** `axis_names`: for each spatial axis the mesh axis that cuts it, or `None`, as of the last.

    **Returns:** the piece of the coefficients, cut by `(None, *axis_names[:-1])`.

    **Raises:** `ValueError` for a last axis that is cut, names of no mesh axis here, another number of names than axes.
    """
    return to_coefficients(u, checked_names(axis_names, u.ndim - 1), real=True)


def irfftn(u_hat: Complex[Array, "c *k"], axis_names: AxisNames, shape: Sequence[int]) -> Float[Array, "c *n"]:
    """The inverse of `rfftn`: `jnp.fft.irfftn`, in pieces. `shape`: of the whole field, without its channels."""
    counts = (*shape[:-1], shape[-1] // 2 + 1)
    return from_coefficients(u_hat, checked_names(axis_names, u_hat.ndim - 1), counts, shape, real=True)


def fftn(u: Complex[Array, "c *n"], axis_names: AxisNames) -> Complex[Array, "c *k"]:
    """As `rfftn`, for complex fields: `jnp.fft.fftn`."""
    return to_coefficients(u, checked_names(axis_names, u.ndim - 1), real=False)


def ifftn(u_hat: Complex[Array, "c *k"], axis_names: AxisNames, shape: Sequence[int]) -> Complex[Array, "c *n"]:
    """The inverse of `fftn`."""
    return from_coefficients(u_hat, checked_names(axis_names, u_hat.ndim - 1), shape, shape, real=False)


def to_coefficients(
    u: Inexact[Array, "..."],
    axis_names: AxisNames,
    *,
    real: bool,
    first_axis: int = 1,
    resize: Resize | None = None,
) -> Complex[Array, "..."]:
    """As `rfftn` or `fftn`, over the axes from `first_axis`; each axis is resized as soon as it is transformed, before
    it travels."""
    _check_last(axis_names)
    last = len(axis_names) - 1
    for axis in range(last, -1, -1):
        at = first_axis + axis
        name = axis_names[axis]
        if name is not None:
            u = padded_to_multiple(u, at + 1, axis_size(name))
            u = lax.all_to_all(u, name, split_axis=at + 1, concat_axis=at, tiled=True)
        u = jnp.fft.rfft(u, axis=at) if real and axis == last else jnp.fft.fft(u, axis=at)
        u = u if resize is None else resize(u, axis)
    return u


def from_coefficients(
    u_hat: Complex[Array, "..."],
    axis_names: AxisNames,
    counts: Sequence[int],
    shape: Sequence[int],
    *,
    real: bool,
    first_axis: int = 1,
    resize: Resize | None = None,
) -> Inexact[Array, "..."]:
    """As `irfftn` or `ifftn`; each axis, of `counts` coefficients, is resized just before it is transformed to the
    points of `shape`.

    **Raises:** `ValueError` for points that the devices do not divide.
    """
    _check_last(axis_names)
    last = len(axis_names) - 1
    for axis, name in enumerate(axis_names[:-1]):
        at = first_axis + axis
        u_hat = u_hat if resize is None else resize(u_hat, axis)
        u_hat = jnp.fft.ifft(u_hat, axis=at)
        if name is not None:
            if shape[axis] % axis_size(name):
                raise ValueError(
                    f"`shape` is {tuple(shape)}; expected a multiple of {axis_size(name)}, the devices of {name!r}, on "
                    f"axis {axis}."
                )
            u_hat = lax.all_to_all(u_hat, name, split_axis=at, concat_axis=at + 1, tiled=True)
            u_hat = lax.slice_in_dim(u_hat, 0, counts[axis + 1], axis=at + 1)
    u_hat = u_hat if resize is None else resize(u_hat, last)
    at = first_axis + last
    return jnp.fft.irfft(u_hat, shape[last], axis=at) if real else jnp.fft.ifft(u_hat, axis=at)


def _check_last(axis_names: AxisNames) -> None:
    if axis_names[-1] is not None:
        raise ValueError(
            f"`axis_names` is {tuple(axis_names)}; expected None for the last axis, which is transformed first: cut "
            "the axes before it."
        )
