"""Two components that react and diffuse: Gray-Scott, FitzHugh-Nagumo."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, Inexact

from ..fourier import Fourier
from .coefficients import as_array, check, constant
from .equation import Equation


class GrayScott(Equation):
    """`u_t = D_u Lap u - u v^2 + F (1 - u)`, `v_t = D_v Lap v + u v^2 - (F + k) v`; the state is `(u, v)`.

    Rest is `(1, 0)`. From a perturbation of it grow, by `F` and `k`, spots, stripes, spirals or chaos.

    **Arguments:** `diffusivity_u`, `diffusivity_v`: not negative. `feed`: `F`. `kill`: `k`.

    Pearson (1993), Complex patterns in a simple system, arXiv:patt-sol/9304003: `2e-5`, `1e-5` on a box of 2.5.
    """

    diffusivity_u: Float[Array, ""] = eqx.field(converter=as_array)
    diffusivity_v: Float[Array, ""] = eqx.field(converter=as_array)
    feed: Float[Array, ""] = eqx.field(converter=as_array)
    kill: Float[Array, ""] = eqx.field(converter=as_array)
    degree: ClassVar[int | None] = 3

    def __check_init__(self):
        names = ("diffusivity_u", "diffusivity_v")
        check(self, *names, "feed", "kill", nonnegative=names)

    def channels(self, ndim: int) -> int:
        """2."""
        return 2

    def linear(self, space: Fourier) -> Inexact[Array, "..."]:
        """`-D_u |k|^2 - F` and `-D_v |k|^2 - F - k`."""
        D_u, D_v, F, k = _cast(space, self.diffusivity_u, self.diffusivity_v, self.feed, self.kill)
        return jnp.stack([D_u * space.laplacian - F, D_v * space.laplacian - (F + k)])

    def nonlinear(self, space: Fourier, u_hat: Complex[Array, "c *k"], t: Float[Array, ""]) -> Complex[Array, "c *k"]:
        """`-u v^2 + F` and `u v^2`."""
        u, v = space.to_points(u_hat)
        (reaction,) = space.from_points((u * v * v)[None])
        return jnp.stack([constant(space, self.feed) - reaction, reaction])


class FitzHughNagumo(Equation):
    """`u_t = D_u Lap u + u - c u^3 - v + s`, `v_t = D_v Lap v + e (u + a - b v)`; the state is `(u, v)`.

    An activator `u`, fast, and an inhibitor `v`, slow where `e` is small. With `c = 1 / 3` these are FitzHugh's
    variables; with the defaults of `c`, `e`, `a`, `b` and `s = -k` PDEBench's "diffusion-reaction", where
    `D_u = 1e-3`, `D_v = 5e-3`, `k = 5e-3`.

    **Arguments:** `diffusivity_u`, `diffusivity_v`: not negative. `stimulus`: `s`. `cubic_rate`: `c`, not negative.
    `slowness`: `e`. `threshold`: `a`. `recovery`: `b`.

    FitzHugh (1961), doi:10.1016/S0006-3495(61)86902-6; Takamoto et al. (2022), PDEBench, arXiv:2210.07182.
    """

    diffusivity_u: Float[Array, ""] = eqx.field(converter=as_array)
    diffusivity_v: Float[Array, ""] = eqx.field(converter=as_array)
    stimulus: Float[Array, ""] = eqx.field(converter=as_array, default=0.0)
    cubic_rate: Float[Array, ""] = eqx.field(converter=as_array, default=1.0)
    slowness: Float[Array, ""] = eqx.field(converter=as_array, default=1.0)
    threshold: Float[Array, ""] = eqx.field(converter=as_array, default=0.0)
    recovery: Float[Array, ""] = eqx.field(converter=as_array, default=1.0)
    degree: ClassVar[int | None] = 3

    def __check_init__(self):
        names = ("diffusivity_u", "diffusivity_v", "cubic_rate")
        check(self, *names, "stimulus", "slowness", "threshold", "recovery", nonnegative=names)

    def channels(self, ndim: int) -> int:
        """2."""
        return 2

    def linear(self, space: Fourier) -> Inexact[Array, "..."]:
        """`-D_u |k|^2 + 1` and `-D_v |k|^2 - e b`: the coupling is not stiff."""
        D_u, D_v, e, b = _cast(space, self.diffusivity_u, self.diffusivity_v, self.slowness, self.recovery)
        return jnp.stack([D_u * space.laplacian + 1, D_v * space.laplacian - e * b])

    def nonlinear(self, space: Fourier, u_hat: Complex[Array, "c *k"], t: Float[Array, ""]) -> Complex[Array, "c *k"]:
        """`-c u^3 - v + s` and `e (u + a)`."""
        c, e = _cast(space, self.cubic_rate, self.slowness)
        u = space.to_points(u_hat[:1])
        (cube,) = space.from_points(u * u * u)
        activator = constant(space, self.stimulus) - c * cube - u_hat[1]
        return jnp.stack([activator, e * (u_hat[0] + constant(space, self.threshold))])


def _cast(space: Fourier, *values: Float[Array, ""]) -> list[Float[Array, ""]]:
    return [value.astype(space.dtype) for value in values]
