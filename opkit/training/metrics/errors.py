"""Errors of one sample's fields, integrated over their domain; as losses too.

Every metric is `metric(prediction, target, domain)` with fields `(c, *n)` on `domain`: one number a sample. Take it
over a batch with `jax.vmap` and average *after*: a mean of relative errors is not the relative error of the mean.
`domain=None` gives all points the same weight. Points that a `Points` masks do not count. Numbers are accumulated in
float32 at least. All raise `ValueError` for fields that do not lie on the domain.
"""

from typing import Literal, cast

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from solvers import Domain, Grid, Points, spectral


def relative_l2(
    prediction: Float[Array, "c *n"], target: Float[Array, "c *n"], domain: Domain | None = None
) -> Float[Array, ""]:
    """`||prediction - target|| / ||target||`, `||u||^2` the integral of `sum_c u_c^2` by the domain's quadrature.

    Its gradient at `prediction = target` is zero. Not finite where the target vanishes.
    """
    prediction, target = _fields(prediction, target, domain)
    return _root(_energy(prediction - target, domain)) / _root(_energy(target, domain))


def relative_l1(
    prediction: Float[Array, "c *n"], target: Float[Array, "c *n"], domain: Domain | None = None
) -> Float[Array, ""]:
    """`||prediction - target|| / ||target||`, `||u||` the integral of `sum_c |u_c|`.

    Not finite where the target vanishes.
    """
    prediction, target = _fields(prediction, target, domain)
    weights = point_weights(target, domain)
    return jnp.sum(weights * jnp.abs(prediction - target)) / jnp.sum(weights * jnp.abs(target))


def relative_h1(
    prediction: Float[Array, "c *n"],
    target: Float[Array, "c *n"],
    domain: Grid,
    *,
    derivative: Literal["spectral", "differences"],
) -> Float[Array, ""]:
    """`||prediction - target||_1 / ||target||_1`, `||u||_1^2` the integral of `sum_c u_c^2 + |grad u_c|^2`.

    **Arguments:** `derivative`: `"spectral"`, of the trigonometric interpolant, for periodic fields on `left` axes (the
    Nyquist mode of an even axis has no derivative: it counts as zero); or `"differences"`, of second order, central
    inside and one-sided at the ends, for the rest with constant spacing. Bind it with `functools.partial`.

    **Raises:** `ValueError` for another `derivative`, one the grid does not allow, or an axis of fewer than 3 points
    under `"differences"`.
    """
    prediction, target = _fields(prediction, target, domain)
    differentiate = {"spectral": _spectral, "differences": _differences}.get(derivative)
    if differentiate is None:
        raise ValueError(f"`derivative` is {derivative!r}; expected 'spectral' or 'differences'.")

    def norm(u):
        slopes = [differentiate(u, domain, axis) for axis in range(domain.ndim)]
        return _root(sum((_energy(slope, domain) for slope in slopes), start=_energy(u, domain)))

    return norm(prediction - target) / norm(target)


def mse(
    prediction: Float[Array, "c *n"], target: Float[Array, "c *n"], domain: Domain | None = None
) -> Float[Array, ""]:
    """The mean over channels and the domain of `(prediction - target)^2`."""
    prediction, target = _fields(prediction, target, domain)
    return _energy(prediction - target, domain) / _energy(jnp.ones_like(target), domain)


def max_error(
    prediction: Float[Array, "c *n"], target: Float[Array, "c *n"], domain: Domain | None = None
) -> Float[Array, ""]:
    """The largest `|prediction - target|` over channels and points."""
    prediction, target = _fields(prediction, target, domain)
    return jnp.max(jnp.abs(prediction - target))


def _fields(prediction: Array, target: Array, domain: Domain | None) -> tuple[Array, Array]:
    if prediction.shape != target.shape:
        raise ValueError(f"`prediction` has shape {prediction.shape}, `target` {target.shape}; expected the same.")
    if domain is not None and target.shape[1:] != domain.shape:
        raise ValueError(f"`target` has shape {target.shape}; expected (channels, *{domain.shape}) on `domain`.")
    wide = np.promote_types(target.dtype, np.float32)
    if isinstance(domain, Points) and domain.mask is not None:
        prediction, target = (jnp.where(domain.mask, u, 0) for u in (prediction, target))
    return prediction.astype(wide), target.astype(wide)


def point_weights(u: Float[Array, "c *n"], domain: Domain | None) -> Float[Array, " *n"]:
    """Quadrature weights of the points of `u`, in its dtype; zero where masked, ones without a domain."""
    if domain is None:
        return jnp.ones(u.shape[1:], u.dtype)
    if isinstance(domain, Grid):
        return domain.weights(u.dtype)
    weights = jnp.ones(domain.shape, u.dtype) if domain.weights is None else domain.weights.astype(u.dtype)
    return weights if domain.mask is None else jnp.where(domain.mask, weights, 0)


def _energy(u: Array, domain: Domain | None) -> Array:
    return jnp.sum(point_weights(u, domain) * u**2)


def _root(square: Array) -> Array:
    zero = square == 0  # where the derivative of the root is infinite
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, square)))


def _spectral(u: Array, grid: Grid, axis: int) -> Array:
    if grid.placement[axis] != "left":
        raise ValueError(
            f"`derivative` is 'spectral', but axis {axis} of `domain` is {grid.placement[axis]!r}; expected periodic"
            " fields on 'left' axes, or derivative='differences'."
        )
    return spectral.derivative(u, grid, axis)


def _differences(u: Array, grid: Grid, axis: int) -> Array:
    if grid.shape[axis] < 3:
        raise ValueError(f"`derivative` is 'differences', but axis {axis} of `domain` has fewer than 3 points.")
    v = jnp.moveaxis(u, axis - grid.ndim, 0)
    first = -3 * v[:1] + 4 * v[1:2] - v[2:3]
    last = 3 * v[-1:] - 4 * v[-2:-1] + v[-3:-2]
    slope = jnp.concatenate([first, v[2:] - v[:-2], last]) / (2 * grid.spacing[axis])
    return cast(Array, jnp.moveaxis(slope, 0, axis - grid.ndim))
