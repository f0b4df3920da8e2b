"""The rotating shallow-water equations."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, Inexact

from ..fourier import Fourier
from .coefficients import as_array, check, check_dimension
from .equation import Equation


class ShallowWater(Equation):
    """`u_t + (u . grad) u + f z x u = -g grad h + nu Lap u`, `h_t + div((H + h) u) = kappa Lap h`; states are
    `(u, v, h)`, with `h` the height of the surface above the depth `H` at rest.

    Rotation and gravity waves, of frequency `sqrt(f^2 + g H |k|^2)`, are in the linear part. The convection is in the
    Lamb form, `grad |u|^2 / 2 - u x curl u`: four inverse and five forward transforms. The volume is conserved.

    **Arguments:** `depth`: `H`, not negative. `gravity`: `g`, not negative. `coriolis`: `f`. `viscosity`: `nu`,
    `diffusivity`: `kappa`, not negative: zero for the inviscid equations, whose fronts steepen to shocks.

    Vallis (2017), Atmospheric and oceanic fluid dynamics, ch. 3.
    """

    depth: Float[Array, ""] = eqx.field(converter=as_array, default=1.0)
    gravity: Float[Array, ""] = eqx.field(converter=as_array, default=1.0)
    coriolis: Float[Array, ""] = eqx.field(converter=as_array, default=0.0)
    viscosity: Float[Array, ""] = eqx.field(converter=as_array, default=0.0)
    diffusivity: Float[Array, ""] = eqx.field(converter=as_array, default=0.0)
    degree: ClassVar[int | None] = 2

    def __check_init__(self):
        names = ("depth", "gravity", "viscosity", "diffusivity")
        check(self, *names, "coriolis", nonnegative=names)

    def channels(self, ndim: int) -> int:
        """3: the velocity and the height."""
        check_dimension(self, ndim, 2)
        return 3

    def linear(self, space: Fourier) -> Inexact[Array, "..."]:
        """`((-nu |k|^2, f, -i g k_x), (-f, -nu |k|^2, -i g k_y), (-i H k_x, -i H k_y, -kappa |k|^2))`."""
        coefficients = (self.depth, self.gravity, self.coriolis, self.viscosity, self.diffusivity)
        H, g, f, nu, kappa = (value.astype(space.dtype) for value in coefficients)
        dx, dy, laplacian = space.derivative(0), space.derivative(1), space.laplacian
        rows = ((nu * laplacian, f, -g * dx), (-f, nu * laplacian, -g * dy), (-H * dx, -H * dy, kappa * laplacian))
        entries = jnp.broadcast_arrays(*(entry for row in rows for entry in row))
        return jnp.stack(entries).reshape(3, 3, *space.shape)

    def nonlinear(self, space: Fourier, u_hat: Complex[Array, "c *k"], t: Float[Array, ""]) -> Complex[Array, "c *k"]:
        """`-(u . grad) u` and `-div(h u)`."""
        dx, dy = space.derivative(0), space.derivative(1)
        curl = dx * u_hat[1] - dy * u_hat[0]
        u, v, h, w = space.to_points(jnp.stack([*u_hat, curl]))
        products = jnp.stack([v * w, u * w, (u * u + v * v) / 2, h * u, h * v])
        vw, uw, square, hu, hv = space.from_points(products)
        return jnp.stack([vw - dx * square, -uw - dy * square, -dx * hu - dy * hv])
