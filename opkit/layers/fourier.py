"""Fourier coefficients of real fields, low modes only: by the FFT, or by small matrices. Both give the same numbers.

Features `(*n, c)` have coefficients `(2, *box, c)`, real and imaginary parts, where `box = (2 m_1 - 1, ..., m_d)`: the
wavenumbers `-(m_j - 1) .. m_j - 1` in ascending order, on the last axis `0 .. m_d - 1` only, since the field is real.
Modes lead and channels come last, so that mixing channels mode by mode is one batched matrix product.
"""

from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

Parts = Float[Array, "two *box c"]


def box_of(modes: tuple[int, ...]) -> tuple[int, ...]:
    """The numbers of stored wavenumbers per axis: `2 m_j - 1`, and `m_d` on the last axis."""
    return (*(2 * m - 1 for m in modes[:-1]), modes[-1])


def coefficients_by_fft(x: Float[Array, "*n c"], modes: tuple[int, ...]) -> Parts:
    """The mean of `x exp(-2 pi i k.r)` over the unit box for each kept `k`, through a full real FFT."""
    axes = tuple(range(len(modes)))
    spectrum = jnp.fft.rfftn(x, axes=axes, norm="forward")
    for axis, m in zip(axes[:-1], modes[:-1], strict=True):
        n = x.shape[axis]
        negative = lax.slice_in_dim(spectrum, n - m + 1, n, axis=axis)
        spectrum = jnp.concatenate([negative, lax.slice_in_dim(spectrum, 0, m, axis=axis)], axis)
    spectrum = lax.slice_in_dim(spectrum, 0, modes[-1], axis=axes[-1])
    return jnp.stack([spectrum.real, spectrum.imag])


def field_by_fft(parts: Parts, modes: tuple[int, ...], shape: tuple[int, ...]) -> Float[Array, "*n c"]:
    """The real field with the given coefficients on a grid of `shape`, through a full inverse real FFT."""
    spectrum = lax.complex(parts[0], parts[1])
    for axis, (n, m) in enumerate(zip(shape[:-1], modes[:-1], strict=True)):
        negative, positive = jnp.split(spectrum, [m - 1], axis)
        gap = (*spectrum.shape[:axis], n - 2 * m + 1, *spectrum.shape[axis + 1 :])
        spectrum = jnp.concatenate([positive, jnp.zeros(gap, spectrum.dtype), negative], axis)
    padding = [(0, 0)] * (len(shape) - 1) + [(0, shape[-1] // 2 + 1 - modes[-1]), (0, 0)]
    return jnp.fft.irfftn(jnp.pad(spectrum, padding), shape, axes=tuple(range(len(shape))), norm="forward")


def coefficients_by_matrix(x: Float[Array, "*n c"], modes: tuple[int, ...]) -> Parts:
    """`coefficients_by_fft`, by one matrix per axis, the last axis first."""
    last = len(modes) - 1
    x = contract(_axis_table(x.shape[last], modes[last], True)[:, :, 0].transpose(1, 0, 2), x, last, 1)
    for axis in range(last - 1, -1, -1):  # (n_1, .., n_j, 2, k_{j+1}, .., k_d, c) to (n_1, .., 2, k_j, .., k_d, c)
        x = contract(_axis_table(x.shape[axis], modes[axis], False).transpose(1, 0, 3, 2), x, axis, 2)
    return x


def field_by_matrix(parts: Parts, modes: tuple[int, ...], shape: tuple[int, ...]) -> Float[Array, "*n c"]:
    """`field_by_fft`, by one matrix per axis, the last axis last."""
    x, last = parts, len(shape) - 1
    for axis in range(last):
        # the adjoint of the forward table: its inverse up to the factor n of the "forward" normalisation
        x = contract(shape[axis] * _axis_table(shape[axis], modes[axis], False).transpose(3, 2, 1, 0), x, axis, 2)
    table = shape[last] * _axis_table(shape[last], modes[last], True)[:, :, 0].transpose(2, 1, 0)
    table[..., 1:] *= 2  # each stands for its mirror image too
    return contract(table, x, last, 2)


def contract(table: np.ndarray | Array, x: Array, axis: int, contracted: int = 1) -> Array:
    """Replaces `contracted` axes of `x`, from `axis` on, by the leading axes of `table`, whose last ones they meet.

    The axes before are a batch of the product. So every step leaves its result in the order the next one reads,
    batch and channels last: what `vmap` adds goes beside the channels, and only the first and the last step move data.
    """
    # full precision: accelerators would otherwise round the tables to bfloat16 or TF32, and the transform with them
    batch = tuple(range(axis))
    in_x, in_table = (range(end - contracted, end) for end in (axis + contracted, axis + table.ndim))
    many = jnp.broadcast_to(jnp.asarray(table, x.dtype), x.shape[:axis] + table.shape)
    return lax.dot_general(many, x, ((tuple(in_table), tuple(in_x)), (batch, batch)), precision=lax.Precision.HIGHEST)


def _phases(n: int, wavenumbers: np.ndarray) -> np.ndarray:
    return 2 * np.pi * (np.outer(wavenumbers, np.arange(n)) % n) / n  # reduced first: exact for large k n


@lru_cache(maxsize=256)
def _axis_table(n: int, m: int, half: bool) -> np.ndarray:
    """`exp(-i phase) / n` acting on (real, imaginary) pairs: `(wavenumbers, part out, part in, n)`."""
    phases = _phases(n, np.arange(0 if half else 1 - m, m))
    cos, sin = np.cos(phases) / n, np.sin(phases) / n
    return np.stack([np.stack([cos, sin], 1), np.stack([-sin, cos], 1)], 1)
