"""Linear transport with coefficients that vary in space."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, Inexact

from ..fourier import Fourier
from .coefficients import as_array, as_array_or_none, check, check_field, on_points
from .equation import Equation


class VariableTransport(Equation):
    """`u_t + c(x) . grad u = div(a(x) grad u) + r(x) u + f(x)`, the coefficients given on the points of the grid.

    The linear part takes the means of `c` and `r` and the middle of the range of `a`, so that of a positive `a` less
    is left than taken; the rest is explicit. Coefficients act by the wavenumbers that the space keeps, which makes a
    jump in one oscillate. `c . grad u` conserves the mean only if `div c = 0`. With all of them a step takes `d + 1`
    inverse and as many forward transforms a stage.

    **Arguments:** `diffusivity`: `a`, a number or `(*n)`, not negative. `velocity`: `c`, `(d, *n)`, or `None` for zero.
    `reaction`: `r`, `(*n)`, or `None`. `source`: `f`, `(*n)`, or `None`.
    """

    diffusivity: Float[Array, "..."] = eqx.field(converter=as_array)
    velocity: Float[Array, "d *n"] | None = eqx.field(converter=as_array_or_none, default=None)
    reaction: Float[Array, "*n"] | None = eqx.field(converter=as_array_or_none, default=None)
    source: Float[Array, "*n"] | None = eqx.field(converter=as_array_or_none, default=None)
    degree: ClassVar[int | None] = 2

    def __check_init__(self):
        check(self, nonnegative=("diffusivity",))

    def channels(self, ndim: int) -> int:
        """1."""
        return 1

    def linear(self, space: Fourier) -> Inexact[Array, "..."]:
        """`-a |k|^2 - i c . k + r` with the constant parts."""
        n, d = space.grid.shape, space.grid.ndim
        if any(space.grid.axis_names):
            raise ValueError("`grid` is a Piece; VariableTransport takes means over the whole grid: give it a Grid.")
        for name, shape in (("diffusivity", n), ("velocity", (d, *n)), ("reaction", n), ("source", n)):
            value = getattr(self, name)
            if value is not None and not (name == "diffusivity" and value.ndim == 0):
                check_field(name, value, shape)
        symbol = _middle(self.diffusivity).astype(space.dtype) * space.laplacian
        if self.velocity is not None:
            means = jnp.mean(self.velocity.reshape(d, -1), 1).astype(space.dtype)
            for j in range(d):
                symbol = symbol - means[j] * space.derivative(j)
        return symbol if self.reaction is None else symbol + jnp.mean(self.reaction).astype(space.dtype)

    def nonlinear(
        self, space: Fourier, u_hat: Complex[Array, "c *k"], t: Float[Array, ""]
    ) -> Complex[Array, "c *k"] | None:
        """What the constant parts leave, and the source."""
        d = space.grid.ndim
        D = [space.derivative(j) for j in range(d)]
        u = space.to_points(u_hat)
        slopes = space.to_points(jnp.concatenate([D_j * u_hat for D_j in D]))
        rate, fluxes = jnp.zeros_like(u), jnp.zeros_like(u[:0])
        if self.velocity is not None:
            axes = tuple(range(1, d + 1))
            rest = on_points(space, self.velocity - jnp.mean(self.velocity, axes, keepdims=True))
            rate = rate - jnp.sum(rest * slopes, 0, keepdims=True)
        if self.reaction is not None:
            rate = rate + on_points(space, (self.reaction - jnp.mean(self.reaction))[None]) * u
        if self.source is not None:
            rate = rate + on_points(space, self.source[None])
        if self.diffusivity.ndim:
            fluxes = on_points(space, (self.diffusivity - _middle(self.diffusivity))[None]) * slopes
        rate_hat, *fluxes_hat = space.from_points(jnp.concatenate([rate, fluxes]))
        return (rate_hat + sum(D_j * flux for D_j, flux in zip(D, fluxes_hat, strict=False)))[None]


def _middle(a: Float[Array, "..."]) -> Float[Array, ""]:
    return (jnp.min(a) + jnp.max(a)) / 2
