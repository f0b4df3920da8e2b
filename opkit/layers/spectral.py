"""Convolution over the whole domain, as a product in the space of its coefficients."""

from collections.abc import Sequence
from typing import Literal, get_args

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from solvers import AxisNames, Placement, decomposed

from .decomposed import coefficients_in_pieces, field_in_pieces, own_modes
from .fourier import box_of, coefficients_by_fft, coefficients_by_matrix, field_by_fft, field_by_matrix
from .initial import normal
from .spectral_basis import Axis, SpectralBasis, basis_per_axis, checked_modes, series_coefficients, series_values
from .spectral_weights import CP, Factorisation, Rank, Tucker, mix

Transform = Literal["auto", "fft", "matrix"]


class SpectralConv(eqx.Module):
    """Mixes channels mode by mode: `v_hat(k) = R(k) u_hat(k) + bias` where `|k_j| < modes[j]`, nothing elsewhere.

    `u_hat(k)` is the mean of `u(x) exp(-2 pi i k.x)` over the periodic unit box, so `R` does not depend on the
    resolution. The set of wavenumbers is symmetric, and only those with `k_d >= 0` are stored: the rest follow from the
    field being real. On an axis of `n` points only `|k| < n / 2` is used: beyond, wavenumbers alias, and at the
    Nyquist wavenumber `|k| = n / 2` itself the grid sees the cosine but not the sine, so that a phase given to it would
    be lost and the result depend on the grid. A coarse grid therefore uses fewer modes of the same weights.

    An axis of another `basis` has the real coefficients of `series_coefficients` in place of these, those that its
    points resolve. Between walls the layer then acts on cosines or sines as a convolution does on waves.

    Weights are two real arrays `(*box, out, in)`, `box = (2 m_1 - 1, ..., m_d)`, normal with variance `1 / (2 in)`: a
    kept mode keeps its expected power. Axes that are not Fourier come last in `box`, with `m_j` each; without a Fourier
    axis `real` alone is the weight, of variance `1 / in`. They are cast to the input's dtype; below float32 the layer
    works in float32 and casts its result back.

    **Arguments:** `modes`: per axis, the number of wavenumbers `0 .. m - 1`, or of functions of another basis; its
    length is the dimension, 1 to 3. `transform` of Fourier axes: `"fft"`, `"matrix"` (truncated transforms as matrix
    products: the same numbers to round-off, no communication under sharding of batch or channels) or `"auto"`, the
    faster by `prefers_matrix`. `basis`: one for all axes or one per axis. `factorisation` of the weight, and its `rank`
    (see `Tucker` and `CP`).

    **Call:** `u: (in, *n)` to `(out, *n)`. `placement`, one per axis, is needed where an axis is not Fourier, and tells
    how its points lie; Fourier axes take any even spacing, the points as one period. `axis_names`, of a `Piece`: the
    field is in pieces, whose modes travel between devices (`transform` is not read, factors are multiplied out).

    **Raises:** `ValueError` for wrong channels or rank, for `modes` out of range, for a placement that does not fit,
    for pieces in another basis than Fourier.

    Li et al. (2021), Fourier neural operator for parametric partial differential equations, arXiv:2010.08895.
    """

    real: Float[Array, "*box cout cin"] | None
    imag: Float[Array, "*box cout cin"] | None
    bias: Float[Array, " cout"] | None
    factors: Tucker | CP | None
    in_channels: int = eqx.field(static=True)
    modes: tuple[int, ...] = eqx.field(static=True)
    transform: Transform = eqx.field(static=True)
    basis: tuple[SpectralBasis, ...] = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        modes: Sequence[int],
        *,
        use_bias: bool = True,
        transform: Transform = "auto",
        basis: SpectralBasis | Sequence[SpectralBasis] = "fourier",
        factorisation: Factorisation | None = None,
        rank: Rank = 0.1,
        key: PRNGKeyArray,
    ):
        self.in_channels, self.modes = in_channels, checked_modes(modes)
        if transform not in get_args(Transform):
            raise ValueError(f"`transform` is {transform!r}; expected one of {get_args(Transform)}.")
        self.transform, self.basis = transform, basis_per_axis(basis, len(self.modes))
        waves, others = ([self.modes[axis] for axis in axes] for axes in self._axes())
        parts = 2 if waves else 1
        shape = (parts, *(box_of(tuple(waves)) if waves else ()), *others, out_channels, in_channels)
        deviation = (parts * in_channels) ** -0.5
        self.real = self.imag = self.factors = None
        if factorisation is None:
            drawn = normal(key, shape, deviation)
            self.real, self.imag = drawn[0], drawn[1] if waves else None
        elif factorisation == "tucker":
            self.factors = Tucker(shape, rank, deviation=deviation, key=key)
        elif factorisation == "cp":
            self.factors = CP(shape, rank, deviation=deviation, key=key)
        else:
            raise ValueError(
                f"`factorisation` is {factorisation!r}; expected one of {get_args(Factorisation)}, or None."
            )
        self.bias = jnp.zeros(out_channels) if use_bias else None

    def __call__(
        self,
        u: Float[Array, "cin *n"],
        placement: Sequence[Placement] | None = None,
        axis_names: AxisNames | None = None,
    ) -> Float[Array, "cout *n"]:
        """Apply to one sample."""
        return jnp.moveaxis(self.channels_last(jnp.moveaxis(u, 0, -1), placement, axis_names), -1, 0)

    def channels_last(
        self,
        x: Float[Array, "*n cin"],
        placement: Sequence[Placement] | None = None,
        axis_names: AxisNames | None = None,
    ) -> Float[Array, "*n cout"]:
        """Apply to one sample with the channels last (see `Pointwise`)."""
        if x.ndim != 1 + len(self.modes) or x.shape[-1] != self.in_channels:
            raise ValueError(
                f"`u` has {x.shape[-1]} channels on {x.shape[:-1]} points; expected {self.in_channels} channels, "
                f"first, and one axis for each of `modes` {self.modes}. Batches come from jax.vmap."
            )
        waves, others = self._axes()
        if others and (placement is None or len(placement) != len(self.modes)):
            raise ValueError(f"`placement` is {placement}; expected one for each axis of the basis {self.basis}.")
        if placement is not None and "chebyshev" in (placement[axis] for axis in waves):
            raise ValueError(f"`placement` is {tuple(placement)}; the Fourier axes of {self.basis} need even spacing.")
        if axis_names is not None and any(axis_names):
            return self._in_pieces(x, axis_names)
        dtype = np.promote_types(x.dtype, np.float32)
        order = (*waves, *others)
        y = x.astype(dtype).transpose(*order, x.ndim - 1)
        shape, rest = y.shape[: len(waves)], y.shape[len(waves) : -1]
        modes = tuple(min(self.modes[axis], (n + 1) // 2) for axis, n in zip(waves, shape, strict=True))
        by_matrix = self.transform == "matrix" or (self.transform == "auto" and prefers_matrix(modes))
        if waves:
            forward = coefficients_by_matrix if by_matrix else coefficients_by_fft
            a = forward(y.reshape(*shape, -1), modes)
            a = a.reshape(*a.shape[:-1], *rest, self.in_channels)
        else:
            a = y[None]
        series: list[Axis] = []
        if placement is not None:
            series = [(self.basis[axis], placement[axis], self.modes[axis]) for axis in others]
        a = series_coefficients(a, series, first_axis=1 + len(waves))
        a = self._mixed(a, modes)
        a = series_values(a, series, rest, first_axis=1 + len(waves))
        if waves:
            back = field_by_matrix if by_matrix else field_by_fft
            y = back(a.reshape(*a.shape[: 1 + len(waves)], -1), modes, shape).reshape(*shape, *rest, a.shape[-1])
        else:
            y = a[0]
        y = y.transpose(*np.argsort(order), x.ndim - 1)
        return (y if self.bias is None else y + self.bias.astype(dtype)).astype(x.dtype)

    def _in_pieces(self, x: Float[Array, "*n cin"], axis_names: AxisNames) -> Float[Array, "*n cout"]:
        """Of features in pieces."""
        if set(self.basis) != {"fourier"}:
            raise ValueError(f"`axis_names` is {axis_names} with the basis {self.basis}; pieces need Fourier axes.")
        y = x.astype(np.promote_types(x.dtype, np.float32))
        shape = decomposed.whole_shape(x.shape[:-1], axis_names)
        modes = tuple(min(m, (n + 1) // 2) for m, n in zip(self.modes, shape, strict=True))
        weights = self._weights() if self.factors is None else [*self.factors.dense()]
        own = [own_modes(w[self._cuts(modes)], axis_names).astype(y.dtype) for w in weights]
        a = mix(own, coefficients_in_pieces(y, modes, shape, axis_names))
        y = field_in_pieces(a, modes, shape, axis_names)
        return (y if self.bias is None else y + self.bias.astype(y.dtype)).astype(x.dtype)

    def _axes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Those of Fourier series, and the others."""
        waves = tuple(axis for axis, name in enumerate(self.basis) if name == "fourier")
        return waves, tuple(axis for axis in range(len(self.basis)) if axis not in waves)

    def _mixed(self, a: Float[Array, "parts *k cin"], modes: tuple[int, ...]) -> Float[Array, "parts *k cout"]:
        """The coefficients times the weights of the modes that are used."""
        if self.factors is not None:
            return self.factors.mix(a, self._cuts(modes))
        return mix([w[self._cuts(modes)].astype(a.dtype) for w in self._weights()], a)

    def _weights(self) -> list[Array]:
        return [w for w in (self.real, self.imag) if w is not None]

    def _cuts(self, modes: tuple[int, ...]) -> tuple[slice, ...]:
        """Where the modes that are used are in a weight."""
        waves, others = self._axes()
        full = [self.modes[axis] for axis in waves]
        cuts = [slice(f - m, f + m - 1) for f, m in zip(full[:-1], modes[:-1], strict=True)]
        return (*cuts, *(slice(m) for m in modes[-1:]), *(slice(None) for _ in others))


def prefers_matrix(modes: tuple[int, ...]) -> bool:
    """Whether matrices are the faster transform for `modes`: up to 32 modes an axis.

    Measured, forward and gradient, on CPU in float32: matrices take 0.4 to 0.7 of the FFT's time with 12 modes (2-D 64
    and 128; 16 in 1-D 4096, 6 in 3-D 32), and as long with 24 of 64 or 32 of 128 points; their cost grows with the
    modes, the FFT's does not.
    """
    return max(modes, default=0) <= 32
