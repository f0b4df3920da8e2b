"""Boxes with walls: sine series for Dirichlet conditions, cosine series for Neumann conditions, both homogeneous.

A sine series is odd about both walls and a cosine series even, so either is half of a periodic function on a box of
twice the length; that is how the transforms are computed. How an equation runs between walls: `Reflected`. Boundary
values that are not zero: `solve_chebyshev`."""

from collections.abc import Sequence
from typing import cast, get_args

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Float

from .grid import Grid
from .random_fields import Basis


class Bounded(eqx.Module):
    """Series of sines, cosines or both, axis by axis, through the values of a field on a uniform grid.

    With `s = (x - lower) / extent`, along an axis whose basis is

    - `"dirichlet"`: `sum_q a_q sin(pi q s)`, zero on both walls; placement `nodes` or `cells`;
    - `"neumann"`: `sum_q a_q cos(pi q s)`, of zero slope on both walls; placement `nodes` or `cells`;
    - `"periodic"`: `sum_q a_q cos(2 pi q s) + sum_q b_q sin(2 pi q s)`; placement `left`.

    Coefficients `(channels, *k)` are real and plain: the amplitudes above. Between walls the entry `q` belongs to `q`
    half waves, in both bases, with `n` entries on `nodes` and `n + 1` on `cells`; the ones the grid does not see
    (`sin 0`, and the last sine on `nodes` or cosine on `cells`) are zero. A periodic axis has `n`: `a_0 .. a_(n // 2)`,
    then `b_1, b_2, ...`. On `nodes`, values on a Dirichlet wall are taken as zero.

    **Arguments:** `basis`: one for all axes or one per axis; the names are those of `gaussian_random_field`.

    **Raises:** `ValueError` for an unknown basis, or a placement that does not go with it.
    """

    grid: Grid = eqx.field(static=True)
    basis: tuple[Basis, ...] = eqx.field(static=True)

    def __init__(self, grid: Grid, basis: Basis | Sequence[Basis]):
        self.grid, self.basis = grid, basis_per_axis(grid, basis)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape `*k` of coefficients."""
        return tuple(n + (name == "cells") for n, name in zip(self.grid.shape, self.grid.placement, strict=True))

    @property
    def eigenvalues(self) -> Float[np.ndarray, " *k"]:
        """Those of `-laplacian`: `|k|^2`, by which it multiplies coefficients. In float64, to be cast."""
        total = np.zeros(())
        for axis in range(self.grid.ndim):
            total = np.add.outer(total, self._wavenumber(axis) ** 2)
        return total

    def forward(self, u: Float[Array, "c *n"]) -> Float[Array, "c *k"]:
        """The coefficients of a field given on the grid."""
        if u.shape[1:] != self.grid.shape:
            raise ValueError(
                f"`u` has shape {u.shape}; expected (channels, *{self.grid.shape}). Batches come from jax.vmap."
            )
        for axis, basis in enumerate(self.basis):
            u = self._analyse(u, axis, basis)
        return u

    def inverse(self, a: Float[Array, "c *k"]) -> Float[Array, "c *n"]:
        """The field on the grid."""
        if a.shape[1:] != self.shape:
            raise ValueError(f"`a` has shape {a.shape}; expected (channels, *{self.shape}).")
        for axis, basis in enumerate(self.basis):
            a = self._synthesise(a, axis, basis)
        return a

    def derivative(self, u: Float[Array, "c *n"], axis: int, order: int = 1) -> Float[Array, "c *n"]:
        """`d^order u / dx_axis^order` of the series, on the grid.

        Odd orders turn sines into cosines and cosines into sines: the result is a field of the other basis along
        `axis`, that of `self.differentiated(axis)`.

        **Raises:** `ValueError` for an axis the grid does not have, or an order below 0.
        """
        if not 0 <= axis < self.grid.ndim or order < 0:
            raise ValueError(
                f"`axis` is {axis} and `order` {order}; expected an axis from 0 to {self.grid.ndim - 1}, the channels "
                "not counted, and an order of at least 0."
            )
        basis, n = self.basis[axis], self.grid.shape[axis]
        a = self._analyse(u, axis, basis)
        power = self._wavenumber(axis) ** order * (-1) ** (order // 2)
        if order % 2 == 0:
            return self._synthesise(a * self._along(power, axis, u.dtype), axis, basis)
        if basis == "dirichlet":
            return self._synthesise(a * self._along(power, axis, u.dtype), axis, "neumann")
        a = a * self._along(-power, axis, u.dtype)
        if basis == "neumann":
            return self._synthesise(a, axis, "dirichlet")
        # Cosines and sines change places; the constant and the Nyquist cosine, whose slopes the grid shows as 0, end.
        pairs = (n - 1) // 2
        cosines, sines = (lax.slice_in_dim(a, i, i + pairs, axis=axis + 1) for i in (1, n // 2 + 1))
        end = lambda count: jnp.zeros([count if k == axis + 1 else m for k, m in enumerate(u.shape)], u.dtype)
        return self._synthesise(jnp.concatenate([end(1), -sines, end((n + 1) % 2), cosines], axis + 1), axis, basis)

    def differentiated(self, axis: int) -> "Bounded":
        """Where odd derivatives along `axis` live: there sines become cosines, cosines sines."""
        other: dict[Basis, Basis] = {"dirichlet": "neumann", "neumann": "dirichlet", "periodic": "periodic"}
        return Bounded(self.grid, [other[b] if k == axis else b for k, b in enumerate(self.basis)])

    def laplacian(self, u: Float[Array, "c *n"]) -> Float[Array, "c *n"]:
        """`sum_j d^2 u / dx_j^2`."""
        return self.inverse(self.forward(u) * jnp.asarray(-self.eigenvalues, u.dtype))

    def solve(self, f: Float[Array, "c *n"], c: ArrayLike = 0.0) -> Float[Array, "c *n"]:
        """The solution of `-laplacian(u) + c u = f`: Poisson, Helmholtz (`c < 0`), implicit diffusion (`c > 0`).

        Modes with `|k|^2 + c = 0` are left out, in `f` too: for `c = 0` and no Dirichlet wall that is the mean."""
        symbol = jnp.asarray(self.eigenvalues, f.dtype) + jnp.asarray(c, f.dtype)
        inverse = jnp.where(symbol == 0, 0, 1 / jnp.where(symbol == 0, 1, symbol))
        return self.inverse(self.forward(f) * inverse)

    def _wavenumber(self, axis: int) -> np.ndarray:
        n, extent = self.grid.shape[axis], self.grid.extent[axis]
        if self.basis[axis] == "periodic":
            return 2 * np.pi / extent * np.concatenate([np.arange(n // 2 + 1), np.arange(1, (n + 1) // 2)])
        return np.pi / extent * np.arange(self.shape[axis])

    def _along(self, values: np.ndarray, axis: int, dtype) -> Array:
        return jnp.asarray(values, dtype).reshape([-1 if k == axis else 1 for k in range(self.grid.ndim)])

    def _analyse(self, u: Array, axis: int, basis: Basis) -> Array:
        """Values to coefficients along one axis."""
        n, placement = self.grid.shape[axis], self.grid.placement[axis]
        if basis == "periodic":
            u_hat = jnp.fft.rfft(u, axis=axis + 1) * self._along(_halves(n // 2 + 1, n) / n, axis, u.dtype)
            sines = -lax.slice_in_dim(u_hat.imag, 1, (n + 1) // 2, axis=axis + 1)
            return jnp.concatenate([u_hat.real, sines], axis + 1)
        u_hat = jnp.fft.rfft(mirrored(u, axis, sign_of(basis), placement), axis=axis + 1)
        phase, period = _phase(basis, n, placement)
        return (u_hat * self._along(_halves(len(phase), period) / period / phase, axis, u_hat.dtype)).real

    def _synthesise(self, a: Array, axis: int, basis: Basis) -> Array:
        """Coefficients to values along one axis."""
        n, placement = self.grid.shape[axis], self.grid.placement[axis]
        if basis == "periodic":
            cosines, sines = (lax.slice_in_dim(a, *ends, axis=axis + 1) for ends in ((0, n // 2 + 1), (n // 2 + 1, n)))
            pads = [(1, (n + 1) % 2) if k == axis + 1 else (0, 0) for k in range(a.ndim)]
            a_hat = lax.complex(cosines, -jnp.pad(sines, pads))
            return jnp.fft.irfft(a_hat * self._along(n / _halves(n // 2 + 1, n), axis, a.dtype), n, axis=axis + 1)
        phase, period = _phase(basis, n, placement)
        # What the grid does not see is what has an imaginary coefficient at wavenumber 0 or Nyquist.
        halves = _halves(len(phase), period)
        seen = np.where(halves == 1, np.real(phase), phase) * period / halves
        dtype = np.result_type(a.dtype, np.complex64)
        doubled = jnp.fft.irfft(a * self._along(seen, axis, dtype), period, axis=axis + 1)
        return lax.slice_in_dim(doubled, 0, n, axis=axis + 1)


def basis_per_axis(grid: Grid, basis: Basis | Sequence[Basis]) -> tuple[Basis, ...]:
    """One basis an axis, checked against the placements."""
    names = (basis,) * grid.ndim if isinstance(basis, str) else tuple(basis)
    if len(names) != grid.ndim:
        raise ValueError(f"`basis` has {len(names)} entries for {grid.ndim} axes; give one, or one an axis.")
    for axis, (name, placement, n) in enumerate(zip(names, grid.placement, grid.shape, strict=True)):
        if name not in get_args(Basis):
            raise ValueError(f"`basis` of axis {axis} is {name!r}; expected one of {get_args(Basis)}.")
        fitting = ("left",) if name == "periodic" else ("nodes", "cells")
        if placement not in fitting or (placement == "nodes" and n < 3):
            raise ValueError(
                f"`basis` of axis {axis} is {name!r} on {n} points of placement {placement!r}; expected placement "
                f"{' or '.join(map(repr, fitting))}, three points or more on 'nodes'."
            )
    return cast(tuple[Basis, ...], names)


def sign_of(basis: Basis) -> int:
    """What a mirror image is multiplied by."""
    return -1 if basis == "dirichlet" else 1


def mirrored(u: Array, axis: int, sign: int | Array, placement: str) -> Array:
    """`u` followed by its mirror image, odd for the sign -1, along an axis with walls."""
    n, along = u.shape[axis + 1], axis + 1
    if placement == "cells":
        return jnp.concatenate([u, sign * jnp.flip(u, along)], along)
    first, inner, last = (lax.slice_in_dim(u, *ends, axis=along) for ends in ((0, 1), (1, n - 1), (n - 1, n)))
    on_wall = (1 + sign) / 2
    return jnp.concatenate([on_wall * first, inner, on_wall * last, sign * jnp.flip(inner, along)], along)


def _halves(count: int, period: int) -> np.ndarray:
    """How many of the `period` wavenumbers an entry of `rfft` stands for."""
    twice = np.full(count, 2.0)
    twice[0] = 1
    if period % 2 == 0:
        twice[-1] = 1
    return twice


def _phase(basis: Basis, n: int, placement: str) -> tuple[np.ndarray, int]:
    """The argument of the coefficients `rfft` gives to the cosines or sines on a mirrored axis, and its length."""
    period = 2 * n if placement == "cells" else 2 * (n - 1)
    q = np.arange(period // 2 + 1)
    start = 0.5 if placement == "cells" else 0.0
    return np.exp(2j * np.pi * q * start / period) * (-1j if basis == "dirichlet" else 1), period
