"""Gaussian random fields with a spectrum given over the eigenvalues of the Laplacian: initial states,
sources, coefficients.

A field is the truncated expansion `sum_k sqrt(S(lambda_k)) xi_k phi_k(x)` over the eigenfunctions of
`-Laplacian` on a box, normalised so that the mean of `phi_k^2` over the box is one, with independent standard
normal `xi_k`; so `S(lambda_k)` is the variance a mode contributes, on average over the box, whatever its
extents. The `xi` are drawn as one array for the `modes` asked for, never for the grid: the same key gives the
same function on every grid, evaluated exactly, by one small matrix an axis."""

import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from .grid import Grid

Basis = Literal["periodic", "neumann", "dirichlet"]
Spectrum = Callable[[Float[Array, " *k"]], Float[Array, " *k"]]


class PowerSpectrum(eqx.Module):
    """`S(lambda) = sigma^2 (lambda + tau^2)^-alpha`, of the covariance operator `sigma^2 (-Laplacian +
    tau^2)^-alpha`.

    The convention of the neural-operator benchmarks: darcy16 is `alpha=2, tau=3` in the `neumann` basis,
    their Burgers `alpha=2, tau=5, sigma=25` in the `periodic` one (arXiv:2010.08895). `S` weighs the
    mean-square normalised modes of this file; on a box of unit volume these are the orthonormal ones."""

    alpha: Float[Array, ""]
    tau: Float[Array, ""]
    sigma: Float[Array, ""]

    def __init__(self, alpha: ArrayLike = 2.0, tau: ArrayLike = 3.0, sigma: ArrayLike = 1.0):
        self.alpha, self.tau, self.sigma = jnp.asarray(alpha), jnp.asarray(tau), jnp.asarray(sigma)

    def __call__(self, eigenvalues: Float[Array, " *k"]) -> Float[Array, " *k"]:
        """`S` at eigenvalues `lambda >= 0`; with `tau = 0` the constant mode, whose variance would be
        infinite, gets none."""
        alpha, tau, sigma = (p.astype(eigenvalues.dtype) for p in (self.alpha, self.tau, self.sigma))
        shifted = eigenvalues + tau**2
        safe = jnp.where(shifted > 0, shifted, 1)
        return jnp.where(shifted > 0, sigma**2 * safe**-alpha, 0)


class MaternSpectrum(eqx.Module):
    """The Matern covariance of smoothness `nu`, correlation `length` and variance `sigma^2`, on a box of
    `volume`, in `d` dimensions.

    `S(lambda) = sigma^2 / volume * (4 pi)^(d/2) Gamma(nu + d/2) / Gamma(nu) * kappa^(2 nu) (kappa^2 +
    lambda)^-(nu + d/2)` with `kappa = sqrt(2 nu) / length` (Lindgren, Rue and Lindstroem, 2011,
    doi:10.1111/j.1467-9868.2011.00777.x): the stationary field's spectral density, so that its variance is
    `sigma^2` where `length` is small against the box and the modes resolve it.

    **Raises:** `ValueError` where `ndim` or `volume` is not positive.
    """

    nu: Float[Array, ""]
    length: Float[Array, ""]
    sigma: Float[Array, ""]
    ndim: int = eqx.field(static=True)
    volume: float = eqx.field(static=True)

    def __init__(self, nu: ArrayLike, length: ArrayLike, sigma: ArrayLike = 1.0, *, ndim: int, volume: float = 1.0):
        if ndim < 1 or volume <= 0:
            raise ValueError(f"`ndim` is {ndim} and `volume` {volume}; expected both positive.")
        self.nu, self.length, self.sigma = jnp.asarray(nu), jnp.asarray(length), jnp.asarray(sigma)
        self.ndim, self.volume = ndim, float(volume)

    def __call__(self, eigenvalues: Float[Array, " *k"]) -> Float[Array, " *k"]:
        """`S` at eigenvalues `lambda >= 0`."""
        nu, length, sigma = (p.astype(eigenvalues.dtype) for p in (self.nu, self.length, self.sigma))
        half = self.ndim / 2
        kappa = jnp.sqrt(2 * nu) / length
        log_gammas = jax.scipy.special.gammaln(nu + half) - jax.scipy.special.gammaln(nu)
        constant = sigma**2 / self.volume * (4 * math.pi) ** half * jnp.exp(log_gammas)
        # kappa^-d in front keeps the powers near one: kappa^(2 nu) alone overflows float32 soon.
        return constant * kappa ** (-2 * half) * (1 + eigenvalues / kappa**2) ** -(nu + half)


class WhiteSpectrum(eqx.Module):
    """`S = sigma^2`: white noise, truncated at the modes drawn."""

    sigma: Float[Array, ""]

    def __init__(self, sigma: ArrayLike = 1.0):
        self.sigma = jnp.asarray(sigma)

    def __call__(self, eigenvalues: Float[Array, " *k"]) -> Float[Array, " *k"]:
        """The same at every eigenvalue."""
        return jnp.full_like(eigenvalues, 1) * self.sigma.astype(eigenvalues.dtype) ** 2


