"""Steady diffusion in other coordinates: one solved problem is many.

`-div(a grad u) = f` on a box, read in coordinates `xi` with `x_i = m_i(xi_i)` along each axis, is again one: of
`u(m(xi))`, whose coefficient and right-hand side follow by the chain rule, without another solve.

Fanaskov, Yu, Rudikov and Oseledets (2023), General covariance data augmentation for neural PDE solvers,
arXiv:2301.12730.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from solvers import Grid

Interpolation = Literal["linear", "cubic", "spectral"]


class CoordinateMap(eqx.Module):
    """A monotone map of an interval onto itself, in units of its length:

        m(s) = s + sum_k c_k (sin(w_k s + p_k) - sin(p_k)),    w_k = pi k, or 2 pi k where `periodic`,

    with `p_k = 0` where not periodic: the ends stay where they are. Monotone as long as `sum_k w_k |c_k| < 1`.

    **Arguments:** `amplitudes`, `phases`: `(modes,)`.
    """

    amplitudes: Float[Array, " modes"]
    phases: Float[Array, " modes"]
    periodic: bool = eqx.field(static=True)

    def __call__(self, s: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """`m(s)`."""
        angles = s[..., None] * self._waves(s) + self.phases
        return s + jnp.sum(self.amplitudes * (jnp.sin(angles) - jnp.sin(self.phases)), -1)

    def slope(self, s: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """`m'(s)`."""
        waves = self._waves(s)
        return 1 + jnp.sum(self.amplitudes * waves * jnp.cos(s[..., None] * waves + self.phases), -1)

    def _waves(self, s: Array) -> Array:
        k = np.arange(1, len(self.amplitudes) + 1)
        return jnp.asarray(np.pi * k * (2 if self.periodic else 1), s.dtype)


def coordinate_map(
    modes: int, *, least_slope: float = 0.2, periodic: bool = False, key: PRNGKeyArray, dtype: DTypeLike | None = None
) -> CoordinateMap:
    """A random `CoordinateMap` whose slope is nowhere below `least_slope`, by `sum_k w_k |c_k| <= 1 - least_slope`.

    The sum is uniform up to that bound, its shares among the modes are those of normal numbers over `k`.

    **Raises:** `ValueError` for no modes, or a least slope that is not between 0 and 1.
    """
    if modes < 1 or not 0 < least_slope < 1:
        raise ValueError(f"`modes` is {modes}, `least_slope` {least_slope}; expected 1 or more, and between 0 and 1.")
    share, size, phase = jax.random.split(key, 3)
    dtype = jnp.result_type(float) if dtype is None else dtype
    k = jnp.arange(1, modes + 1, dtype=dtype)
    slopes = jax.random.normal(share, (modes,), dtype) / k
    slopes = slopes * ((1 - least_slope) * jax.random.uniform(size, (), dtype) / jnp.sum(jnp.abs(slopes)))
    phases = 2 * np.pi * jax.random.uniform(phase, (modes,), dtype) if periodic else jnp.zeros(modes, dtype)
    return CoordinateMap(slopes / (np.pi * k * (2 if periodic else 1)), phases, periodic)


def pull_back(
    a: Float[Array, "b *n"],
    f: Float[Array, "1 *n"],
    u: Float[Array, "c *n"],
    grid: Grid,
    maps: Sequence[CoordinateMap],
    *,
    interpolation: Interpolation = "cubic",
) -> tuple[Float[Array, "d *n"], Float[Array, "1 *n"], Float[Array, "c *n"]]:
    """`-sum_i d_i (a_i d_i u) = f` in the coordinates `xi`, `x_i = m_i(xi_i)`, on the same grid.

    With `J = prod_j m_j'`, the values of the results at `xi` are those at `m(xi)` with factors:

        a_i -> a_i J / m_i'^2,    f -> f J,    u -> u.

    In one dimension that is `a / m'` and `f m'`. In more the coefficient becomes a diagonal tensor even where it was a
    number: it is returned as `d` channels, and may be given as such, so that pull-backs compose. (A map that mixes the
    axes would give a full tensor.) Values of `u` on the boundary move along it, fluxes `a du/dn` keep their integrals.

    **Arguments:** `a`: `(1, *n)` or, a diagonal, `(d, *n)`. `f`: `(1, *n)`. `u`: `(c, *n)`, solutions. `grid`: evenly
    spaced. `maps`: one an axis; periodic ones where the axis is (placement `left`). `interpolation`: between points,
    `"linear"`, `"cubic"` (by four points, at the ends one-sided) or `"spectral"` (on `left` axes, of the trigonometric
    polynomial).

    **Raises:** `ValueError` for another number of maps or channels, a Chebyshev axis, a map that does not fit its axis,
    and spectral interpolation where the grid is not periodic.
    """
    d = grid.ndim
    if len(maps) != d or len(a) not in (1, d):
        raise ValueError(f"`maps` are {len(maps)}, the channels of `a` {len(a)}; expected {d}, and 1 or {d}.")
    if interpolation not in get_args(Interpolation):
        raise ValueError(f"`interpolation` is {interpolation!r}; expected one of {get_args(Interpolation)}.")
    fields, slopes = jnp.concatenate([a, f, u]), []
    for axis, (m, placement) in enumerate(zip(maps, grid.placement, strict=True)):
        if placement == "chebyshev" or m.periodic != (placement == "left"):
            raise ValueError(
                f"`maps` of axis {axis} is{'' if m.periodic else ' not'} periodic, its placement {placement!r}; "
                "expected a periodic map on 'left', another on 'nodes' or 'cells'."
            )
        if interpolation == "spectral" and placement != "left":
            raise ValueError(f"`interpolation` is 'spectral', and axis {axis} is of {placement!r}; it needs 'left'.")
        n = grid.shape[axis]
        s = (grid.axes(fields.dtype)[axis] - grid.lower[axis]) / grid.extent[axis]
        first, count = {"left": (0.0, n), "nodes": (0.0, n - 1), "cells": (0.5, n)}[placement]
        matrix = _interpolation(m(s) * count - first, n, interpolation, periodic=m.periodic)
        fields = jnp.moveaxis(jnp.tensordot(matrix, fields, (1, axis + 1), precision="highest"), 0, axis + 1)
        slopes.append(m.slope(s).reshape([-1 if j == axis else 1 for j in range(d)]))
    a, f, u = jnp.split(fields, [len(a), len(a) + 1])
    jacobian = jnp.prod(jnp.stack(jnp.broadcast_arrays(*slopes)), 0)
    return a * jnp.stack([jacobian / slope**2 for slope in slopes]), f * jacobian, u


def _interpolation(
    places: Float[Array, " m"], n: int, interpolation: Interpolation, *, periodic: bool
) -> Float[Array, "m n"]:
    """The weights of `n` evenly spaced values at `places`, in units of their spacing from the first."""
    dtype = places.dtype
    if interpolation == "spectral":
        offset = 2 * np.pi / n * (places[:, None] - jnp.arange(n, dtype=dtype))
        waves = jnp.asarray(np.arange(1, (n + 1) // 2), dtype)
        total = 1 + 2 * jnp.sum(jnp.cos(waves * offset[..., None]), -1)
        return (total + (jnp.cos(n / 2 * offset) if n % 2 == 0 else 0)) / n
    points = {"linear": 2, "cubic": 4}[interpolation]
    start = jnp.floor(places) - (points // 2 - 1)
    start = start if periodic else jnp.clip(start, 0, n - points)
    t = places - start
    weights = []
    for i in range(points):
        others = [j for j in range(points) if j != i]
        weights.append(jnp.prod(jnp.stack([(t - j) / (i - j) for j in others]), 0))
    indices = (start.astype(int)[:, None] + jnp.arange(points)) % n
    rows = jnp.arange(len(places))[:, None]
    return jnp.zeros((len(places), n), dtype).at[rows, indices].set(jnp.stack(weights, 1))
