"""Convolution over the whole domain, as a product in Fourier space."""

from collections.abc import Sequence
from typing import Literal, get_args

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from .fourier import box_of, coefficients_by_fft, coefficients_by_matrix, field_by_fft, field_by_matrix
from .initial import normal

Transform = Literal["auto", "fft", "matrix"]


class SpectralConv(eqx.Module):
    """Mixes channels mode by mode: `v_hat(k) = R(k) u_hat(k) + bias` where `|k_j| < modes[j]`, nothing elsewhere.

    `u_hat(k)` is the mean of `u(x) exp(-2 pi i k.x)` over the periodic unit box, so `R` does not depend on the
    resolution. The set of wavenumbers is symmetric, and only those with `k_d >= 0` are stored: the rest follow from the
    field being real. On an axis of `n` points only `|k| < n / 2` is used: beyond, wavenumbers alias, and at the
    Nyquist wavenumber `|k| = n / 2` itself the grid sees the cosine but not the sine, so that a phase given to it would
    be lost and the result depend on the grid. A coarse grid therefore uses fewer modes of the same weights.

    Weights are two real arrays `(*box, out, in)`, `box = (2 m_1 - 1, ..., m_d)`, normal with variance `1 / (2 in)`: a
    kept mode keeps its expected power. They are cast to the input's dtype; below float32 the layer works
    in float32 and casts its result back.

    **Arguments:** `modes`: per axis, the number of wavenumbers `0 .. m - 1`; its length is the dimension, 1 to 3.
    `transform`: `"fft"`, `"matrix"` (truncated transforms as matrix products: the same numbers to round-off, no
    communication under sharding of batch or channels) or `"auto"`, the faster by `prefers_matrix`.

    **Call:** `u: (in, *n)` to `(out, *n)`.

    **Raises:** `ValueError` for wrong channels or rank, for `modes` out of range.

    Li et al. (2021), Fourier neural operator for parametric partial differential equations, arXiv:2010.08895.
    """

    real: Float[Array, "*box cout cin"]
    imag: Float[Array, "*box cout cin"]
    bias: Float[Array, " cout"] | None
    modes: tuple[int, ...] = eqx.field(static=True)
    transform: Transform = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        modes: Sequence[int],
        *,
        use_bias: bool = True,
        transform: Transform = "auto",
        key: PRNGKeyArray,
    ):
        self.modes = tuple(int(m) for m in modes)
        if not 1 <= len(self.modes) <= 3 or min(self.modes) < 1:
            raise ValueError(
                f"`modes` is {modes}; expected one to three positive integers, one an axis, as in (12, 12)."
            )
        if transform not in get_args(Transform):
            raise ValueError(f"`transform` is {transform!r}; expected one of {get_args(Transform)}.")
        self.transform = transform
        shape = (*box_of(self.modes), out_channels, in_channels)
        drawn = normal(key, (2, *shape), (2 * in_channels) ** -0.5)
        self.real, self.imag = drawn[0], drawn[1]
        self.bias = jnp.zeros(out_channels) if use_bias else None

    def __call__(self, u: Float[Array, "cin *n"]) -> Float[Array, "cout *n"]:
        """Apply to one sample."""
        return jnp.moveaxis(self.channels_last(jnp.moveaxis(u, 0, -1)), -1, 0)

    def channels_last(self, x: Float[Array, "*n cin"]) -> Float[Array, "*n cout"]:
        """Apply to one sample with the channels last (see `Pointwise`)."""
        in_channels = self.real.shape[-1]
        if x.ndim != 1 + len(self.modes) or x.shape[-1] != in_channels:
            raise ValueError(
                f"`u` has {x.shape[-1]} channels on {x.shape[:-1]} points; expected {in_channels} channels, first, "
                f"and one axis for each of `modes` {self.modes}. Batches come from jax.vmap."
            )
        shape = x.shape[:-1]
        dtype = np.promote_types(x.dtype, np.float32)
        modes = tuple(min(m, (n + 1) // 2) for m, n in zip(self.modes, shape, strict=True))
        real, imag = (self._kept(w, modes).astype(dtype) for w in (self.real, self.imag))
        if self.transform == "matrix" or (self.transform == "auto" and prefers_matrix(modes)):
            y = field_by_matrix(_mix(real, imag, coefficients_by_matrix(x.astype(dtype), modes)), modes, shape)
        else:
            y = field_by_fft(_mix(real, imag, coefficients_by_fft(x.astype(dtype), modes)), modes, shape)
        return (y if self.bias is None else y + self.bias.astype(dtype)).astype(x.dtype)

    def _kept(self, weight: Float[Array, "*box cout cin"], modes: tuple[int, ...]) -> Float[Array, "*k cout cin"]:
        cuts = [slice(full - m, full + m - 1) for full, m in zip(self.modes[:-1], modes[:-1], strict=True)]
        return weight[(*cuts, slice(modes[-1]))]


def _mix(
    real: Float[Array, "*k cout cin"], imag: Float[Array, "*k cout cin"], parts: Float[Array, "two *k cin"]
) -> Float[Array, "two *k cout"]:
    ndim = real.ndim - 2
    each = tuple(range(ndim))
    # one real product in place of four; as its left side, the batch that `vmap` adds stays beside the channels
    weight = jnp.concatenate([jnp.concatenate([real, imag], -2), jnp.concatenate([-imag, real], -2)], -1)
    mixed = lax.dot_general(jnp.concatenate([*parts], -1), weight, (((ndim,), (ndim + 1,)), (each, each)))
    return jnp.stack(jnp.split(mixed, 2, -1))


def prefers_matrix(modes: tuple[int, ...]) -> bool:
    """Whether matrices are the faster transform for `modes`: up to 32 modes an axis.

    Measured, forward and gradient, on CPU in float32: matrices take 0.4 to 0.7 of the FFT's time with 12 modes (2-D 64
    and 128; 16 in 1-D 4096, 6 in 3-D 32), and as long with 24 of 64 or 32 of 128 points; their cost grows with the
    modes, the FFT's does not.
    """
    return max(modes) <= 32
