"""Proper orthogonal decomposition: the best fixed basis for given outputs, as the trunk of a `DeepONet`."""

from math import prod

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from solvers import Frozen, Grid


class GridInterpolant(eqx.Module):
    """The multilinear interpolant of values on a grid, a field that is not trained: `(d,)` to `(channels,)`.

    Exact at the grid's points and second order between them; beyond the last points of an axis it extrapolates.

    **Arguments:** `values: (channels, *grid.shape)`, `grid` of any placement, at least two points an axis.
    **Raises:** `ValueError` for other shapes.
    """

    values: Frozen[Float[Array, "c *n"]]
    grid: Grid = eqx.field(static=True)

    def __init__(self, values: Float[Array, "c *n"], grid: Grid):
        if values.shape[1:] != grid.shape or min(grid.shape) < 2:
            raise ValueError(
                f"`values` has shape {values.shape}; expected (channels, {grid.shape}), two points an axis or more."
            )
        self.values, self.grid = Frozen(values), grid

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, " c"]:
        """Evaluate at one point."""
        if x.shape != (self.grid.ndim,):
            raise ValueError(f"`x` has shape {x.shape}; expected ({self.grid.ndim},), a point of the grid's box.")
        axes = self.grid.axes(x.dtype)
        lows = [jnp.clip(jnp.searchsorted(a, y, side="right") - 1, 0, a.size - 2) for a, y in zip(axes, x, strict=True)]
        values = self.values.value
        start = (jnp.zeros_like(lows[0]), *lows)
        corners = lax.dynamic_slice(values, start, (len(values), *(2,) * self.grid.ndim)).astype(x.dtype)
        for axis, low, y in zip(axes[::-1], lows[::-1], x[::-1], strict=True):
            part = (y - axis[low]) / (axis[low + 1] - axis[low])
            corners = corners[..., 0] + part * (corners[..., 1] - corners[..., 0])
        return corners


def pod(outputs: Float[Array, "samples c *n"], grid: Grid, features: int) -> tuple[GridInterpolant, GridInterpolant]:
    """The trunk of a POD-DeepONet and the mean to add: `DeepONet(branch, trunk, ..., mean=mean)`.

    The modes `phi_k` are the leading right singular vectors of the centred outputs under the quadrature of the grid:
    orthonormal, `sum_c integral phi_kc phi_lc = delta_kl`, and of all bases of `features` functions the one that
    leaves least of these outputs, in the mean square. The branch learns the `features` coefficients
    `sum_c integral (u_c - mean_c) phi_kc`, which all channels share.

    **Arguments:** `outputs`: of the training set. `features`: at most the number of samples and of values.

    **Returns:** `trunk`, of `c * features` channels, and `mean`, of `c`.

    **Raises:** `ValueError` for too many features, or another grid.
    """
    samples, channels, *shape = outputs.shape
    if tuple(shape) != grid.shape:
        raise ValueError(f"`outputs` are on {tuple(shape)} points; `grid` has {grid.shape}.")
    most = min(samples, channels * prod(shape))
    if not 1 <= features <= most:
        raise ValueError(f"`features` is {features}; expected from 1 to {most}, the lesser of samples and values.")
    mean = outputs.mean(axis=0)
    root = jnp.sqrt(grid.weights(outputs.dtype))
    modes = jnp.linalg.svd(((outputs - mean) * root).reshape(samples, -1), full_matrices=False)[2][:features]
    basis = jnp.moveaxis(modes.reshape(features, channels, *shape) / root, 0, 1)
    return GridInterpolant(basis.reshape(channels * features, *shape), grid), GridInterpolant(mean, grid)
