"""Convolutions with a kernel of fixed physical radius, by quadrature on the grid at hand."""

from collections.abc import Sequence
from functools import lru_cache
from math import gamma, pi, prod
from typing import get_args

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from solvers import Grid, Piece, decomposed

from .initial import uniform
from .local import Boundary, pad


class LocalIntegral(eqx.Module):
    """`v(x) = 1 / |B_r| integral over |y - x| < r of kappa(y - x) u(y) dy`, `kappa = sum_b w_b psi_b`: DISCO.

    A discrete-continuous convolution: the kernel is a continuous function on the ball `B_r` of a fixed radius, the
    integral is the quadrature of the grid. As `h` falls, `v` tends to the convolution, at **second order**: the
    kernel has kinks. The grid has to resolve the rings, `h <= r / (2 rings)`; below that `v` stays finite but is no
    longer the integral.

    The basis `psi` consists of hats in the distance times harmonics of the direction. The hats peak at `i r / rings`,
    `i < rings`, and are `r / rings` wide on either side; so `kappa` is continuous, also at `|y - x| = r`, where it is
    zero. Each has the harmonics of `degree` and below (in 1-D the sign, in 2-D `cos l phi, sin l phi`), the central one
    the constant alone. `w: (out, in, b)` is uniform on `+-1 / sqrt(in * b)`, and cast to the input's dtype.

    **Arguments:** `radius`: `r`, in the unit of the grid. `rings`: at least 1. `degree`: 0, 1 or 2 (in 1-D at most 1).
    `boundary`: one rule for all axes or one per axis (see `pad`); `"zero"` takes the integral over the part of the ball
    in the box, in second order too.

    **Call:** `u: (in, *n)` on `grid`, or a `Piece` of one, to `(out, *n)`. The table of the basis is a constant of the
    compiled function.

    **Raises:** `ValueError` for what contradicts the above, wrong channels or points, uneven spacing.

    Ocampo et al. (2022), Scalable and equivariant spherical CNNs by discrete-continuous convolutions, arXiv:2209.13603;
    in an operator: Liu-Schiaffini et al. (2024), Neural operators with localized integral and differential kernels,
    arXiv:2402.16845.
    """

    weight: Float[Array, "cout cin b"]
    boundary: tuple[Boundary, ...] = eqx.field(static=True)
    radius: float = eqx.field(static=True)
    rings: int = eqx.field(static=True)
    degree: int = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        ndim: int,
        *,
        radius: float,
        rings: int = 2,
        degree: int = 1,
        boundary: Boundary | Sequence[Boundary] = "periodic",
        key: PRNGKeyArray,
    ):
        if not 1 <= ndim <= 3:
            raise ValueError(f"`ndim` is {ndim}; expected 1, 2 or 3.")
        if radius <= 0 or rings < 1 or not 0 <= degree <= min(ndim, 2):
            raise ValueError(
                f"`radius` is {radius}, `rings` {rings}, `degree` {degree}; expected a positive radius, at least one "
                f"ring and a degree from 0 to {min(ndim, 2)}."
            )
        rules = (boundary,) * ndim if isinstance(boundary, str) else tuple(boundary)
        if len(rules) != ndim or any(rule not in get_args(Boundary) for rule in rules):
            raise ValueError(
                f"`boundary` is {boundary!r}; expected one of {get_args(Boundary)}, or one for each of {ndim} axes."
            )
        self.boundary, self.radius, self.rings, self.degree = rules, float(radius), rings, degree
        count = len(_table((1.0,) * ndim, 1.0, rings, degree))
        self.weight = uniform(key, (out_channels, in_channels, count), (in_channels * count) ** -0.5)

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
        dtype = np.promote_types(x.dtype, np.float32)  # FFTs have no lower precision
        table = _table(grid.spacing, self.radius, self.rings, self.degree)
        for axis, (rule, placement) in enumerate(zip(self.boundary, grid.placement, strict=True)):
            if rule == "zero" and placement == "nodes":  # the trapezoidal rule: half a weight on a wall
                ends = np.ones(grid.whole.shape[axis])
                ends[[0, -1]] = 0.5
                own = decomposed.own_block(jnp.asarray(ends, x.dtype), 0, grid.axis_names[axis])
                x = x * own.reshape([-1 if i == axis else 1 for i in range(x.ndim)])
        halo = [k // 2 for k in table.shape[1:]]
        wraps = [rule == "periodic" and not name for rule, name in zip(self.boundary, grid.axis_names, strict=True)]
        beyond = [0 if wrap else k for wrap, k in zip(wraps, halo, strict=True)]
        y = pad(x, beyond, self.boundary, first_axis=0, axis_names=grid.axis_names).astype(dtype)
        # Some hundred points of a kernel are dearer than the transform, in time and in time to compile.
        space, shape = tuple(range(grid.ndim)), y.shape[:-1]
        y_hat = jnp.fft.rfftn(y, axes=space)
        parts = jnp.tensordot(jnp.stack([y_hat.real, y_hat.imag]), self.weight.astype(dtype), (-1, 1))
        symbol = jnp.asarray(_symbol(table, shape), y_hat.dtype)
        v_hat = jnp.sum(lax.complex(*parts) * symbol[..., None, :], -1)
        v = jnp.fft.irfftn(v_hat, shape, axes=space).astype(x.dtype)
        return v[tuple(slice(k, k + n) for k, n in zip(beyond, grid.shape, strict=True))]


def _symbol(table: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """By what a correlation with the table multiplies the coefficients of `rfftn`, `(*k, b)`."""
    counts = (*shape[:-1], shape[-1] // 2 + 1)
    for size, n, count in zip(table.shape[1:], shape, counts, strict=True):
        phases = np.outer(np.arange(size) - size // 2, np.arange(count)) % n
        table = np.tensordot(table, np.exp(2j * np.pi / n * phases), (1, 0))
    return np.moveaxis(table, 0, -1)


@lru_cache
def _table(spacing: tuple[float, ...], radius: float, rings: int, degree: int) -> np.ndarray:
    """`psi_b(j h)` times the volume of a grid cell over that of the ball, `(b, *k)`; in float64, to be cast."""
    ndim = len(spacing)
    halo = [int(np.ceil(radius / h * (1 - 1e-12))) - 1 for h in spacing]  # kappa is zero at the radius
    axes = [h * np.arange(-k, k + 1) for h, k in zip(spacing, halo, strict=True)]
    offset = np.stack(np.meshgrid(*axes, indexing="ij"))
    distance = np.sqrt(np.sum(offset**2, axis=0))
    x, y, z = (*(offset / np.where(distance > 0, distance, 1)), 0, 0)[:3]
    linear, quadratic = {
        1: ([x], []),
        2: ([x, y], [x * x - y * y, 2 * x * y]),
        3: ([x, y, z], [x * y, y * z, z * x, (x * x - y * y) / 2, (3 * z * z - 1) / 12**0.5]),
    }[ndim]
    harmonics = [np.ones_like(distance), *(linear if degree > 0 else []), *(quadratic if degree > 1 else [])]
    hats = [np.maximum(0, 1 - np.abs(distance * rings / radius - i)) for i in range(rings)]
    basis = [hat * shape for i, hat in enumerate(hats) for shape in (harmonics if i else harmonics[:1])]
    volume = pi ** (ndim / 2) / gamma(ndim / 2 + 1) * radius**ndim
    return np.stack(basis) * (prod(spacing) / volume)
