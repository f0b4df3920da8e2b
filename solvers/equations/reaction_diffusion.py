"""Reaction and diffusion of one component: Fisher-KPP, Allen-Cahn, Cahn-Hilliard, Swift-Hohenberg."""

from typing import ClassVar

import equinox as eqx
from jaxtyping import Array, Complex, Float, Inexact

from ..fourier import Fourier
from .coefficients import as_array, check
from .equation import Equation


class FisherKPP(Equation):
    """`u_t = D Lap u + r u (1 - u)`: fronts of speed `2 sqrt(r D)` from 0 to 1.

    **Arguments:** `diffusivity`: `D`, not negative. `growth`: `r`.

    Fisher (1937), The wave of advance of advantageous genes; Kolmogorov, Petrovsky and Piskunov (1937).
    """

    diffusivity: Float[Array, ""] = eqx.field(converter=as_array)
    growth: Float[Array, ""] = eqx.field(converter=as_array, default=1.0)
    degree: ClassVar[int | None] = 2

    def __check_init__(self):
        check(self, "diffusivity", "growth", nonnegative=("diffusivity",))

    def channels(self, ndim: int) -> int:
        """1."""
        return 1

    def linear(self, space: Fourier) -> Inexact[Array, "..."]:
        """`-D |k|^2 + r`."""
        return self.diffusivity.astype(space.dtype) * space.laplacian + self.growth.astype(space.dtype)

    def nonlinear(self, space: Fourier, u_hat: Complex[Array, "c *k"], t: Float[Array, ""]) -> Complex[Array, "c *k"]:
        """`-r u^2`."""
        u = space.to_points(u_hat)
        return -self.growth.astype(space.dtype) * space.from_points(u * u)


class AllenCahn(Equation):
    """`u_t = D Lap u + a u - b u^3`: with `a = b` phases -1 and 1, and walls `tanh(x sqrt(a / (2 D)))`.

    **Arguments:** `diffusivity`: `D`, not negative. `linear_rate`: `a`. `cubic_rate`: `b`, not negative, lest the
    solution blow up.

    Allen and Cahn (1979), A microscopic theory for antiphase boundary motion.
    """

    diffusivity: Float[Array, ""] = eqx.field(converter=as_array)
    linear_rate: Float[Array, ""] = eqx.field(converter=as_array, default=1.0)
    cubic_rate: Float[Array, ""] = eqx.field(converter=as_array, default=1.0)
    degree: ClassVar[int | None] = 3

    def __check_init__(self):
        names = ("diffusivity", "linear_rate", "cubic_rate")
        check(self, *names, nonnegative=("diffusivity", "cubic_rate"))

    def channels(self, ndim: int) -> int:
        """1."""
        return 1

    def linear(self, space: Fourier) -> Inexact[Array, "..."]:
        """`-D |k|^2 + a`."""
        return self.diffusivity.astype(space.dtype) * space.laplacian + self.linear_rate.astype(space.dtype)

    def nonlinear(self, space: Fourier, u_hat: Complex[Array, "c *k"], t: Float[Array, ""]) -> Complex[Array, "c *k"]:
        """`-b u^3`."""
        u = space.to_points(u_hat)
        return -self.cubic_rate.astype(space.dtype) * space.from_points(u * u * u)


class CahnHilliard(Equation):
    """`u_t = M Lap(u^3 - u - gamma Lap u)`: phases separate, and the mean of `u` is conserved.

    **Arguments:** `mobility`: `M`, not negative. `gamma`: the square of the walls' width (which is `tanh(x / sqrt(2
    gamma))`), not negative.

    Cahn and Hilliard (1958), Free energy of a nonuniform system I, doi:10.1063/1.1744102.
    """

    mobility: Float[Array, ""] = eqx.field(converter=as_array)
    gamma: Float[Array, ""] = eqx.field(converter=as_array)
    degree: ClassVar[int | None] = 3

    def __check_init__(self):
        check(self, "mobility", "gamma", nonnegative=("mobility", "gamma"))

    def channels(self, ndim: int) -> int:
        """1."""
        return 1

    def linear(self, space: Fourier) -> Inexact[Array, "..."]:
        """`M (|k|^2 - gamma |k|^4)`."""
        M, gamma = self.mobility.astype(space.dtype), self.gamma.astype(space.dtype)
        return -M * (space.laplacian + gamma * space.laplacian**2)

    def nonlinear(self, space: Fourier, u_hat: Complex[Array, "c *k"], t: Float[Array, ""]) -> Complex[Array, "c *k"]:
        """`M Lap u^3`."""
        u = space.to_points(u_hat)
        return self.mobility.astype(space.dtype) * space.laplacian * space.from_points(u * u * u)


class SwiftHohenberg(Equation):
    """`u_t = r u - (Lap + q^2)^2 u + g u^2 - u^3`: patterns of wavelength `2 pi / q`.

    **Arguments:** `growth`: `r`, stripes above 0. `wavenumber`: `q`. `quadratic_rate`: `g`, favours hexagons.

    Swift and Hohenberg (1977), Hydrodynamic fluctuations at the convective instability, doi:10.1103/PhysRevA.15.319.
    """

    growth: Float[Array, ""] = eqx.field(converter=as_array)
    wavenumber: Float[Array, ""] = eqx.field(converter=as_array, default=1.0)
    quadratic_rate: Float[Array, ""] = eqx.field(converter=as_array, default=0.0)
    degree: ClassVar[int | None] = 3

    def __check_init__(self):
        check(self, "growth", "wavenumber", "quadratic_rate")

    def channels(self, ndim: int) -> int:
        """1."""
        return 1

    def linear(self, space: Fourier) -> Inexact[Array, "..."]:
        """`r - (q^2 - |k|^2)^2`."""
        r, q = self.growth.astype(space.dtype), self.wavenumber.astype(space.dtype)
        return r - (space.laplacian + q * q) ** 2

    def nonlinear(self, space: Fourier, u_hat: Complex[Array, "c *k"], t: Float[Array, ""]) -> Complex[Array, "c *k"]:
        """`g u^2 - u^3`."""
        u = space.to_points(u_hat)
        return space.from_points(u * u * (self.quadratic_rate.astype(space.dtype) - u))
