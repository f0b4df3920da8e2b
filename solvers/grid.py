"""Where values live: tensor-product grids and point clouds. Boundary conditions belong to problems, not to domains."""

import math
from collections.abc import Sequence
from typing import Literal, cast, get_args

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

Placement = Literal["left", "nodes", "cells", "chebyshev"]


class Grid(eqx.Module):
    """A tensor-product grid on a box; per axis a lower and an upper bound, a number of points and their placement.

    With `n` points on `[l, u]` and `i = 0..n-1` an axis holds, by placement,

    - `"left"`: `l + i (u - l) / n`: the right end excluded (the periodic convention; also of darcy16);
    - `"nodes"`: `l + i (u - l) / (n - 1)`: both ends included;
    - `"cells"`: `l + (i + 1/2) (u - l) / n`: the centres of `n` cells;
    - `"chebyshev"`: the extrema of the Chebyshev polynomial, mapped to `[l, u]`, ascending, both ends included.

    A field on the grid is an array `(channels, *grid.shape)`, axes in the order of the coordinates (`ij` indexing).
    A grid is static: it holds no arrays, hashes, compares, and may be closed over or passed through `jit`.
    To differentiate in an extent, scale the coefficients of the equation instead.

    **Arguments:** `shape`: points per axis (an `int` for one axis). `lower`, `upper`: bounds, a number for all axes
    or one per axis. `placement`: one for all axes or one per axis.

    **Raises:** `ValueError` for no axis, fewer points than the placement needs, bounds out of order or not finite,
    or lengths that differ.
    """

    shape: tuple[int, ...] = eqx.field(static=True)
    lower: tuple[float, ...] = eqx.field(static=True)
    upper: tuple[float, ...] = eqx.field(static=True)
    placement: tuple[Placement, ...] = eqx.field(static=True)

    def __init__(
        self,
        shape: int | Sequence[int],
        lower: float | Sequence[float] = 0.0,
        upper: float | Sequence[float] = 1.0,
        placement: Placement | Sequence[Placement] = "left",
    ):
        self.shape = tuple(int(n) for n in ((shape,) if isinstance(shape, int | np.integer) else shape))
        if not self.shape:
            raise ValueError("`shape` is empty; a grid needs at least one axis, as in Grid((64, 64)).")
        self.lower = _per_axis("lower", lower, self.ndim)
        self.upper = _per_axis("upper", upper, self.ndim)
        names = (placement,) * self.ndim if isinstance(placement, str) else tuple(placement)
        if len(names) != self.ndim:
            raise ValueError(f"`placement` has {len(names)} entries for {self.ndim} axes; give one, or one an axis.")
        for axis, name in enumerate(names):
            if name not in get_args(Placement):
                raise ValueError(f"`placement` of axis {axis} is {name!r}; expected one of {get_args(Placement)}.")
            least = 2 if name in ("nodes", "chebyshev") else 1
            if self.shape[axis] < least:
                raise ValueError(
                    f"`shape` gives axis {axis} {self.shape[axis]} points; placement {name!r} needs at least {least}."
                )
        self.placement = cast(tuple[Placement, ...], names)
        for axis, (low, high) in enumerate(zip(self.lower, self.upper, strict=True)):
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(f"`lower`, `upper` of axis {axis} are {low}, {high}; expected finite, lower < upper.")

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def extent(self) -> tuple[float, ...]:
        """`upper - lower` per axis."""
        return tuple(high - low for low, high in zip(self.lower, self.upper, strict=True))

    @property
    def spacing(self) -> tuple[float, ...]:
        """The distance between neighbouring points per axis; `ValueError` where it varies (Chebyshev)."""
        if "chebyshev" in self.placement:
            raise ValueError("`spacing` is not constant on a 'chebyshev' axis; use `axes()` or `weights()`.")
        intervals = (n - (name == "nodes") for n, name in zip(self.shape, self.placement, strict=True))
        return tuple(length / n for length, n in zip(self.extent, intervals, strict=True))

    @property
    def whole(self) -> "Grid":
        """Itself: see `Piece`, which is not."""
        return self

    @property
    def axis_names(self) -> tuple[None, ...]:
        """`None` for each axis: see `Piece`."""
        return (None,) * self.ndim

    def axes(self, dtype: DTypeLike | None = None) -> tuple[Float[Array, " _"], ...]:
        """The coordinates along each axis, `(n_j,)` each, in `dtype` (by default JAX's default float)."""
        return tuple(jnp.asarray(axis, dtype or jnp.result_type(float)) for axis in self._host_axes())

    def coordinates(self, dtype: DTypeLike | None = None) -> Float[Array, "d *n"]:
        """The coordinates of every point, `(d, *shape)`."""
        return jnp.stack(jnp.meshgrid(*self.axes(dtype), indexing="ij"))

    def weights(self, dtype: DTypeLike | None = None) -> Float[Array, " *n"]:
        """Quadrature weights `(*shape)` for the integral over the box: rectangle rule on `left`, trapezoidal rule on
        `nodes`, midpoint rule on `cells`, Clenshaw-Curtis on `chebyshev`."""
        total = np.ones(())
        for n, length, name in zip(self.shape, self.extent, self.placement, strict=True):
            total = np.multiply.outer(total, length * _unit_weights(n, name))
        return jnp.asarray(total, dtype or jnp.result_type(float))

    def resized(self, shape: int | Sequence[int]) -> "Grid":
        """The same box and placement with other numbers of points."""
        return Grid(shape, self.lower, self.upper, self.placement)

    def _host_axes(self) -> tuple[np.ndarray, ...]:
        axes = []
        for n, low, length, name in zip(self.shape, self.lower, self.extent, self.placement, strict=True):
            i = np.arange(n)
            unit = {
                "left": lambda i=i, n=n: i / n,
                "nodes": lambda i=i, n=n: i / (n - 1),
                "cells": lambda i=i, n=n: (i + 0.5) / n,
                "chebyshev": lambda i=i, n=n: 0.5 - 0.5 * np.cos(np.pi * i / (n - 1)),
            }[name]()
            axes.append(low + length * unit)
        return tuple(axes)