def gaussian_random_field(
    grid: Grid,
    spectrum: Spectrum,
    *,
    basis: Basis,
    modes: int | Sequence[int],
    key: PRNGKeyArray,
    zero_mean: bool = False,
    dtype: DTypeLike | None = None,
) -> Float[Array, " *n"]:
    """Draw one field.

    With `s = (x - lower) / extent` along an axis of extent `L`, the `modes` functions an axis are, by
    `basis`,

    - `"periodic"`: `1, sqrt 2 cos 2 pi s, sqrt 2 sin 2 pi s, sqrt 2 cos 4 pi s, ...`, eigenvalues `(2 pi q /
      L)^2`; an odd number of modes keeps the field stationary;
    - `"neumann"`: `1, sqrt 2 cos pi s, sqrt 2 cos 2 pi s, ...`, eigenvalues `(pi q / L)^2`, from `q = 0`;
    - `"dirichlet"`: `sqrt 2 sin pi s, sqrt 2 sin 2 pi s, ...`, eigenvalues `(pi q / L)^2`, from `q = 1`.

    In several dimensions functions multiply and eigenvalues add. Frequencies above what a grid can show alias
    on it, as they do for any function sampled there.

    **Arguments:** `grid`: any placement. `spectrum`: eigenvalues to variances, `S`. `modes`: per axis, or one
    number for all; cost and memory are `prod(modes)` and small matrix products. `key`: the field is a
    function of it, `modes`, `basis` and `dtype`, not of the grid. `zero_mean`: leave out the constant mode
    (the `dirichlet` basis has none). `dtype`: by default JAX's default float.

    **Returns:** `(*n,)`, without a channel axis.

    **Raises:** `ValueError` for an unknown basis, fewer than one mode, another number of `modes` than axes,
    or `zero_mean` with the `dirichlet` basis."""
    counts = (modes,) * grid.ndim if isinstance(modes, int) else tuple(modes)
    if len(counts) != grid.ndim or min(counts) < 1:
        raise ValueError(f"`modes` is {modes} for {grid.ndim} axes; give a positive number, or one an axis.")
    dtype = jnp.result_type(float) if dtype is None else jnp.dtype(dtype)
    return karhunen_loeve(jax.random.normal(key, counts, dtype), grid, spectrum, basis=basis, zero_mean=zero_mean)


def karhunen_loeve(
    xi: Float[Array, " *k"], grid: Grid, spectrum: Spectrum, *, basis: Basis, zero_mean: bool = False
) -> Float[Array, " *n"]:
    """The field `sum_k sqrt(S(lambda_k)) xi_k phi_k` of given `xi`, one an eigenfunction.

    Linear in `xi`, and for standard normal ones what `gaussian_random_field` draws: so `xi` are the coordinates in
    which such a field, as a prior, is white.

    **Arguments:** `xi`: `(*modes,)`, with one axis for each of the grid's. The others as for `gaussian_random_field`.

    **Returns:** `(*n,)`, of the dtype of `xi`.

    **Raises:** `ValueError` for an unknown basis, another number of axes, or `zero_mean` with the `dirichlet` basis.
    """
    if basis not in get_args(Basis):
        raise ValueError(f"`basis` is {basis!r}; expected one of {get_args(Basis)}.")
    if xi.ndim != grid.ndim:
        raise ValueError(f"`xi` has shape {xi.shape}; expected one axis of modes for each of the {grid.ndim} axes.")
    if zero_mean and basis == "dirichlet":
        raise ValueError("`zero_mean` has no meaning in the 'dirichlet' basis, which has no constant; leave it out.")
    axes = zip(grid._host_axes(), grid.lower, grid.extent, xi.shape, strict=True)
    tables = [_axis(x, lower, extent, count, basis) for x, lower, extent, count in axes]
    eigenvalues = sum(np.ix_(*(eigenvalue for _, eigenvalue in tables)))
    variance = spectrum(jnp.asarray(eigenvalues, xi.dtype))
    deviation = jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1)), 0)  # no infinite slope at zero
    field = deviation * xi
    if zero_mean:
        field = field.at[(0,) * grid.ndim].set(0)
    for values, _ in tables:
        # Each axis comes to the front, is evaluated, and goes to the back: after all of them they are in order again.
        field = jnp.tensordot(field, jnp.asarray(values, xi.dtype), axes=(0, 1), precision="highest")
    return field


def _axis(x: np.ndarray, lower: float, extent: float, count: int, basis: Basis) -> tuple[np.ndarray, np.ndarray]:
    """The functions `(n, count)` along an axis and their eigenvalues `(count,)`."""
    k = np.arange(count)
    s = (x[:, None] - lower) / extent
    if basis == "dirichlet":
        return math.sqrt(2) * np.sin(np.pi * (k + 1) * s), (np.pi * (k + 1) / extent) ** 2
    scale = np.where(k == 0, 1, math.sqrt(2))
    if basis == "neumann":
        return scale * np.cos(np.pi * k * s), (np.pi * k / extent) ** 2
    q = (k + 1) // 2
    angle = 2 * np.pi * q * s
    return scale * np.where(k % 2 == 1, np.cos(angle), np.sin(angle) + (k == 0)), (2 * np.pi * q / extent) ** 2
