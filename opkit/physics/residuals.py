"""Residuals: an equation, written once, at a point of a field and on a grid of values."""

from collections.abc import Callable
from functools import reduce
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from solvers import Field, Grid, chebyshev_derivative, finite_difference, spectral

from .derivatives import Term, derivatives


@runtime_checkable
class Unknown(Protocol):
    """What a form differentiates: `u(*wanted)` is a tuple of arrays `(c, ...)`, named as in `derivatives`."""

    def __call__(self, *wanted: Term | list[Term]) -> tuple[Array, ...]:
        """`()` for the value, an axis, a tuple of axes, or a list of these for their sum."""
        ...


Form = Callable[[Unknown, Float[Array, "d ..."]], Float[Array, "e ..."]]
"""`form(u, x)`: the equations `(e, ...)` of the unknown and the coordinates `(d, ...)`."""


class Strong(eqx.Module):
    """The residual of an equation in its strong form, `residual(candidate, where)`, zero where it holds.

    A form is a function of the unknown, which gives its derivatives as `derivatives` does, and of the coordinates:

        def burgers(u, x):
            v, v_t, v_x, v_xx = u((), 0, 1, (1, 1))
            return v_t + v * v_x - 0.01 * v_xx

        residual = Strong(burgers)

    The same residual takes

    - a field and a point `(d,)`, and gives `(e,)`: batches by `jax.vmap(residual, (None, 0))`;
    - values `(c, *n)` and the `Grid` they are on, time being its first axis where the form has time, and gives
      `(e, *n)`: spectral derivatives on periodic (`left`) and Chebyshev axes, and on `nodes` and `cells` finite
      differences.

    `form` may be a module with coefficients: they are leaves of the residual, differentiable and trainable; so may be
    a solver's equation, by `strong_form`.

    **Arguments:** `accuracy`: of the finite differences, also instead of spectral ones on periodic axes where
    `spectral` is false.
    """

    form: Form
    accuracy: int = eqx.field(static=True)
    spectral: bool = eqx.field(static=True)

    def __init__(self, form: Form, *, accuracy: int = 4, spectral: bool = True):
        self.form, self.accuracy, self.spectral = form, accuracy, spectral

    def __call__(
        self, candidate: Field | Float[Array, "c *n"], where: Float[Array, " d"] | Grid
    ) -> Float[Array, "e *n"]:
        """The residual at a point, or on a grid.

        **Raises:** `ValueError` for values where a field is meant or the reverse, or a form whose result has not the
        shape `(e, *n)`.
        """
        if isinstance(where, Grid):
            if not isinstance(candidate, jax.Array):
                raise ValueError(f"`candidate` is {_name(candidate)}; expected values (c, *{where.shape}).")
            values = candidate
            if values.shape[1:] != where.shape:
                raise ValueError(f"`candidate` has shape {values.shape}; expected (c, *{where.shape}).")
            unknown = lambda *wanted: tuple(self._on_grid(values, where, each) for each in wanted)
            x, shape = where.coordinates(values.dtype), where.shape
        else:
            if not callable(candidate):
                raise ValueError(f"`candidate` is {_name(candidate)}; at a point, expected a field `f(x)`.")
            field: Any = candidate
            unknown = lambda *wanted: derivatives(field, where, *wanted)
            x, shape = where, ()
        found = self.form(unknown, x)
        if found.ndim != 1 + len(shape) or found.shape[1:] != shape:
            raise ValueError(
                f"`form` gave the shape {found.shape}; expected (equations, *{shape}): keep the axis of the "
                "components, u[:1] for u[0], or stack the equations."
            )
        return found

    def _on_grid(self, values: Array, grid: Grid, wanted: Term | list[Term]) -> Array:
        terms = wanted if isinstance(wanted, list) else [wanted]
        return reduce(jnp.add, (self._term(values, grid, term) for term in terms))

    def _term(self, values: Array, grid: Grid, term: Term) -> Array:
        axes = (term,) if isinstance(term, int) else term
        if not all(0 <= axis < grid.ndim for axis in axes):
            raise ValueError(f"the form asks for the axes {axes}; the grid has {grid.ndim}.")
        for axis in sorted(set(axes)):
            order = axes.count(axis)
            if grid.placement[axis] == "chebyshev":
                values = chebyshev_derivative(values, grid, axis, order)
            elif grid.placement[axis] == "left" and self.spectral:
                values = spectral.derivative(values, grid, axis, order)
            else:
                values = finite_difference(values, grid, axis, order, accuracy=self.accuracy)
        return values


def _name(candidate: Any) -> str:
    if isinstance(candidate, jax.Array):
        return f"an array of shape {candidate.shape}"
    return f"a {type(candidate).__name__}"
