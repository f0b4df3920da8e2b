"""The Fourier space of fields on a periodic grid: what spectral solvers compute in."""

from collections.abc import Callable
from typing import Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Complex, Float, Inexact

from .grid import Grid

Dealiasing = Literal["truncate", "pad", "none"]


class Fourier(eqx.Module):
    """Trigonometric polynomials on a periodic grid, by their coefficients, and the points on which products are formed.

    A field `(channels, *n)` has coefficients `(channels, *k)`: those of `rfftn` over the spatial axes with
    `norm="backward"` (of `fftn` for complex fields), so `*k` is `*n`, but `n // 2 + 1` on the last axis of real fields.

    Products alias: the product of `degree` fields with wavenumbers up to `m` has wavenumbers up to `degree * m`, and on
    `q` points these fall on lower ones. By `dealiasing`,

    - `"truncate"`: fields keep `m = (n - 1) // (degree + 1)` and are multiplied on the `n` points (for products of two,
      the 2/3 rule): the cheapest, at the price of the highest wavenumbers;
    - `"pad"`: fields keep `m = (n - 1) // 2` and are multiplied on at least `(degree + 1) m + 1` points (the 3/2 rule);
    - `"none"`: fields keep all, aliasing included.

    In the first two, what is left of a product is exact: with such a space a spectral scheme is a Galerkin method.

    **Arguments:** `grid`: periodic, that is of placement `left` on every axis. `degree`: how many fields are multiplied
    at most; 1 or `None` (not a polynomial) mean `"none"`. `real`: whether fields are. `dtype`: of fields, if they are
    real; of their parts, if not.

    **Raises:** `ValueError` for a grid of another placement or of more than three axes, a degree below 1, or too few
    points to keep one wavenumber.

    Orszag (1971), On the elimination of aliasing in finite-difference schemes by filtering high-wavenumber components.
    """

    grid: Grid = eqx.field(static=True)
    kept: tuple[int, ...] = eqx.field(static=True)
    points: tuple[int, ...] = eqx.field(static=True)
    degree: int | None = eqx.field(static=True)
    dealiasing: Dealiasing = eqx.field(static=True)
    real: bool = eqx.field(static=True)
    dtype: np.dtype = eqx.field(static=True)

    def __init__(
        self,
        grid: Grid,
        *,
        degree: int | None = None,
        dealiasing: Dealiasing = "truncate",
        real: bool = True,
        dtype: DTypeLike | None = None,
    ):
        if any(placement != "left" for placement in grid.placement) or grid.ndim > 3:
            raise ValueError(
                f"`grid` has {grid.ndim} axes of placement {grid.placement}; a Fourier space needs one to three, all "
                "periodic: placement 'left', the right end excluded."
            )
        if dealiasing not in get_args(Dealiasing):
            raise ValueError(f"`dealiasing` is {dealiasing!r}; expected one of {get_args(Dealiasing)}.")
        if degree is not None and degree < 1:
            raise ValueError(f"`degree` is {degree}; expected at least 1, or None for what is no polynomial.")
        products = degree or 1
        if dealiasing == "none" or products == 1:
            kept = tuple(n // 2 for n in grid.shape)
            points = grid.shape
        elif dealiasing == "truncate":
            kept = tuple((n - 1) // (products + 1) for n in grid.shape)
            points = grid.shape
        else:
            kept = tuple((n - 1) // 2 for n in grid.shape)
            points = tuple(_fast_length((products + 1) * m + 1, n) for m, n in zip(kept, grid.shape, strict=True))
        if min(kept) < 1:
            raise ValueError(
                f"`grid` has {grid.shape} points; with products of {products} fields and {dealiasing!r} dealiasing no "
                "wavenumber but 0 is left on some axis: use more points."
            )
        self.grid, self.kept, self.points, self.real = grid, kept, points, real
        self.degree, self.dealiasing = degree, dealiasing
        self.dtype = np.dtype(jnp.result_type(float) if dtype is None else dtype)
        if not np.issubdtype(self.dtype, np.floating):
            raise ValueError(f"`dtype` is {self.dtype}; expected float32 or float64.")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape `*k` of coefficients."""
        return (*self.grid.shape[:-1], self.grid.shape[-1] // 2 + 1) if self.real else self.grid.shape

    @property
    def keeps_all(self) -> bool:
        """Whether every coefficient is kept: no `mask` is needed."""
        return self.kept == tuple(n // 2 for n in self.grid.shape)

    def cast(self, dtype: DTypeLike) -> "Fourier":
        """The same space in another precision; `dtype` may be complex."""
        real = np.finfo(dtype).dtype
        if real == self.dtype:
            return self
        return Fourier(self.grid, degree=self.degree, dealiasing=self.dealiasing, real=self.real, dtype=real)

    def encode(self, u: Float[Array, "c *n"]) -> Complex[Array, "m *k"]:
        """The kept coefficients of a state given by real channels `(c, *n)`.

        The components of a complex field come as two channels each, all real parts first: `c = 2 m`; else `c = m`.
        """
        if u.shape[1:] != self.grid.shape:
            raise ValueError(
                f"`u` has shape {u.shape}; expected (channels, *{self.grid.shape}). Batches come from jax.vmap."
            )
        if not self.real:
            if len(u) % 2:
                raise ValueError(f"`u` has {len(u)} channels; complex fields come as two each, real parts first.")
            u = lax.complex(*jnp.split(u, 2))
        return self.project(self.forward(u))

    def decode(self, u_hat: Complex[Array, "m *k"]) -> Float[Array, "c *n"]:
        """The real channels on the grid: the inverse of `encode`, up to the coefficients that are not kept."""
        u = self.inverse(u_hat)
        return u if self.real else jnp.concatenate([u.real, u.imag])

    def forward(self, u: Inexact[Array, "c *n"]) -> Complex[Array, "c *k"]:
        """The coefficients of fields given on the grid."""
        axes = tuple(range(-self.grid.ndim, 0))
        return jnp.fft.rfftn(u, axes=axes) if self.real else jnp.fft.fftn(u, axes=axes)

    def inverse(self, u_hat: Complex[Array, "c *k"]) -> Inexact[Array, "c *n"]:
        """The fields on the grid."""
        axes = tuple(range(-self.grid.ndim, 0))
        return jnp.fft.irfftn(u_hat, self.grid.shape, axes=axes) if self.real else jnp.fft.ifftn(u_hat, axes=axes)

    def project(self, u_hat: Complex[Array, "c *k"]) -> Complex[Array, "c *k"]:
        """Sets the coefficients that are not kept to zero."""
        return u_hat if self.keeps_all else u_hat * self.mask.astype(self.dtype)

    def to_points(self, u_hat: Complex[Array, "c *k"]) -> Inexact[Array, "c *q"]:
        """The fields where products are formed. Only kept coefficients may differ from zero."""
        if self.points == self.grid.shape:
            return self.inverse(u_hat)
        axes, scale = tuple(range(-self.grid.ndim, 0)), np.prod(self.points) / np.prod(self.grid.shape)
        padded = resize_coefficients(u_hat, self.kept, self._shape_at(self.points), self.real) * self.dtype.type(scale)
        return jnp.fft.irfftn(padded, self.points, axes=axes) if self.real else jnp.fft.ifftn(padded, axes=axes)

    def from_points(self, u: Inexact[Array, "c *q"]) -> Complex[Array, "c *k"]:
        """The coefficients of fields where products are formed; only the kept ones are right: see `project`."""
        if self.points == self.grid.shape:
            return self.forward(u)
        axes, scale = tuple(range(-self.grid.ndim, 0)), np.prod(self.grid.shape) / np.prod(self.points)
        u_hat = jnp.fft.rfftn(u, axes=axes) if self.real else jnp.fft.fftn(u, axes=axes)
        return resize_coefficients(u_hat, self.kept, self.shape, self.real) * self.dtype.type(scale)

    def of_points(
        self, function: Callable[[Inexact[Array, "c *q"]], Inexact[Array, "m *q"]], u_hat: Complex[Array, "c *k"]
    ) -> Complex[Array, "m *k"]:
        """`from_points(function(to_points(u_hat)))`, of which reverse mode keeps the fields and not each factor."""
        return self.from_points(jax.checkpoint(function, prevent_cse=False)(self.to_points(u_hat)))

    @property
    def mask(self) -> np.ndarray:
        """`(*k)`, `True` where a coefficient is kept."""
        kept = np.ones((), bool)
        for k, m in zip(self._integers(), self.kept, strict=True):
            kept = np.logical_and.outer(kept, abs(k) <= m)
        return kept

    def derivative(self, axis: int, order: int = 1) -> Inexact[Array, "..."]:
        """The symbol `(i k)^order` of the derivative along `axis`, shaped to broadcast against `(*k)`.

        Real for even orders. For odd orders it vanishes at the Nyquist wavenumber of an even number of points, where
        the grid does not see the sine.
        """
        n, integers = self.grid.shape[axis], self._integers()[axis]
        k = 2 * np.pi * integers / self.grid.extent[axis]
        if order % 2 and n % 2 == 0:
            k = np.where(abs(integers) == n // 2, 0, k)
        power = self._along(k**order, axis)
        if order % 2 == 0:
            return jnp.asarray((-1) ** (order // 2) * power, self.dtype)
        return jnp.asarray(1j * (-1) ** (order // 2) * power, np.result_type(self.dtype, np.complex64))

    @property
    def laplacian(self) -> Float[Array, " *k"]:
        """The symbol `-|k|^2`."""
        return jnp.asarray(-self._square(), self.dtype)

    @property
    def inverse_laplacian(self) -> Float[Array, " *k"]:
        """The symbol `-1 / |k|^2`, and 0 for the mean."""
        square = self._square()
        return jnp.asarray(-np.divide(1, square, out=np.zeros_like(square), where=square > 0), self.dtype)

    def _square(self) -> np.ndarray:
        total = np.zeros(())
        for k, extent in zip(self._integers(), self.grid.extent, strict=True):
            total = np.add.outer(total, (2 * np.pi * k / extent) ** 2)
        return total

    def _along(self, values: np.ndarray, axis: int) -> np.ndarray:
        return values.reshape([-1 if j == axis else 1 for j in range(self.grid.ndim)])

    def _integers(self) -> list[np.ndarray]:
        full = [np.fft.fftfreq(n, 1 / n) for n in self.grid.shape]
        if self.real:
            full[-1] = np.arange(self.grid.shape[-1] // 2 + 1.0)
        return full

    def _shape_at(self, points: tuple[int, ...]) -> tuple[int, ...]:
        return (*points[:-1], points[-1] // 2 + 1) if self.real else points


def resize_coefficients(
    u_hat: Complex[Array, "c *k"], kept: tuple[int, ...], shape: tuple[int, ...], real: bool
) -> Complex[Array, "c *l"]:
    """The coefficients with `|k_j| <= kept[j]` in the layout of another number of points; the others vanish."""
    for axis, (m, n) in enumerate(zip(kept, shape, strict=True), 1):
        low = lax.slice_in_dim(u_hat, 0, m + 1, axis=axis)
        if real and axis == len(shape):
            parts, filled = [low], m + 1
        else:
            end = u_hat.shape[axis]
            parts, filled = [low, lax.slice_in_dim(u_hat, end - m, end, axis=axis)], 2 * m + 1
        gap = jnp.zeros((*u_hat.shape[:axis], n - filled, *u_hat.shape[axis + 1 :]), u_hat.dtype)
        u_hat = jnp.concatenate([parts[0], gap, *parts[1:]], axis)
    return u_hat


def _fast_length(least: int, like: int) -> int:
    """The least length of factors 2, 3 and 5 that is at least `least`, and even where `like` is."""
    n = least
    while True:
        rest = n
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1 and (n % 2 == 0 or like % 2 == 1):
            return n
        n += 1
