"""Incompressible flow for `Strong`, in velocity and pressure: Stokes and Navier-Stokes, steady or not.

The candidate has `d + 1` components in `d` dimensions, `(v_1, ..., v_d, p)`: the velocity, and the pressure over the
density. The residual has `d + 1` equations: those of momentum, then `div v`."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .coefficients import Coefficient, as_coefficient, as_number, coefficient_at
from .residuals import Unknown


class Stokes(eqx.Module):
    """`-nu Lap v + grad p = f`, `div v = 0`; all axes are space.

    **Arguments:** `viscosity`: `nu`. `f`: force over density, as `(d,)` numbers, a function of the point that gives
    `(d,)`, or values `(d, *n)` on the grid.

    **Raises:** `ValueError` for a negative viscosity; when called, for another number of components.
    """

    viscosity: Float[Array, ""]
    f: Coefficient

    def __init__(self, viscosity: ArrayLike, f: Any = 0.0):
        self.viscosity, self.f = as_number("viscosity", viscosity, least=0.0), as_coefficient(f)

    def __call__(self, u: Unknown, x: Float[Array, "d ..."]) -> Float[Array, "e ..."]:
        """The equations `(d + 1, ...)`."""
        return _flow(self, u, x, range(len(x)))


class NavierStokes(eqx.Module):
    """`(v_t +) (v . grad) v + grad p - nu Lap v = f`, `div v = 0`.

    **Arguments:** as for `Stokes`. `steady`: all axes are space; else time is axis 0, and `f` is a function of
    `(t, x, ...)`.

    **Raises:** as `Stokes`.

    In vorticity, without the pressure: `StrongForm(NavierStokes2D(...))`.
    """

    viscosity: Float[Array, ""]
    f: Coefficient
    steady: bool = eqx.field(static=True)

    def __init__(self, viscosity: ArrayLike, f: Any = 0.0, *, steady: bool = True):
        self.viscosity, self.f = as_number("viscosity", viscosity, least=0.0), as_coefficient(f)
        self.steady = steady

    def __call__(self, u: Unknown, x: Float[Array, "d ..."]) -> Float[Array, "e ..."]:
        """The equations `(d + 1, ...)`."""
        if self.steady:
            return _flow(self, u, x, range(len(x)), convected=True)
        return _flow(self, u, x, range(1, len(x)), time=(0,), convected=True)


def _flow(
    form: Stokes | NavierStokes, u: Unknown, x: Array, space: range, time: tuple[int, ...] = (), convected: bool = False
) -> Array:
    value, diffused, *found = u((), [(i, i) for i in space], *space, *time)
    d = len(space)
    if len(value) != d + 1:
        raise ValueError(
            f"`candidate` has {len(value)} components; {type(form).__name__} takes {d + 1} along {d} axes of space: "
            "the velocity, then the pressure."
        )
    slopes, rates = found[:d], found[d:]
    pressure_slope = jnp.stack([slope[d] for slope in slopes])
    force = coefficient_at("f", form.f, x, components=d)
    momentum = pressure_slope - form.viscosity.astype(x.dtype) * diffused[:d] - force
    momentum = sum((rate[:d] for rate in rates), momentum)
    if convected:
        momentum = sum((v * slope[:d] for v, slope in zip(value[:d], slopes, strict=True)), momentum)
    divergence = sum((slope[i] for i, slope in enumerate(slopes)), jnp.zeros_like(value[0]))
    return jnp.concatenate([momentum, divergence[None]])