class Points(eqx.Module):
    """A cloud of `n` points in `d` dimensions, optionally with quadrature weights, a validity mask and neighbours.

    A field on it is an array `(channels, n)`.

    **Arguments:** `coordinates`: `(n, d)`. `weights`: `(n,)`, so that `sum(weights * f)` approximates the integral.
    `mask`: `(n,)`, `True` where a point is real rather than padding. `neighbours`: `(n, k)` indices into the points,
    `-1` for none.

    **Raises:** `ValueError` where a length differs from the number of points.
    """

    coordinates: Float[Array, "n d"]
    weights: Float[Array, " n"] | None = None
    mask: Bool[Array, " n"] | None = None
    neighbours: Int[Array, "n k"] | None = None

    def __check_init__(self):
        if self.coordinates.ndim != 2:
            raise ValueError(f"`coordinates` has shape {self.coordinates.shape}; expected (points, dimensions).")
        for name in ("weights", "mask", "neighbours"):
            array = getattr(self, name)
            if array is not None and array.shape[0] != self.coordinates.shape[0]:
                raise ValueError(f"`{name}` is for {array.shape[0]} points; `coordinates` has {self.shape[0]}.")

    @property
    def shape(self) -> tuple[int]:
        """`(n,)`: what a field on the points has after its channels."""
        return (self.coordinates.shape[0],)

    @property
    def ndim(self) -> int:
        """The dimension `d` of the space."""
        return self.coordinates.shape[1]


Domain = Grid | Points


def _per_axis(name: str, value: float | Sequence[float], ndim: int) -> tuple[float, ...]:
    values = (float(value),) * ndim if isinstance(value, int | float | np.number) else tuple(float(v) for v in value)
    if len(values) != ndim:
        raise ValueError(f"`{name}` has {len(values)} entries for {ndim} axes; give one number, or one an axis.")
    return values


def _unit_weights(n: int, placement: Placement) -> np.ndarray:
    if placement in ("left", "cells"):
        return np.full(n, 1 / n)
    if placement == "nodes":
        weights = np.full(n, 1 / (n - 1))
        weights[[0, -1]] /= 2
        return weights
    return _clenshaw_curtis(n)


def _clenshaw_curtis(n: int) -> np.ndarray:
    """Weights on `[0, 1]` of the interpolatory rule at the Chebyshev extrema (Clenshaw and Curtis, 1960)."""
    intervals = n - 1
    angles = np.pi * np.arange(n) / intervals
    even = np.arange(0, n, 2)
    moments = 2.0 / (1.0 - even.astype(float) ** 2)  # the integral of T_k over [-1, 1], k even
    halves = np.where((even == 0) | (even == intervals), 0.5, 1.0)
    ends = np.where((np.arange(n) == 0) | (np.arange(n) == intervals), 0.5, 1.0)
    cosines = np.cos(np.outer(angles, even))
    return ends * (cosines @ (halves * moments)) / intervals
