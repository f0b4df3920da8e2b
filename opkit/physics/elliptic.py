"""Elliptic equations for `Strong`: Poisson, Helmholtz, and diffusion with a varying coefficient.

All axes are space. What is given (`f`, `a`, `c`) is a number, a function of one point `(d,)`, or values on the grid
`(*n,)`; numbers, values and what functions hold are leaves, differentiable and trainable. Build a form inside
`jax.vmap` where data differ by sample: `jax.vmap(lambda u, f: Strong(Poisson(f))(u, grid))`."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .coefficients import Coefficient, as_coefficient, as_number, coefficient_at, over_points
from .derivatives import derivatives
from .residuals import Unknown


class Poisson(eqx.Module):
    """`-Lap u = f`, as the residual `-Lap u - f`; of several components each by itself, `f: (c,)` or one for all."""

    f: Coefficient

    def __init__(self, f: Any = 0.0):
        self.f = as_coefficient(f)

    def __call__(self, u: Unknown, x: Float[Array, "d ..."]) -> Float[Array, "c ..."]:
        """The equation `(c, ...)`."""
        (diffused,) = u(_laplacian(x))
        return -diffused - coefficient_at("f", self.f, x, components=len(diffused))


class Helmholtz(eqx.Module):
    """`Lap u + k^2 u = f`, as the residual `Lap u + k^2 u - f`. `wavenumber`: `k`; a complex `u` has its real and its
    imaginary part as components, and so has `f`.

    With the opposite sign, and `k^2 = -c`, it is the equation of `solve_chebyshev` and `Bounded.solve`.
    """

    wavenumber: Float[Array, ""]
    f: Coefficient

    def __init__(self, wavenumber: ArrayLike, f: Any = 0.0):
        self.wavenumber, self.f = as_number("wavenumber", wavenumber), as_coefficient(f)

    def __call__(self, u: Unknown, x: Float[Array, "d ..."]) -> Float[Array, "c ..."]:
        """The equation `(c, ...)`."""
        value, diffused = u((), _laplacian(x))
        k = self.wavenumber.astype(x.dtype)
        return diffused + k**2 * value - coefficient_at("f", self.f, x, components=len(value))


class Darcy(eqx.Module):
    """`-div(a grad u) + c u = f`, as the residual `-a Lap u - grad a . grad u + c u - f`, for a smooth `a > 0`.

    **Arguments:** `a`: a number or a function of the point. `None`: the candidate has `a` as its second component,
    `(u, a)`: values on a grid, `jnp.stack([u, a])`, one for each sample, or a field that learns both. `f`, `c`:
    numbers, functions, or values on the grid.

    Where `a` jumps there is no strong form: `solvers.elliptic_residual` is the residual in finite volumes.

    **Raises:** `ValueError` for `a` as an array; when called, for a candidate of other components.
    """

    a: Coefficient | None
    f: Coefficient
    c: Coefficient

    def __init__(self, a: Any = None, f: Any = 0.0, c: Any = 0.0):
        self.a = coefficient = None if a is None else as_coefficient(a)
        self.f, self.c = as_coefficient(f), as_coefficient(c)
        if not (coefficient is None or callable(coefficient) or coefficient.ndim == 0):
            raise ValueError(
                f"`a` has shape {coefficient.shape}; expected a number or a function of the point. Values on a grid "
                "are the candidate's second component: Strong(Darcy(f=f))(jnp.stack([u, a]), grid)."
            )

    def __call__(self, u: Unknown, x: Float[Array, "d ..."]) -> Float[Array, "1 ..."]:
        """The equation `(1, ...)`."""
        axes = range(len(x))
        value, diffused, *slopes = u((), _laplacian(x), *axes)
        expected = 2 if self.a is None else 1
        if len(value) != expected:
            raise ValueError(
                f"`candidate` has {len(value)} components; Darcy takes {expected}: "
                f"{'(u, a)' if self.a is None else 'u, as `a` is given'}."
            )
        if self.a is None:
            a, *steepness = (part[1:] for part in (value, *slopes))
        elif callable(self.a):
            field: Any = self.a
            one = lambda p: derivatives(lambda q: jnp.atleast_1d(field(q)), p, (), *axes)
            a, *steepness = over_points(one, x.ndim - 1)(x)
        else:
            a, steepness = self.a.astype(x.dtype), [0.0] * len(x)
        flux = a * diffused[:1] + sum(s * slope[:1] for s, slope in zip(steepness, slopes, strict=True))
        c, f = coefficient_at("c", self.c, x, components=1), coefficient_at("f", self.f, x, components=1)
        return -flux + c * value[:1] - f


def _laplacian(x: Array) -> list[Any]:
    return [(i, i) for i in range(len(x))]
