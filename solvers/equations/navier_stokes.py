"""The incompressible Navier-Stokes equations: vorticity in two dimensions, velocity in three."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, Inexact

from ..fourier import Fourier
from .coefficients import as_array, as_array_or_none, check, check_dimension
from .equation import Equation
from .forcing import Forcing, KolmogorovForcing, as_forcing, force


class NavierStokes2D(Equation):
    """`w_t + u . grad w = nu Lap w - mu w + g`, the vorticity `w = v_x - u_y` of the flow `u = (u, v)`, `div u = 0`.

    The velocity is `(psi_y, -psi_x)`, `Lap psi = -w`, plus its mean, which the vorticity does not determine. The
    convection is evaluated as the curl of `div(u u)`, `(d_xx - d_yy)(u v) - d_xy (u^2 - v^2)`, from two inverse and
    two forward transforms. Axis 0 is x, axis 1 is y; the mean of `w` has to vanish, as periodic flows have it.

    **Arguments:** `viscosity`: `nu`, not negative. `drag`: `mu`, linear friction. `forcing`: of the vorticity: `None`
    (decaying), `KolmogorovForcing`, an array `(1, *n)` on the grid, or a function `forcing(t, x)` of the time and the
    coordinates `(2, *n)` to such arrays. `mean_velocity`: `(2,)`, or `None` for zero.
    """

    viscosity: Float[Array, ""] = eqx.field(converter=as_array)
    drag: Float[Array, ""] = eqx.field(converter=as_array, default=0.0)
    forcing: Forcing | None = eqx.field(converter=as_forcing, default=None)
    mean_velocity: Float[Array, "2"] | None = eqx.field(converter=as_array_or_none, default=None)
    degree: ClassVar[int | None] = 2

    def __check_init__(self):
        check(self, "viscosity", "drag", nonnegative=("viscosity",))
        if self.mean_velocity is not None and self.mean_velocity.shape != (2,):
            raise ValueError(f"`mean_velocity` has shape {self.mean_velocity.shape}; expected (2,), or None for zero.")

    def channels(self, ndim: int) -> int:
        """1."""
        check_dimension(self, ndim, 2)
        return 1

    def linear(self, space: Fourier) -> Inexact[Array, "..."]:
        """`-nu |k|^2 - mu`, less `i k . U` with a mean velocity `U`."""
        symbol = self.viscosity.astype(space.dtype) * space.laplacian - self.drag.astype(space.dtype)
        if self.mean_velocity is None:
            return symbol
        U = self.mean_velocity.astype(space.dtype)
        return symbol - U[0] * space.derivative(0) - U[1] * space.derivative(1)

    def nonlinear(self, space: Fourier, u_hat: Complex[Array, "c *k"], t: Float[Array, ""]) -> Complex[Array, "c *k"]:
        """`-u . grad w + g`."""
        dx, dy = space.derivative(0), space.derivative(1)
        potential = space.inverse_laplacian * u_hat[0]
        u, v = space.to_points(jnp.stack([-dy * potential, dx * potential]))
        shear, stretch = space.from_points(jnp.stack([u * v, u * u - v * v]))
        rate = (space.derivative(1, 2) - space.derivative(0, 2)) * shear + (dx * dy).real * stretch
        if self.forcing is None:
            return rate[None]
        if isinstance(self.forcing, KolmogorovForcing):
            return rate[None] + self.forcing.vorticity(space)
        return rate[None] + force(self.forcing, space, t, 1)


class NavierStokes3D(Equation):
    """`u_t + (u . grad) u = -grad p + nu Lap u - mu u + f`, `div u = 0`, for the velocity `(3, *n)`.

    The pressure is eliminated by the Leray projection, here of the convection and the force: what divergence and
    mean the initial velocity has, it keeps. The convection is `div(u u - u_3^2 I)`, of the same projection as
    `div(u u)`, from three inverse and five forward transforms.

    **Arguments:** `viscosity`: `nu`, not negative. `drag`: `mu`, linear friction. `forcing`: `None`, an array
    `(3, *n)` on the grid, or a function `forcing(t, x)` of the time and the coordinates `(3, *n)` to such arrays.
    """

    viscosity: Float[Array, ""] = eqx.field(converter=as_array)
    drag: Float[Array, ""] = eqx.field(converter=as_array, default=0.0)
    forcing: Forcing | None = eqx.field(converter=as_forcing, default=None)
    degree: ClassVar[int | None] = 2

    def __check_init__(self):
        check(self, "viscosity", "drag", nonnegative=("viscosity",))
        if isinstance(self.forcing, KolmogorovForcing):
            raise ValueError("`forcing` is KolmogorovForcing, which is for 2-D; expected an array, a function or None.")

    def channels(self, ndim: int) -> int:
        """3."""
        check_dimension(self, ndim, 3)
        return 3

    def linear(self, space: Fourier) -> Inexact[Array, "..."]:
        """`-nu |k|^2 - mu`."""
        return self.viscosity.astype(space.dtype) * space.laplacian - self.drag.astype(space.dtype)

    def nonlinear(self, space: Fourier, u_hat: Complex[Array, "c *k"], t: Float[Array, ""]) -> Complex[Array, "c *k"]:
        """The projection of `f - (u . grad) u`."""
        dx, dy, dz = (space.derivative(j) for j in range(3))

        def products(velocity: Array) -> Array:
            u, v, w = velocity
            return jnp.stack([u * u - w * w, v * v - w * w, u * v, u * w, v * w])

        uu, vv, uv, uw, vw = space.of_points(products, u_hat)
        rate = -jnp.stack([dx * uu + dy * uv + dz * uw, dx * uv + dy * vv + dz * vw, dx * uw + dy * vw])
        if self.forcing is not None and not isinstance(self.forcing, KolmogorovForcing):
            rate = rate + force(self.forcing, space, t, 3)
        potential = space.inverse_laplacian * (dx * rate[0] + dy * rate[1] + dz * rate[2])
        return rate - jnp.stack([dx * potential, dy * potential, dz * potential])
