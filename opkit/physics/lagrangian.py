"""Convection and diffusion along characteristics, for `Strong`."""

from functools import partial
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .coefficients import Coefficient, as_coefficient, as_number, coefficient_at
from .residuals import Unknown


class Lagrangian(eqx.Module):
    """`u_t + c . grad u = nu Lap u` in labels: what moves with the flow is learnt as such, however fast it moves.

    The coordinates are `(t, xi)`, the labels `xi` having as many axes `d` as space. The candidate has the components
    `(x, w)`: the place `x(t, xi)` (`d` of them) of what is labelled `xi`, and the solution there, `w(t, xi) = u(t, x(t,
    xi))`. The residual has the equations

        x_t - c(t, x, w)        (d)
        w_t - nu Lap_x w        (as many as u has)

    with the diffusion in physical coordinates. By the chain rule, with `F = dx / dxi` and `G = F^-1`,

        Lap_x w = sum_ij (G G^T)_ij (w_ij - sum_m (grad_x w)_m x^m_ij),    (grad_x w)_m = sum_i w_i G_im;

    in one dimension `w'' / x'^2 - w' x'' / x'^3`. To differentiate in the labels instead (`w''`) is right only where
    the flow moves all points alike.

    Initial data are `x(0, xi) = xi`, `w(0, xi) = u(0, xi)`. On a periodic axis `x - xi` and `w` have the period. The
    error against a solution in space is `w(t, xi) - u(t, x(t, xi))`. Characteristics must not cross: where `det F`
    vanishes, as in a shock without viscosity, the equation of `w` is singular.

    **Arguments:** `velocity`: `c`, a number, `(d,)` numbers, or a function `c(p, w)` of the point `p = (t, x)` and the
    solution `(c,)` there, which gives `(d,)`; Burgers' is `lambda p, w: w`. `diffusivity`: `nu`.

    **Raises:** `ValueError` for a negative diffusivity; when called, for a candidate of too few components or a
    velocity of another shape.

    Mojgani, Balajewicz and Hassanzadeh (2023), Kolmogorov n-width and Lagrangian physics-informed neural networks: a
    causality-conforming manifold for convection-dominated PDEs, arXiv:2205.02902.
    """

    velocity: Coefficient
    diffusivity: Float[Array, ""]

    def __init__(self, velocity: Any, diffusivity: ArrayLike = 0.0):
        self.velocity = as_coefficient(velocity)
        self.diffusivity = as_number("diffusivity", diffusivity, least=0.0)

    def __call__(self, u: Unknown, x: Float[Array, "d ..."]) -> Float[Array, "e ..."]:
        """The equations `(d + c, ...)`."""
        d = len(x) - 1
        labels = range(1, d + 1)
        pairs = [(i, j) for i in labels for j in labels if i <= j]
        value, rate, *found = u((), 0, *labels, *pairs)
        if len(value) <= d:
            raise ValueError(
                f"`candidate` has {len(value)} components; Lagrangian takes the {d} coordinates of a place, then the "
                "solution there."
            )
        slopes, second = jnp.stack(found[:d]), dict(zip(pairs, found[d:], strict=True))
        point = jnp.concatenate([x[:1], value[:d]])
        arguments = (point, value[d:]) if callable(self.velocity) else (point,)
        velocity = coefficient_at("velocity", self.velocity, *arguments, components=d)
        diffused = self.diffusivity.astype(x.dtype) * _physical_laplacian(slopes, second, d)
        return jnp.concatenate([rate[:d] - velocity, rate[d:] - diffused])


def _physical_laplacian(slopes: Array, second: dict[tuple[int, int], Array], d: int) -> Array:
    """`slopes`: `(labels, d + c, ...)`; `second`: by pair of labels, `(d + c, ...)`."""
    inverse = _inverse(slopes[:, :d])  # d xi_i / d x_m, as [m, i]
    contract = partial(jnp.einsum, precision="highest")
    gradient = contract("mi...,ic...->mc...", inverse, slopes[:, d:])
    metric = contract("mi...,mj...->ij...", inverse, inverse)
    total = jnp.zeros_like(slopes[0, d:])
    for (i, j), parts in second.items():
        times = 1 if i == j else 2
        along = contract("m...,mc...->c...", parts[:d], gradient)
        total = total + times * metric[i - 1, j - 1] * (parts[d:] - along)
    return total


def _inverse(matrix: Array) -> Array:
    """Of `(d, d, ...)`, over the first two axes."""
    if len(matrix) == 1:
        return 1 / matrix
    last = jnp.moveaxis(matrix, (0, 1), (-2, -1))
    return jnp.moveaxis(jnp.linalg.inv(last), (-2, -1), (0, 1))
