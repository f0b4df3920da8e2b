"""Low Fourier modes of features in pieces, and the weights of the modes that a device has.

As `.fourier` has them, but cut over devices one axis further than the features are (see `solvers.decomposed`). Modes
that are not kept do not travel.
"""

from math import prod

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from solvers import AxisNames, decomposed

from .fourier import Parts, box_of


def coefficients_in_pieces(
    x: Float[Array, "*n c"], modes: tuple[int, ...], shape: tuple[int, ...], axis_names: AxisNames
) -> Parts:
    """This device's piece of `coefficients_by_fft`, from its piece of features on points of `shape`."""

    def low(spectrum: Array, axis: int) -> Array:
        m, n = modes[axis], spectrum.shape[axis]
        kept = lax.slice_in_dim(spectrum, 0, m, axis=axis)
        if axis == len(modes) - 1:
            return kept
        return jnp.concatenate([lax.slice_in_dim(spectrum, n - m + 1, n, axis=axis), kept], axis)

    spectrum = decomposed.to_coefficients(x, axis_names, real=True, first_axis=0, resize=low)
    return jnp.stack([spectrum.real, spectrum.imag]) / prod(shape)


def field_in_pieces(
    parts: Parts, modes: tuple[int, ...], shape: tuple[int, ...], axis_names: AxisNames
) -> Float[Array, "*n c"]:
    """This device's piece of `field_by_fft`, from its piece of the coefficients."""

    def padded(spectrum: Array, axis: int) -> Array:
        m, n = modes[axis], shape[axis]
        last = axis == len(modes) - 1
        missing = n // 2 + 1 - m if last else n - 2 * m + 1
        gap = jnp.zeros((*spectrum.shape[:axis], missing, *spectrum.shape[axis + 1 :]), spectrum.dtype)
        negative, positive = jnp.split(spectrum, [0 if last else m - 1], axis)
        return jnp.concatenate([positive, gap, negative], axis)

    spectrum = lax.complex(parts[0], parts[1]) * prod(shape)
    return decomposed.from_coefficients(
        spectrum, axis_names, box_of(modes), shape, real=True, first_axis=0, resize=padded
    )


def own_modes(weight: Float[Array, "*box cout cin"], axis_names: AxisNames) -> Float[Array, "*k cout cin"]:
    """The weights of the modes that this device has, of those of all."""
    for axis, name in enumerate(axis_names[:-1], 1):
        weight = decomposed.own_block(weight, axis, name)
    return weight
