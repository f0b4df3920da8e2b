"""Equations with the convection `u u_x`: Burgers, Korteweg-de Vries, Burgers-Fisher."""

from itertools import combinations_with_replacement
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, Inexact

from ..fourier import Fourier
from .coefficients import as_array, check, check_dimension
from .equation import Equation


class Burgers(Equation):
    """`u_t + (u . grad) u = nu Lap u`, one component a dimension; `conservative`: `u_t + div(u u) / 2 = nu Lap u`.

    The two differ beyond one dimension: there `div(u u) = (u . grad) u + u div u`. In one dimension both are
    `u_t + (u^2 / 2)_x = nu u_xx`, evaluated as written.

    The products take, in one, two and three dimensions, 1, 3, 4 forward transforms for 1, 3, 6 inverse ones (the Lamb
    form `grad |u|^2 / 2 - u x curl u`), and conservative 1, 3, 6 for 1, 2, 3.

    **Arguments:** `viscosity`: `nu`, not negative.

    Burgers (1948), A mathematical model illustrating the theory of turbulence.
    """

    viscosity: Float[Array, ""] = eqx.field(converter=as_array)
    conservative: bool = eqx.field(static=True, default=False)
    degree: ClassVar[int | None] = 2

    def __check_init__(self):
        check(self, "viscosity", nonnegative=("viscosity",))

    def channels(self, ndim: int) -> int:
        """`ndim`."""
        return ndim

    def linear(self, space: Fourier) -> Inexact[Array, "..."]:
        """`-nu |k|^2`."""
        return self.viscosity.astype(space.dtype) * space.laplacian

    def nonlinear(self, space: Fourier, u_hat: Complex[Array, "c *k"], t: Float[Array, ""]) -> Complex[Array, "c *k"]:
        """The convection."""
        if space.grid.ndim == 1:
            return -0.5 * _square_x(space, u_hat)
        return _divergence_form(space, u_hat) if self.conservative else _lamb_form(space, u_hat)


class KortewegDeVries(Equation):
    """`u_t + a u u_x + b u_xxx = 0` in one dimension.

    With `a = 6, b = 1` the soliton of speed `c` is `c / 2 sech^2(sqrt(c) / 2 (x - c t))`.

    **Arguments:** `convection`: `a`. `dispersion`: `b`.

    Korteweg and de Vries (1895); Zabusky and Kruskal (1965) have `a = 1, b = 0.022^2`.
    """

    convection: Float[Array, ""] = eqx.field(converter=as_array, default=6.0)
    dispersion: Float[Array, ""] = eqx.field(converter=as_array, default=1.0)
    degree: ClassVar[int | None] = 2

    def __check_init__(self):
        check(self, "convection", "dispersion")

    def channels(self, ndim: int) -> int:
        """1."""
        check_dimension(self, ndim, 1)
        return 1

    def linear(self, space: Fourier) -> Inexact[Array, "..."]:
        """`i b k^3`."""
        return -self.dispersion.astype(space.dtype) * space.derivative(0, 3)

    def nonlinear(self, space: Fourier, u_hat: Complex[Array, "c *k"], t: Float[Array, ""]) -> Complex[Array, "c *k"]:
        """`-a (u^2 / 2)_x`."""
        return -0.5 * self.convection.astype(space.dtype) * _square_x(space, u_hat)


class BurgersFisher(Equation):
    """`u_t + c u_x + b u u_x = nu u_xx + r u (1 - u)` in one dimension: a family with advection, Burgers, heat and
    Fisher-KPP as corners.

    **Arguments:** `advection`: `c`. `convection`: `b`. `viscosity`: `nu`, not negative. `growth`: `r`.
    """

    advection: Float[Array, ""] = eqx.field(converter=as_array)
    convection: Float[Array, ""] = eqx.field(converter=as_array)
    viscosity: Float[Array, ""] = eqx.field(converter=as_array)
    growth: Float[Array, ""] = eqx.field(converter=as_array)
    degree: ClassVar[int | None] = 2

    def __check_init__(self):
        check(self, "advection", "convection", "viscosity", "growth", nonnegative=("viscosity",))

    def channels(self, ndim: int) -> int:
        """1."""
        check_dimension(self, ndim, 1)
        return 1

    def linear(self, space: Fourier) -> Inexact[Array, "..."]:
        """`-i c k - nu k^2 + r`."""
        c, nu, r = (x.astype(space.dtype) for x in (self.advection, self.viscosity, self.growth))
        return nu * space.laplacian + r - c * space.derivative(0)

    def nonlinear(self, space: Fourier, u_hat: Complex[Array, "c *k"], t: Float[Array, ""]) -> Complex[Array, "c *k"]:
        """`-b (u^2 / 2)_x - r u^2`."""
        b, r = self.convection.astype(space.dtype), self.growth.astype(space.dtype)
        u = space.to_points(u_hat)
        return -(b / 2 * space.derivative(0) + r) * space.from_points(u * u)


def _square_x(space: Fourier, u_hat: Complex[Array, "c *k"]) -> Complex[Array, "c *k"]:
    """`(u^2)_x`."""
    u = space.to_points(u_hat)
    return space.derivative(0) * space.from_points(u * u)


def _divergence_form(space: Fourier, u_hat: Complex[Array, "c *k"]) -> Complex[Array, "c *k"]:
    d = space.grid.ndim
    pairs = list(combinations_with_replacement(range(d), 2))
    squares = space.of_points(lambda u: jnp.stack([u[i] * u[j] for i, j in pairs]), u_hat)
    products = dict(zip(pairs, squares, strict=True))
    half = [-0.5 * space.derivative(j) for j in range(d)]
    return jnp.stack([sum(half[j] * products[min(i, j), max(i, j)] for j in range(d)) for i in range(d)])


def _lamb_form(space: Fourier, u_hat: Complex[Array, "c *k"]) -> Complex[Array, "c *k"]:
    d = space.grid.ndim
    D = [space.derivative(j) for j in range(d)]
    pairs = ((0, 1),) if d == 2 else ((1, 2), (2, 0), (0, 1))
    curl_hat = [D[j] * u_hat[k] - D[k] * u_hat[j] for j, k in pairs]

    def products(fields: Array) -> Array:
        u, w = fields[:d], fields[d:]
        cross = [u[1] * w[0], -u[0] * w[0]] if d == 2 else [u[j] * w[k] - u[k] * w[j] for j, k in pairs]
        return jnp.stack([*cross, jnp.sum(u * u, 0)])

    *cross_hat, square_hat = space.of_points(products, jnp.stack([*u_hat, *curl_hat]))
    return jnp.stack([c - 0.5 * D_j * square_hat for c, D_j in zip(cross_hat, D, strict=True)])
