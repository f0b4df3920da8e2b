"""Equations of a complex amplitude: nonlinear Schroedinger, complex Ginzburg-Landau."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Complex, Float, Inexact

from ..fourier import Fourier
from .coefficients import as_array, as_array_or_none, check, check_field, on_points
from .equation import Equation


class NonlinearSchroedinger(Equation):
    """`i psi_t + d Lap psi + g |psi|^2 psi - V(x) psi = 0`; states are two channels, the real and the imaginary part.

    Focusing for `g d > 0`. With the defaults, `d = 1 / 2` and `g = 1`, the soliton of amplitude `A` and speed `c` is
    `A sech(A (x - c t)) exp(i (c x + (A^2 - c^2) t / 2))`. The mass, the mean of `|psi|^2`, is conserved.

    **Arguments:** `dispersion`: `d`. `nonlinearity`: `g`. `potential`: `V`, `(*n)` on the grid, or `None` for zero
    (with one, the Gross-Pitaevskii equation).

    Zakharov and Shabat (1972).
    """

    dispersion: Float[Array, ""] = eqx.field(converter=as_array, default=0.5)
    nonlinearity: Float[Array, ""] = eqx.field(converter=as_array, default=1.0)
    potential: Float[Array, "*n"] | None = eqx.field(converter=as_array_or_none, default=None)
    degree: ClassVar[int | None] = 3
    real: ClassVar[bool] = False

    def __check_init__(self):
        check(self, "dispersion", "nonlinearity")

    def channels(self, ndim: int) -> int:
        """1, complex."""
        return 1

    def linear(self, space: Fourier) -> Inexact[Array, "..."]:
        """`-i d |k|^2`."""
        symbol = self.dispersion.astype(space.dtype) * space.laplacian
        return lax.complex(jnp.zeros_like(symbol), symbol)

    def nonlinear(self, space: Fourier, u_hat: Complex[Array, "c *k"], t: Float[Array, ""]) -> Complex[Array, "c *k"]:
        """`i (g |psi|^2 - V) psi`."""
        psi = space.to_points(u_hat)
        rate = self.nonlinearity.astype(space.dtype) * (psi.real**2 + psi.imag**2)
        if self.potential is not None:
            check_field("potential", self.potential, space.grid.shape)
            rate = rate - on_points(space, self.potential[None])
        return space.from_points(lax.complex(-rate * psi.imag, rate * psi.real))


class ComplexGinzburgLandau(Equation):
    """`A_t = r A + (1 + i alpha) Lap A - (1 + i beta) |A|^2 A`; states are two channels, the real and imaginary part.

    Plane waves lose stability at `1 + alpha beta < 0` (Benjamin-Feir-Newell).

    **Arguments:** `growth`: `r`. `alpha`: linear dispersion. `beta`: nonlinear dispersion.

    Aranson and Kramer (2002), The world of the complex Ginzburg-Landau equation, arXiv:cond-mat/0106115, eq. 1.
    """

    growth: Float[Array, ""] = eqx.field(converter=as_array, default=1.0)
    alpha: Float[Array, ""] = eqx.field(converter=as_array, default=0.0)
    beta: Float[Array, ""] = eqx.field(converter=as_array, default=0.0)
    degree: ClassVar[int | None] = 3
    real: ClassVar[bool] = False

    def __check_init__(self):
        check(self, "growth", "alpha", "beta")

    def channels(self, ndim: int) -> int:
        """1, complex."""
        return 1

    def linear(self, space: Fourier) -> Inexact[Array, "..."]:
        """`r - (1 + i alpha) |k|^2`."""
        r, alpha = self.growth.astype(space.dtype), self.alpha.astype(space.dtype)
        return lax.complex(r + space.laplacian, alpha * space.laplacian)

    def nonlinear(self, space: Fourier, u_hat: Complex[Array, "c *k"], t: Float[Array, ""]) -> Complex[Array, "c *k"]:
        """`-(1 + i beta) |A|^2 A`."""
        beta = self.beta.astype(space.dtype)
        A = space.to_points(u_hat)
        square = A.real**2 + A.imag**2
        return space.from_points(-square * lax.complex(A.real - beta * A.imag, A.imag + beta * A.real))
