"""Equations driven by noise, `du = (L u + N(t, u)) dt + dW`: `W` white in time and of a given spectrum in space."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Complex, Float, PRNGKeyArray

from .exponential import ETDRK, phi
from .fourier import Fourier, resize_coefficients
from .frozen import Frozen, frozen_unless_traced
from .random_fields import Spectrum


class Stochastic(eqx.Module):
    """A step of `ETDRK`, and the noise of the step, exact for the linear part.

    `W = sum_k sqrt(S(|k|^2)) beta_k(t) e^{i k x}` with Brownian motions `beta_k`, complex and independent but for
    `beta_{-k} = conj(beta_k)` where the field is real, and `E |beta_k(t)|^2 = t`: `S` is the variance that a wavenumber
    gets in a unit of time, the convention of `gaussian_random_field`, with which it shares the spectra. In a step a
    coefficient (over the number of points) gets a normal number of the variance of the Ornstein-Uhlenbeck process,

        integral_0^dt e^{2 s Re L(k)} S ds = S (e^{2 dt Re L(k)} - 1) / (2 Re L(k)).

    So a linear equation has the right law at every step, of any size: for `Re L < 0` it settles at `-S / (2 Re L)`.
    With `N` the order in `dt` is one, whatever that of the stepper; its order still counts where noise is weak.

    Noise is drawn for `modes` wavenumbers, an odd number for each axis, as white noise on a grid of so many points; so
    the same key gives the same function on every grid, as far as the grid keeps its wavenumbers. Components are
    independent and have the same spectrum, or `spectrum` gives `(channels, *k)`.

    **Arguments:** `stepper`: an `ETDRK` of an equation whose components `L` does not couple. `spectrum`: `S`, from
    `|k|^2: (*k)`, not negative. `modes`: for each axis, or a number for all; by default all that the stepper keeps, and
    then the noise is another one on every grid. Gradients in the spectrum: build it where it is differentiated.

    **Call:** `step(u, key=key)`, `step.advance(v, t, key=key)`. A fresh key each step: `rollout(...)(u, key=key)` folds
    in the number of the step.

    **Raises:** `ValueError` for an `L` that couples components, even or too few `modes`, a negative spectrum.

    Lord, Powell and Shardlow (2014), An Introduction to Computational Stochastic PDEs, doi:10.1017/CBO9781139017329,
    chapter 10.
    """

    stepper: ETDRK
    deviation: Frozen
    modes: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, stepper: ETDRK, spectrum: Spectrum, *, modes: int | Sequence[int] | None = None):
        space, ndim = stepper.space, stepper.space.grid.ndim
        counts = (modes,) * ndim if isinstance(modes, int) else modes
        counts = tuple(2 * m + 1 for m in _wavenumbers(space)) if counts is None else tuple(counts)
        if len(counts) != ndim or any(count < 1 or count % 2 == 0 for count in counts):
            raise ValueError(f"`modes` is {modes} for {ndim} axes; give positive odd numbers.")
        symbol, dt = stepper.equation.linear(space), stepper.dt
        if any(space.grid.axis_names):
            raise ValueError("`stepper` is on a Piece; noise is drawn for a whole grid: build it on a Grid.")
        if symbol.ndim == ndim + 2:
            raise ValueError(
                f"`stepper` is of {type(stepper.equation).__name__}, whose L couples its components; noise is "
                "implemented for uncoupled ones."
            )
        variance = spectrum(-space.laplacian)
        if not isinstance(variance, Tracer) and not bool((variance >= 0).all()):
            raise ValueError("`spectrum` is negative or NaN at some wavenumber; variances are at least 0.")
        variance = variance * dt * phi(2 * dt * symbol.real, 1)[1]
        deviation = jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1)), 0)  # no infinite slope at 0
        self.stepper, self.modes, self.deviation = stepper, counts, frozen_unless_traced(deviation)

    @property
    def dt(self) -> Float[Array, ""]:
        """The step."""
        return self.stepper.dt

    def __call__(self, u: Float[Array, "c *n"], *, key: PRNGKeyArray) -> Float[Array, "c *n"]:
        """The state one step later; time-dependent equations at time 0."""
        return self.decode(self.advance(self.encode(u), key=key))

    def encode(self, u: Float[Array, "c *n"]) -> Complex[Array, "m *k"]:
        """The coefficients of a state."""
        return self.stepper.encode(u)

    def decode(self, u_hat: Complex[Array, "m *k"]) -> Float[Array, "c *n"]:
        """The state of the coefficients."""
        return self.stepper.decode(u_hat)

    def advance(
        self, u_hat: Complex[Array, "m *k"], t: float | Float[Array, ""] = 0.0, *, key: PRNGKeyArray
    ) -> Complex[Array, "m *k"]:
        """The coefficients at `t + dt`, from those at `t`."""
        return self.stepper.advance(u_hat, t) + self.noise(u_hat, key=key)

    def noise(self, like: Complex[Array, "m *k"], *, key: PRNGKeyArray) -> Complex[Array, "m *k"]:
        """The coefficients of the noise of one step, for a state of coefficients `like`."""
        space = self.stepper.space.cast(like.dtype)
        axes, points, draws = tuple(range(-space.grid.ndim, 0)), np.prod(space.grid.shape), np.prod(self.modes)
        shape = (len(like), *self.modes)
        if space.real:
            white = jnp.fft.rfftn(jax.random.normal(key, shape, space.dtype), axes=axes)
        else:
            white = jax.random.normal(key, (2, *shape), space.dtype) * space.dtype.type(np.sqrt(0.5))
            white = jnp.fft.fftn(jax.lax.complex(white[0], white[1]), axes=axes)
        kept = tuple(min(count // 2, m) for count, m in zip(self.modes, _wavenumbers(space), strict=True))
        white = resize_coefficients(white, kept, space.shape, space.real)
        return white * self.deviation.value.astype(space.dtype) * space.dtype.type(points / np.sqrt(draws))


def _wavenumbers(space: Fourier) -> tuple[int, ...]:
    """The highest wavenumber of each axis that is kept with both its signs."""
    return tuple(min(m, (n - 1) // 2) for m, n in zip(space.kept, space.grid.shape, strict=True))
