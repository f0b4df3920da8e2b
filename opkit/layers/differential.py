"""Convolutions whose kernel is a finite difference, and so a first derivative as the grid is refined."""

from collections.abc import Sequence
from math import prod
from typing import Literal, get_args

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from solvers import Grid, Piece

from .initial import uniform
from .local import Boundary, correlate, pad

DifferenceBoundary = Boundary | Literal["extrapolate"]


class FDConv(eqx.Module):
    """`v(x) = (l / h) sum_j W_j (u(x + j h) - u(x))`: a trained difference, which tends to `l a . grad u`.

    The kernel is `W` less its sum at the centre, over the spacing, so that constants give zero. As `h` falls, `v` tends
    at **first order** to `l a . grad u` with the first moments `a = sum_j W_j j`: a matrix of channels for each axis.
    Where axes have different spacings, `h` is their geometric mean, and the centred difference that carries the
    moment along each axis is divided by the spacing of that axis instead: the limit is the same on any grid. A second
    derivative is two layers.

    The length `l` is a spacing at which the layer is an ordinary convolution of differences: with that of a training
    grid the outputs are of the size of its inputs, where divided differences of rough fields would be `1 / l` as
    large.

    `W: (out, in, *kernel)` is uniform on `+-1 / sqrt(in * prod(kernel))`, and cast to the input's dtype. There is no
    bias.

    **Arguments:** `kernel`: points per axis, odd. `length`: `l`, in the unit of the grid. `boundary`: one rule for all
    axes or one per axis: those of `pad`, or `"extrapolate"`, `2 u(wall) - u` mirrored, the one that keeps first order
    up to a wall (the others are wrong at the points next to it).

    **Call:** `u: (in, *n)` on `grid`, or a `Piece` of one, to `(out, *n)`.

    **Raises:** `ValueError` for an even kernel, an unknown rule, wrong channels or points, uneven spacing,
    extrapolation of an axis in pieces.

    Liu-Schiaffini et al. (2024), Neural operators with localized integral and differential kernels, arXiv:2402.16845.
    """

    weight: Float[Array, "cout cin *k"]
    boundary: tuple[DifferenceBoundary, ...] = eqx.field(static=True)
    length: float = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Sequence[int],
        *,
        length: float,
        boundary: DifferenceBoundary | Sequence[DifferenceBoundary] = "periodic",
        key: PRNGKeyArray,
    ):
        if not 1 <= len(kernel) <= 3 or any(k < 1 or k % 2 == 0 for k in kernel):
            raise ValueError(
                f"`kernel` is {tuple(kernel)}; expected one to three odd sizes, one an axis, as in (3, 3)."
            )
        rules = (boundary,) * len(kernel) if isinstance(boundary, str) else tuple(boundary)
        known = (*get_args(Boundary), "extrapolate")
        if len(rules) != len(kernel) or any(rule not in known for rule in rules):
            raise ValueError(
                f"`boundary` is {boundary!r}; expected one of {known}, or one for each of {len(kernel)} axes."
            )
        if length <= 0:
            raise ValueError(f"`length` is {length}; expected a positive one, as the spacing of a training grid.")
        self.boundary, self.length = rules, float(length)
        self.weight = uniform(key, (out_channels, in_channels, *kernel), (in_channels * prod(kernel)) ** -0.5)

    def __call__(self, u: Float[Array, "cin *n"], grid: Grid | Piece) -> Float[Array, "cout *n"]:
        """Apply to one sample."""
        return jnp.moveaxis(self.channels_last(jnp.moveaxis(u, 0, -1), grid), -1, 0)

    def channels_last(self, x: Float[Array, "*n cin"], grid: Grid | Piece) -> Float[Array, "*n cout"]:
        """Apply to features with the channels last."""
        expected = (*grid.shape, self.weight.shape[1])
        if grid.ndim != len(self.boundary) or x.shape != expected:
            raise ValueError(
                f"`u` has {x.shape[-1]} channels on {x.shape[:-1]} points; expected {expected[-1]} channels, first, on "
                f"the {len(self.boundary)} axes of the grid of shape {grid.shape}. Batches come from jax.vmap."
            )
        dtype = np.promote_types(x.dtype, np.float32)  # for the kernel to sum to zero
        y, halo = x.astype(dtype), [k // 2 for k in self.weight.shape[2:]]
        for axis, (width, rule) in enumerate(zip(halo, self.boundary, strict=True)):
            name = grid.axis_names[axis]
            if rule == "extrapolate" and name is not None:
                raise ValueError(f"`boundary` of axis {axis} is 'extrapolate', and {name!r} cuts it: cut another axis.")
            if rule == "extrapolate":
                widths = [(width, width) if i == axis else (0, 0) for i in range(x.ndim)]
                y = jnp.pad(y, widths, mode="reflect", reflect_type="odd")
            else:
                y = pad(y, (width,), (rule,), first_axis=axis, axis_names=(name,))
        return correlate(y, self._kernel(grid.spacing).astype(dtype)).astype(x.dtype)

    def _kernel(self, spacing: tuple[float, ...]) -> Float[Array, "cout cin *k"]:
        sizes = self.weight.shape[2:]
        space = tuple(range(2, self.weight.ndim))
        centre = tuple(k // 2 for k in sizes)
        mean = float(np.prod(spacing)) ** (1 / len(spacing))
        kernel = self.weight.at[(..., *centre)].add(-self.weight.sum(space)) * (self.length / mean)
        for axis, (k, h) in enumerate(zip(sizes, spacing, strict=True)):
            if h != mean and k > 1:
                offsets = np.arange(k).reshape([-1 if i == axis else 1 for i in range(len(sizes))]) - k // 2
                moment = jnp.sum(self.weight * offsets.astype(self.weight.dtype), space)
                for side in (-1, 1):
                    neighbour = tuple(c + side * (i == axis) for i, c in enumerate(centre))
                    kernel = kernel.at[(..., *neighbour)].add(moment * (side / 2 * self.length * (1 / h - 1 / mean)))
        return kernel
