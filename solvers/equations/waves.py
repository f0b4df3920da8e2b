"""Equations of second order in time: the wave equation, Klein-Gordon, phi^4, sine-Gordon."""

import abc
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, Inexact

from ..fourier import Fourier
from ..grid import Grid
from .coefficients import as_array, check
from .equation import Equation


class SecondOrder(Equation):
    """`u_tt = c^2 Lap u - V'(u)` as a system of first order: states are `(u, v)`, `v = u_t`.

    As a Hamiltonian system its energy is the integral of `v^2 / 2 + c^2 |grad u|^2 / 2 + V(u)`: separable, so that
    symplectic integrators use only the `acceleration`.
    """

    speed: eqx.AbstractVar[Float[Array, ""]]

    @abc.abstractmethod
    def potential(self, u: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """`V(u)`, of every value."""

    @abc.abstractmethod
    def acceleration(
        self, space: Fourier, u_hat: Complex[Array, "1 *k"], t: Float[Array, ""]
    ) -> Complex[Array, "1 *k"]:
        """The coefficients of `u_tt`, from those of `u`; those that `space` does not keep are to be ignored."""

    def channels(self, ndim: int) -> int:
        """2: `u` and `v`."""
        return 2

    def energy(self, grid: Grid, state: Float[Array, "2 *n"]) -> Float[Array, ""]:
        """The energy of a state on the points of `grid`."""
        space = Fourier(grid, dtype=state.dtype)
        u, v = state[:1], state[1:]
        c, u_hat = self.speed.astype(state.dtype), space.forward(u)
        slopes = space.inverse(jnp.concatenate([space.derivative(j) * u_hat for j in range(grid.ndim)]))
        density = (v**2 + c**2 * jnp.sum(slopes**2, 0, keepdims=True)) / 2 + self.potential(u)
        return jnp.sum(density[0] * grid.weights(state.dtype))


class Wave(SecondOrder):
    """`u_tt = c^2 Lap u`; states are `(u, u_t)`.

    **Arguments:** `speed`: `c`.
    """

    speed: Float[Array, ""] = eqx.field(converter=as_array, default=1.0)
    degree: ClassVar[int | None] = 1

    def __check_init__(self):
        check(self, "speed")

    def linear(self, space: Fourier) -> Inexact[Array, "..."]:
        """`((0, 1), (-c^2 |k|^2, 0))`."""
        return _matrix(self.speed.astype(space.dtype) ** 2 * space.laplacian)

    def nonlinear(self, space: Fourier, u_hat: Complex[Array, "c *k"], t: Float[Array, ""]) -> None:
        """Nothing."""

    def potential(self, u: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """0."""
        return jnp.zeros_like(u)

    def acceleration(
        self, space: Fourier, u_hat: Complex[Array, "1 *k"], t: Float[Array, ""]
    ) -> Complex[Array, "1 *k"]:
        """`c^2 Lap u`."""
        return self.speed.astype(space.dtype) ** 2 * space.laplacian * u_hat


class KleinGordon(SecondOrder):
    """`u_tt = c^2 Lap u - m^2 u`; states are `(u, u_t)`. Waves have the frequency `sqrt(c^2 |k|^2 + m^2)`.

    **Arguments:** `speed`: `c`. `mass`: `m`.
    """

    speed: Float[Array, ""] = eqx.field(converter=as_array, default=1.0)
    mass: Float[Array, ""] = eqx.field(converter=as_array, default=1.0)
    degree: ClassVar[int | None] = 1

    def __check_init__(self):
        check(self, "speed", "mass")

    def linear(self, space: Fourier) -> Inexact[Array, "..."]:
        """`((0, 1), (-c^2 |k|^2 - m^2, 0))`."""
        c, m = self.speed.astype(space.dtype), self.mass.astype(space.dtype)
        return _matrix(c**2 * space.laplacian - m**2)

    def nonlinear(self, space: Fourier, u_hat: Complex[Array, "c *k"], t: Float[Array, ""]) -> None:
        """Nothing."""

    def potential(self, u: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """`m^2 u^2 / 2`."""
        return self.mass.astype(u.dtype) ** 2 * u**2 / 2

    def acceleration(
        self, space: Fourier, u_hat: Complex[Array, "1 *k"], t: Float[Array, ""]
    ) -> Complex[Array, "1 *k"]:
        """`c^2 Lap u - m^2 u`."""
        c, m = self.speed.astype(space.dtype), self.mass.astype(space.dtype)
        return (c**2 * space.laplacian - m**2) * u_hat


class PhiFour(SecondOrder):
    """`u_tt = c^2 Lap u + a u - b u^3`; states are `(u, u_t)`.

    With the defaults a double well: vacua -1 and 1, and kinks `tanh((x - w t) / sqrt(2 (1 - w^2)))`. With `a < 0` the
    Klein-Gordon equation of mass `sqrt(-a)`, cubic.

    **Arguments:** `speed`: `c`. `linear_rate`: `a`. `cubic_rate`: `b`.
    """

    speed: Float[Array, ""] = eqx.field(converter=as_array, default=1.0)
    linear_rate: Float[Array, ""] = eqx.field(converter=as_array, default=1.0)
    cubic_rate: Float[Array, ""] = eqx.field(converter=as_array, default=1.0)
    degree: ClassVar[int | None] = 3

    def __check_init__(self):
        check(self, "speed", "linear_rate", "cubic_rate")

    def linear(self, space: Fourier) -> Inexact[Array, "..."]:
        """`((0, 1), (-c^2 |k|^2 + a, 0))`."""
        return _matrix(self._acceleration_symbol(space))

    def nonlinear(self, space: Fourier, u_hat: Complex[Array, "c *k"], t: Float[Array, ""]) -> Complex[Array, "c *k"]:
        """`(0, -b u^3)`."""
        return jnp.concatenate([jnp.zeros_like(u_hat[:1]), self._cubic(space, u_hat[:1])])

    def potential(self, u: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """`-a u^2 / 2 + b u^4 / 4`."""
        a, b = self.linear_rate.astype(u.dtype), self.cubic_rate.astype(u.dtype)
        return -a * u**2 / 2 + b * u**4 / 4

    def acceleration(
        self, space: Fourier, u_hat: Complex[Array, "1 *k"], t: Float[Array, ""]
    ) -> Complex[Array, "1 *k"]:
        """`c^2 Lap u + a u - b u^3`."""
        return self._acceleration_symbol(space) * u_hat + self._cubic(space, u_hat)

    def _acceleration_symbol(self, space: Fourier) -> Float[Array, "*k"]:
        c, a = self.speed.astype(space.dtype), self.linear_rate.astype(space.dtype)
        return c**2 * space.laplacian + a

    def _cubic(self, space: Fourier, u_hat: Complex[Array, "1 *k"]) -> Complex[Array, "1 *k"]:
        u = space.to_points(u_hat)
        return -self.cubic_rate.astype(space.dtype) * space.from_points(u * u * u)


class SineGordon(SecondOrder):
    """`u_tt = c^2 Lap u - m^2 sin u`; states are `(u, u_t)`. Not a polynomial: it aliases, less than any power of the
    resolution where `u` is smooth.

    With the defaults the breather of frequency `w < 1` at rest is
    `4 arctan(sqrt(1 - w^2) / w sin(w t) sech(sqrt(1 - w^2) x))`.

    **Arguments:** `speed`: `c`. `mass`: `m`.
    """

    speed: Float[Array, ""] = eqx.field(converter=as_array, default=1.0)
    mass: Float[Array, ""] = eqx.field(converter=as_array, default=1.0)
    degree: ClassVar[int | None] = None

    def __check_init__(self):
        check(self, "speed", "mass")

    def linear(self, space: Fourier) -> Inexact[Array, "..."]:
        """`((0, 1), (-c^2 |k|^2, 0))`."""
        return _matrix(self.speed.astype(space.dtype) ** 2 * space.laplacian)

    def nonlinear(self, space: Fourier, u_hat: Complex[Array, "c *k"], t: Float[Array, ""]) -> Complex[Array, "c *k"]:
        """`(0, -m^2 sin u)`."""
        return jnp.concatenate([jnp.zeros_like(u_hat[:1]), self._sine(space, u_hat[:1])])

    def potential(self, u: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """`m^2 (1 - cos u)`."""
        return self.mass.astype(u.dtype) ** 2 * (1 - jnp.cos(u))

    def acceleration(
        self, space: Fourier, u_hat: Complex[Array, "1 *k"], t: Float[Array, ""]
    ) -> Complex[Array, "1 *k"]:
        """`c^2 Lap u - m^2 sin u`."""
        return self.speed.astype(space.dtype) ** 2 * space.laplacian * u_hat + self._sine(space, u_hat)

    def _sine(self, space: Fourier, u_hat: Complex[Array, "1 *k"]) -> Complex[Array, "1 *k"]:
        return -(self.mass.astype(space.dtype) ** 2) * space.from_points(jnp.sin(space.to_points(u_hat)))


def _matrix(stiffness: Float[Array, "*k"]) -> Float[Array, "2 2 *k"]:
    zero, one = jnp.zeros_like(stiffness), jnp.ones_like(stiffness)
    return jnp.stack([jnp.stack([zero, one]), jnp.stack([stiffness, zero])])
