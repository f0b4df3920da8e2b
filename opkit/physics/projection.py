"""Projection onto linear constraints."""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, ArrayLike, Float

from solvers import Field, Frozen, as_module, frozen_unless_traced

from .given import Constant, Given, given, value_of


def project(
    y: Float[Array, "*n"],
    matrix: Float[Array, "m *n"],
    target: ArrayLike = 0.0,
    *,
    weights: Float[Array, "*n"] | None = None,
) -> Float[Array, "*n"]:
    """The nearest `z` to `y` with `B z = b`: `z = y - W^-1 B^T (B W^-1 B^T)^-1 (B y - b)`.

    It minimises `sum_i w_i (z_i - y_i)^2`, and is computed by a QR factorisation of `W^(-1/2) B^T`. It is exact to
    rounding, differentiable in everything, and projecting twice is projecting once. For a field, `Projected`; for the
    output `(c, *n)` of an operator `matrix` is `(m, c, *n)`: with the quadrature weights of the grid as its one row,
    the mean is kept.

    **Arguments:** `y`. `matrix`: `B`, its rows independent. `target`: `b`, a number or `(m,)`. `weights`: `w`,
    positive, by default 1: the components with small ones are changed most.

    **Raises:** `ValueError` for shapes that do not fit or more constraints than values; on concrete values also for
    rows that depend on each other, or weights that are not positive.
    """
    _check(y.shape, matrix, target, weights)
    rows = jnp.reshape(matrix, (len(matrix), -1)).astype(y.dtype)
    scale = jnp.ones(y.size, y.dtype) if weights is None else 1 / jnp.sqrt(jnp.ravel(weights).astype(y.dtype))
    q, r = jnp.linalg.qr((rows * scale).T)
    times = partial(jnp.matmul, precision="highest")
    defect = times(rows, jnp.ravel(y)) - jnp.asarray(target).astype(y.dtype)
    return y - jnp.reshape(scale * times(q, solve_triangular(r, defect, trans=1)), y.shape)


class Projected(eqx.Module):
    """A field, projected at each point onto the values that satisfy `B(x) u = b(x)`: `project(N(x), B(x), b(x))`.

        tangential = Projected(network, lambda x: normal(x)[None])    # no flow through the surfaces |x| = const

    **Arguments:** `field`. `matrix`: `(m, c)`, or a function of the point. `target`: a number, `(m,)`, or a function.
    `weights`: `(c,)`, or a function; see `project`. None of them is trained; to differentiate in them, build this
    inside the loss.

    **Raises:** `ValueError` as `project` does.
    """

    field: Field
    constraint: Frozen[tuple[Given, Given, Given | None]]

    def __init__(
        self,
        field: Field,
        matrix: Float[Array, "m c"] | Callable[[Array], Array],
        target: ArrayLike | Callable[[Array], ArrayLike] = 0.0,
        *,
        weights: Float[Array, " c"] | Callable[[Array], Array] | None = None,
    ):
        data = (given(matrix), given(target), None if weights is None else given(weights))
        b, w = (each.array if isinstance(each, Constant) else None for each in data[1:])
        if isinstance(data[0], Constant):
            _check(data[0].array.shape[1:], data[0].array, 0.0 if b is None else b, w)
        self.field, self.constraint = as_module(field), frozen_unless_traced(data)

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, " c"]:
        """Evaluate at one point."""
        matrix, target, weights = self.constraint.value
        return project(value_of(self.field, x), matrix(x), target(x), weights=None if weights is None else weights(x))


def _check(shape: tuple[int, ...], matrix: Array, target: Any, weights: Array | None) -> None:
    if matrix.ndim < 2 or matrix.shape[1:] != shape:
        raise ValueError(f"`matrix` has shape {matrix.shape}; expected (m, {', '.join(map(str, shape))}).")
    if len(matrix) > np.prod(shape):
        raise ValueError(f"`matrix` has {len(matrix)} rows for {np.prod(shape)} values; expected no more than those.")
    if jnp.shape(target) not in ((), matrix.shape[:1]):
        raise ValueError(f"`target` has shape {jnp.shape(target)}; expected a number or {matrix.shape[:1]}.")
    if weights is not None and weights.shape != shape:
        raise ValueError(f"`weights` have shape {weights.shape}; expected {shape}.")
    if weights is not None and not isinstance(weights, Tracer) and not np.all(np.asarray(weights) > 0):
        raise ValueError("`weights` are not all positive.")
    if isinstance(matrix, jax.Array) and not isinstance(matrix, Tracer):
        rank = np.linalg.matrix_rank(np.asarray(matrix).reshape(len(matrix), -1))
        if rank < len(matrix):
            raise ValueError(f"`matrix` has {len(matrix)} rows of rank {rank}; drop those that the others imply.")
