"""Errors of periodic fields by wavenumber, as metrics and losses of one sample: see `metrics`."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from solvers import Grid, spectral


def relative_sobolev(
    prediction: Float[Array, "c *n"], target: Float[Array, "c *n"], domain: Grid, *, s: ArrayLike
) -> Float[Array, ""]:
    """`||prediction - target||_s / ||target||_s` in H^s, a mode of wavenumber `k` counting `(1 + |k|^2)^(s/2)` times.

    `s = 0` is `relative_l2`, 1 the spectral `relative_h1` (but for Nyquist modes); negative `s` forgives small scales.

    **Raises:** `ValueError` for fields that do not lie on a periodic grid.
    """
    prediction, target = _wide(prediction), _wide(target)
    return spectral.sobolev_norm(prediction - target, domain, s) / spectral.sobolev_norm(target, domain, s)


def spectral_error(
    prediction: Float[Array, "c *n"],
    target: Float[Array, "c *n"],
    domain: Grid,
    *,
    weight: Callable[[Float[Array, " q"]], Array],
) -> Float[Array, ""]:
    """`sqrt(sum_q w(k_q) E_q(prediction - target) / sum_q E_q(target))`, energies `E_q` in shells of wavenumber `k_q`.

    `w = 1` is `relative_l2`. The indicator of a band, `lambda k: k >= 32`, is the error in it; over bands that cover
    all the squares of those add up to that of `relative_l2`. Wavenumbers are angular: see
    `solvers.spectral.energy_spectrum`. The gradient at zero error is zero.

    **Raises:** `ValueError` for fields that do not lie on a periodic grid.
    """
    prediction, target = _wide(prediction), _wide(target)
    k, error = spectral.energy_spectrum(prediction - target, domain)
    _, whole = spectral.energy_spectrum(target, domain)
    square = jnp.sum(jnp.asarray(weight(k), error.dtype) * error) / jnp.sum(whole)
    return jnp.where(square == 0, 0, jnp.sqrt(jnp.where(square == 0, 1, square)))


def _wide(u: Array) -> Array:
    return u.astype(np.promote_types(u.dtype, np.float32))
