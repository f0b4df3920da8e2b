"""The Kuramoto-Sivashinsky equation for a slope and for a front."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, Inexact

from ..fourier import Fourier
from .coefficients import as_array, check, check_dimension
from .equation import Equation


class KuramotoSivashinsky(Equation):
    """`u_t + a u u_x + b u_xx + c u_xxxx = 0` in one dimension; the mean is conserved.

    With the coefficients 1 chaotic from a period of about 17 or 18 on: at 22 the largest Lyapunov exponent is 0.048.
    It is the slope of the front of `KuramotoSivashinskyFront`.

    **Arguments:** `convection`: `a`. `growth`: `b`. `damping`: `c`, not negative.

    Kuramoto (1978), Diffusion-induced chaos in reaction systems. Cvitanovic, Davidchack and Siminos (2010), On the
    state space geometry of the Kuramoto-Sivashinsky flow in a periodic domain, arXiv:0709.2944.
    """

    convection: Float[Array, ""] = eqx.field(converter=as_array, default=1.0)
    growth: Float[Array, ""] = eqx.field(converter=as_array, default=1.0)
    damping: Float[Array, ""] = eqx.field(converter=as_array, default=1.0)
    degree: ClassVar[int | None] = 2

    def __check_init__(self):
        check(self, "convection", "growth", "damping", nonnegative=("damping",))

    def channels(self, ndim: int) -> int:
        """1."""
        check_dimension(self, ndim, 1)
        return 1

    def linear(self, space: Fourier) -> Inexact[Array, "..."]:
        """`b k^2 - c k^4`."""
        b, c = self.growth.astype(space.dtype), self.damping.astype(space.dtype)
        return -b * space.derivative(0, 2) - c * space.derivative(0, 4)

    def nonlinear(self, space: Fourier, u_hat: Complex[Array, "c *k"], t: Float[Array, ""]) -> Complex[Array, "c *k"]:
        """`-a (u^2 / 2)_x`."""
        u = space.to_points(u_hat)
        return -0.5 * self.convection.astype(space.dtype) * space.derivative(0) * space.from_points(u * u)


class KuramotoSivashinskyFront(Equation):
    """`u_t + a |grad u|^2 / 2 + b Lap u + c Lap^2 u = 0`, the form of combustion: the height of a flame front.

    The mean drifts, by `-a / 2` times the mean of `|grad u|^2`.

    **Arguments:** `steepening`: `a`. `growth`: `b`. `damping`: `c`, not negative.

    Sivashinsky (1977), Nonlinear analysis of hydrodynamic instability in laminar flames.
    """

    steepening: Float[Array, ""] = eqx.field(converter=as_array, default=1.0)
    growth: Float[Array, ""] = eqx.field(converter=as_array, default=1.0)
    damping: Float[Array, ""] = eqx.field(converter=as_array, default=1.0)
    degree: ClassVar[int | None] = 2

    def __check_init__(self):
        check(self, "steepening", "growth", "damping", nonnegative=("damping",))

    def channels(self, ndim: int) -> int:
        """1."""
        return 1

    def linear(self, space: Fourier) -> Inexact[Array, "..."]:
        """`b |k|^2 - c |k|^4`."""
        b, c = self.growth.astype(space.dtype), self.damping.astype(space.dtype)
        return -b * space.laplacian - c * space.laplacian**2

    def nonlinear(self, space: Fourier, u_hat: Complex[Array, "c *k"], t: Float[Array, ""]) -> Complex[Array, "c *k"]:
        """`-a |grad u|^2 / 2`."""
        slopes = space.to_points(jnp.concatenate([space.derivative(j) * u_hat for j in range(space.grid.ndim)]))
        square = space.from_points(jnp.sum(slopes * slopes, 0, keepdims=True))
        return -0.5 * self.steepening.astype(space.dtype) * square
