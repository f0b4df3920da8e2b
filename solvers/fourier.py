"""The Fourier space of fields on a periodic grid: what spectral solvers compute in."""

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Complex, Float, Inexact

from .decomposed import Piece, from_coefficients, own_block, to_coefficients
from .decomposed.piece import axis_size
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

    Of a `Piece` of a grid, coefficients are in pieces as `rfftn` of `solvers.decomposed` leaves them: `*k` is what this
    device has, and so are symbols.

    **Arguments:** `grid`: periodic, that is of placement `left` on every axis. `degree`: how many fields are multiplied
    at most; 1 or `None` (not a polynomial) mean `"none"`. `real`: whether fields are. `dtype`: of fields, if they are
    real; of their parts, if not.

    **Raises:** `ValueError` for a grid of another placement or of more than three axes, a degree below 1, too few
    points to keep one wavenumber, or a piece that is cut along the last axis.

    Orszag (1971), On the elimination of aliasing in finite-difference schemes by filtering high-wavenumber components.
    """

    grid: Grid | Piece = eqx.field(static=True)
    kept: tuple[int, ...] = eqx.field(static=True)
    points: tuple[int, ...] = eqx.field(static=True)
    degree: int | None = eqx.field(static=True)
    dealiasing: Dealiasing = eqx.field(static=True)
    real: bool = eqx.field(static=True)
    dtype: np.dtype = eqx.field(static=True)

    def __init__(
        self,
        grid: Grid | Piece,
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
        if grid.axis_names[-1] is not None:
            raise ValueError(
                f"`grid` is cut by {grid.axis_names}; a Fourier space needs the last axis whole: cut those before it."
            )
        shape, products = grid.whole.shape, degree or 1
        if dealiasing == "none" or products == 1:
            kept = tuple(n // 2 for n in shape)
            points = shape
        elif dealiasing == "truncate":
            kept = tuple((n - 1) // (products + 1) for n in shape)
            points = shape
        else:
            kept = tuple((n - 1) // 2 for n in shape)
            points = tuple(
                _fast_length((products + 1) * m + 1, n, axis_size(name))
                for m, n, name in zip(kept, shape, grid.axis_names, strict=True)
            )
        if min(kept) < 1:
            raise ValueError(
                f"`grid` has {shape} points; with products of {products} fields and {dealiasing!r} dealiasing no "
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
        return tuple(-(-k // axis_size(name)) for k, name in zip(self._counts, self._cuts, strict=True))

    @property
    def keeps_all(self) -> bool:
        """Whether every coefficient is kept: no `mask` is needed."""
        return self.kept == tuple(n // 2 for n in self.grid.whole.shape)

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
        return self._to_coefficients(u, self.grid.whole.shape)

    def inverse(self, u_hat: Complex[Array, "c *k"]) -> Inexact[Array, "c *n"]:
        """The fields on the grid."""
        return self._from_coefficients(u_hat, self.grid.whole.shape)

    def project(self, u_hat: Complex[Array, "c *k"]) -> Complex[Array, "c *k"]:
        """Sets the coefficients that are not kept to zero."""
        return u_hat if self.keeps_all else u_hat * self.mask.astype(self.dtype)

    def to_points(self, u_hat: Complex[Array, "c *k"]) -> Inexact[Array, "c *q"]:
        """The fields where products are formed. Only kept coefficients may differ from zero."""
        if self.points == self.grid.whole.shape:
            return self.inverse(u_hat)
        scale = np.prod(self.points) / np.prod(self.grid.whole.shape)
        return self._from_coefficients(u_hat * self.dtype.type(scale), self.points)

    def from_points(self, u: Inexact[Array, "c *q"]) -> Complex[Array, "c *k"]:
        """The coefficients of fields where products are formed; only the kept ones are right: see `project`."""
        if self.points == self.grid.whole.shape:
            return self.forward(u)
        scale = np.prod(self.grid.whole.shape) / np.prod(self.points)
        return self._to_coefficients(u, self.points) * self.dtype.type(scale)

    def of_points(
        self, function: Callable[[Inexact[Array, "c *q"]], Inexact[Array, "m *q"]], u_hat: Complex[Array, "c *k"]
    ) -> Complex[Array, "m *k"]:
        """`from_points(function(to_points(u_hat)))`, of which reverse mode keeps the fields and not each factor."""
        return self.from_points(jax.checkpoint(function, prevent_cse=False)(self.to_points(u_hat)))

    @property
    def mask(self) -> np.ndarray | Bool[Array, "*k"]:
        """`(*k)`, `True` where a coefficient is kept."""
        kept = np.ones((), bool)
        for axis, (k, m) in enumerate(zip(self._integers(), self.kept, strict=True)):
            kept = kept & self._along(abs(k) <= m, axis)
        return kept

    def is_wavenumber(self, *k: int) -> np.ndarray | Bool[Array, "*k"]:
        """`(*k)`, `True` for the coefficient of one wavenumber, given in periods of the box per axis."""
        found = np.ones((), bool)
        for axis, (integers, one) in enumerate(zip(self._integers(), k, strict=True)):
            found = found & self._along(integers == one, axis)
        return found

    def derivative(self, axis: int, order: int = 1) -> Inexact[Array, "..."]:
        """The symbol `(i k)^order` of the derivative along `axis`, shaped to broadcast against `(*k)`.

        Real for even orders. For odd orders it vanishes at the Nyquist wavenumber of an even number of points, where
        the grid does not see the sine.
        """
        n, integers = self.grid.whole.shape[axis], self._integers()[axis]
        k = 2 * np.pi * integers / self.grid.whole.extent[axis]
        if order % 2 and n % 2 == 0:
            k = np.where(abs(integers) == n // 2, 0, k)
        power = (-1) ** (order // 2) * k**order
        if order % 2 == 0:
            return jnp.asarray(self._along(power, axis), self.dtype)
        return jnp.asarray(self._along(1j * power, axis), np.result_type(self.dtype, np.complex64))

    @property
    def laplacian(self) -> Float[Array, " *k"]:
        """The symbol `-|k|^2`."""
        return jnp.asarray(-self._square(), self.dtype)

    @property
    def inverse_laplacian(self) -> Float[Array, " *k"]:
        """The symbol `-1 / |k|^2`, and 0 for the mean."""
        square = self._square()
        at_mean = (square == 0).astype(square.dtype)
        return jnp.asarray(-(1 - at_mean) / (square + at_mean), self.dtype)

    def _square(self) -> np.ndarray | Array:
        total = np.zeros((), self.dtype if self._in_pieces else float)
        for axis, (k, extent) in enumerate(zip(self._integers(), self.grid.whole.extent, strict=True)):
            total = total + self._along((2 * np.pi * k / extent) ** 2, axis)
        return total

    def _along(self, values: np.ndarray, axis: int) -> np.ndarray | Array:
        """A table of one axis as it broadcasts against coefficients; in pieces on the device, as no whole `(*k)` is to
        be formed."""
        along = [-1 if j == axis else 1 for j in range(self.grid.ndim)]
        if not self._in_pieces:
            return values.reshape(along)
        kinds = {"b": bool, "f": self.dtype, "c": np.result_type(self.dtype, np.complex64)}
        table = jnp.asarray(values, kinds[values.dtype.kind])
        return own_block(table, 0, self._cuts[axis]).reshape(along)

    def _integers(self) -> list[np.ndarray]:
        """The wavenumbers of all of each axis."""
        full = [np.fft.fftfreq(n, 1 / n) for n in self.grid.whole.shape]
        if self.real:
            full[-1] = np.arange(self.grid.whole.shape[-1] // 2 + 1.0)
        return full

    @property
    def _in_pieces(self) -> bool:
        return any(self.grid.axis_names)

    @property
    def _cuts(self) -> tuple[str | None, ...]:
        """What cuts the coefficients of each axis."""
        return (None, *self.grid.axis_names[:-1])

    @property
    def _counts(self) -> tuple[int, ...]:
        """The coefficients of each whole axis."""
        return self._counts_at(self.grid.whole.shape)

    def _counts_at(self, points: tuple[int, ...]) -> tuple[int, ...]:
        return (*points[:-1], points[-1] // 2 + 1) if self.real else points

    def _to_coefficients(self, u: Array, points: tuple[int, ...]) -> Array:
        """Those of the grid, from values on so many points of the box."""
        resized = points != self.grid.whole.shape
        if self._in_pieces:
            resize = partial(_resize_axis, kept=self.kept, shape=self._counts, real=self.real) if resized else None
            return to_coefficients(u, self.grid.axis_names, real=self.real, resize=resize)
        axes = tuple(range(-self.grid.ndim, 0))
        u_hat = jnp.fft.rfftn(u, axes=axes) if self.real else jnp.fft.fftn(u, axes=axes)
        return resize_coefficients(u_hat, self.kept, self._counts, self.real) if resized else u_hat

    def _from_coefficients(self, u_hat: Array, points: tuple[int, ...]) -> Array:
        """The values on so many points of the box."""
        resized, counts = points != self.grid.whole.shape, self._counts_at(points)
        if self._in_pieces:
            resize = partial(_resize_axis, kept=self.kept, shape=counts, real=self.real) if resized else None
            names = self.grid.axis_names
            return from_coefficients(u_hat, names, self._counts, points, real=self.real, resize=resize)
        axes = tuple(range(-self.grid.ndim, 0))
        u_hat = resize_coefficients(u_hat, self.kept, counts, self.real) if resized else u_hat
        return jnp.fft.irfftn(u_hat, points, axes=axes) if self.real else jnp.fft.ifftn(u_hat, axes=axes)


def resize_coefficients(
    u_hat: Complex[Array, "c *k"], kept: tuple[int, ...], shape: tuple[int, ...], real: bool
) -> Complex[Array, "c *l"]:
    """The coefficients with `|k_j| <= kept[j]` in the layout of another number of points; the others vanish."""
    for axis in range(len(shape)):
        u_hat = _resize_axis(u_hat, axis, kept, shape, real)
    return u_hat


def _resize_axis(u_hat: Array, axis: int, kept: tuple[int, ...], shape: tuple[int, ...], real: bool) -> Array:
    m, n, at, end = kept[axis], shape[axis], axis + 1, u_hat.shape[axis + 1]
    parts = [lax.slice_in_dim(u_hat, 0, m + 1, axis=at)]
    if not real or at < len(shape):
        parts.append(lax.slice_in_dim(u_hat, end - m, end, axis=at))
    filled = sum(part.shape[at] for part in parts)
    gap = jnp.zeros((*u_hat.shape[:at], n - filled, *u_hat.shape[at + 1 :]), u_hat.dtype)
    return jnp.concatenate([parts[0], gap, *parts[1:]], at)


def _fast_length(least: int, like: int, multiple: int) -> int:
    """The least length of factors 2, 3 and 5, besides those of `multiple`, that is at least `least`, and even where
    `like` is."""
    n = least + -least % multiple
    while True:
        rest = n // multiple
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1 and (n % 2 == 0 or like % 2 == 1):
            return n
        n += multiple
