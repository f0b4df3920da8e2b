"""Operators in the places of vector fields and steppers, and sums of vector fields."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .grid import Domain
from .roles import Operator, VectorField


class OperatorVectorField(eqx.Module):
    """`f(t, u, args) = op(u, domain, args=args)`: see `as_vector_field`."""

    op: Operator
    domain: Domain

    def __call__(self, t: Any, u: Float[Array, "c *n"], args: PyTree = None) -> Float[Array, "c *n"]:
        """`du/dt`; `t` is not read."""
        return _kept(self.op(u, self.domain, args=args), u)


def as_vector_field(op: Operator, domain: Domain) -> OperatorVectorField:
    """An operator as the right-hand side of `du/dt = op(u)`, by the method of lines: `diffrax.ODETerm` takes it.

    The arrays of `op` are those of the vector field, and train. `args` is handed on to the operator. Time is not: an
    operator that depends on it takes it in its parameters, in a line of one's own,

        f = lambda t, u, args: op(u, grid, args=jnp.stack([t]))

    **Arguments:** `op`: from states on `domain` to as many channels there.

    **Returns:** `f(t, u, args)` on `u: (channels, *domain.shape)`.

    **Raises:** `ValueError`, when called, for an output of another shape or dtype than the state.
    """
    return OperatorVectorField(op, domain)


class OperatorStepper(eqx.Module):
    """`step(u) = op(u, domain, args=args)`: see `as_stepper`."""

    op: Operator
    domain: Domain
    args: PyTree

    def __call__(self, u: Float[Array, "c *n"], *, key: PRNGKeyArray | None = None) -> Float[Array, "c *n"]:
        """The state one step later."""
        return _kept(self.op(u, self.domain, args=self.args, key=key), u)


def as_stepper(op: Operator, domain: Domain, args: PyTree = None) -> OperatorStepper:
    """An operator from the state at one time to that a fixed step later, for `repeat` and `rollout`.

    **Arguments:** `op`: from states on `domain` to as many channels there. `args`: its parameters, at every step.

    **Returns:** `step(u, *, key=None)`, the key for operators that take one.

    **Raises:** as `as_vector_field`.
    """
    return OperatorStepper(op, domain, args)


class VectorFieldSum(eqx.Module):
    """`f(t, y, args) = sum_i f_i(t, y, args)`: a known equation and a learned closure.

        f = VectorFieldSum(vector_field(Burgers(0.01), grid), as_vector_field(network, grid))

    All get the same `args`, and return the structure of `y`.

    **Raises:** `ValueError` for no summand.
    """

    summands: tuple[VectorField, ...]

    def __init__(self, *summands: VectorField):
        if not summands:
            raise ValueError("`summands` is empty; a sum of vector fields needs at least one.")
        self.summands = summands

    def __call__(self, t: Any, y: PyTree, args: PyTree = None) -> PyTree:
        """`dy/dt`."""
        rates = [f(t, y, args) for f in self.summands]
        return jax.tree.map(lambda *parts: sum(parts[1:], start=parts[0]), *rates)


def _kept(out: Array, u: Array) -> Array:
    if (out.shape, out.dtype) != (u.shape, u.dtype):
        raise ValueError(
            f"`op` makes {out.dtype} {out.shape} of {u.dtype} {u.shape}; a vector field or stepper keeps shape and "
            "dtype: as many channels out as in, on the same points."
        )
    return out
