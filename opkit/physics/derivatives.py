"""Derivatives of a field at a point.

A field is any callable `field(x)` from one point `(d,)` to `(c,)`, in a residual usually a network with time as its
first coordinate. `derivatives` gives all that a residual needs from one evaluation of it; the others are by name what
vector calculus has. All are pure functions of the field and the point, so a derivative is again a field,
`lambda x: gradient(u, x)`, and batches come from `jax.vmap`; all are differentiable in whatever the field holds.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr
from jaxtyping import Array, Float

from solvers import Field

from .taylor import Operator, propagate

Term = int | tuple[int, ...]


def derivatives(
    field: Field,
    x: Float[Array, " d"],
    *wanted: Term | list[Term],
    directions: Float[Array, "m d"] | None = None,
) -> tuple[Float[Array, " c"], ...]:
    """The wanted derivatives of a field at a point, from one evaluation.

    Each of `wanted` is `()` for the value, an axis, a tuple of axes for a derivative of higher or mixed order, or a
    list of such for their sum, which travels as one: a Laplacian costs as much as one second derivative beside the
    first ones. Burgers' residual, with the coordinates `(t, x)`:

        def burgers(field, point):
            u, u_t, u_x, u_xx = derivatives(field, point, (), 0, 1, (1, 1))
            return u_t + u * u_x - 0.01 * u_xx

    and the heat equation's in two dimensions, with `(t, x, y)`:

        u_t, laplacian = derivatives(field, point, 0, [(1, 1), (2, 2)])

    A residual's gradient in the parameters is where one evaluation pays: terms written one by one are merged by the
    compiler going forward, but not on the way back.

    Any operation that JAX can differentiate forward may occur in the field. Of those without a Taylor rule of their own
    (loops, decompositions, functions with a custom derivative) the derivative of order `n` costs `2^n` evaluations.

    **Arguments:** `field`. `x`: the point. `wanted`: axes count from 0. `directions`: with it, `i` stands for the
    derivative along row `i`, in place of axis `i`: with rows `s_i`, `[(0, 0), (1, 1)]` is the sum of `s_i . H s_i`.

    **Returns:** as many arrays `(c,)` as are wanted, in their order.

    **Raises:** `ValueError` if a point or value has not one axis, for an axis that there is not, for an empty list or a
    value in it; what JAX raises, which names the operation, where it cannot differentiate one forward.
    """
    closed = _traced(field, x)
    rows = np.eye(x.size, dtype=x.dtype) if directions is None else directions.astype(x.dtype)
    if rows.ndim != 2 or rows.shape[1] != x.size:
        raise ValueError(f"`directions` has shape {rows.shape}; expected (m, {x.size}): a row each.")
    operators = [None if each == () else _operator(each, len(rows)) for each in wanted]
    value, found = propagate(closed, x, [jnp.asarray(row) for row in rows], [op for op in operators if op is not None])
    return tuple(value if op is None else found.get(op, jnp.zeros_like(value)) for op in operators)


def directional_derivative(
    field: Field, x: Float[Array, " d"], v: Float[Array, " d"], order: int = 1
) -> Float[Array, " c"]:
    """`d^n/ds^n field(x + s v)` at `s = 0`, `n = order`, by Taylor mode: `n + 1` evaluations' worth, not `2^n`.

    **Raises:** `ValueError` for an order below 1 or a `v` of another shape than the point.
    """
    if order < 1:
        raise ValueError(f"`order` is {order}; expected 1 or more.")
    if v.shape != x.shape:
        raise ValueError(f"`v` has shape {v.shape}; expected that of the point `x`, {x.shape}.")
    return derivatives(field, x, (0,) * order, directions=v[None])[0]


def jacobian(field: Field, x: Float[Array, " d"], axes: Sequence[int] | None = None) -> Float[Array, "c k"]:
    """`J_ij = d field_i / d x_(axes_j)`, by default along all axes.

    In reverse if the field has fewer components than there are axes, else forward.

    **Raises:** `ValueError` for axes that there are not, or as `derivatives` does.
    """
    chosen = _axes(axes, x)
    (shape,) = _traced(field, x).out_avals
    if shape.size < len(chosen):
        return jax.jacrev(field)(x)[:, jnp.asarray(chosen)]
    return jnp.stack(derivatives(field, x, *chosen), axis=1)


def gradient(field: Field, x: Float[Array, " d"], axes: Sequence[int] | None = None) -> Float[Array, " k"]:
    """`g_j = d field / d x_(axes_j)` of a field of one component, by default along all axes.

    **Raises:** `ValueError` for a field of several components, or as `jacobian` does.
    """
    rows = jacobian(field, x, axes)
    if len(rows) != 1:
        raise ValueError(
            f"`field` has {len(rows)} components; expected 1: `jacobian` gives the gradients of all, and "
            "`lambda x: field(x)[:1]` is the field of the first."
        )
    return rows[0]


def hessian_vector(field: Field, x: Float[Array, " d"], v: Float[Array, " d"]) -> Float[Array, "c d"]:
    """`H_i v` of each component, `H_i` being its Hessian: forward over reverse, without the Hessian.

    **Raises:** `ValueError` for a `v` of another shape than the point, or as `derivatives` does.
    """
    _traced(field, x)
    if v.shape != x.shape:
        raise ValueError(f"`v` has shape {v.shape}; expected that of the point `x`, {x.shape}.")
    return jax.jvp(jax.jacrev(field), (x,), (v.astype(x.dtype),))[1]


def forward_laplacian(
    field: Field, x: Float[Array, " d"], axes: Sequence[int] | None = None
) -> tuple[Float[Array, " c"], Float[Array, "c k"], Float[Array, " c"]]:
    """The value, the Jacobian and the Laplacian along the axes (by default all), in one pass.

    The cost is that of `k + 2` evaluations, of which `k` are the Jacobian's.

    **Raises:** `ValueError` for axes that there are not, or as `derivatives` does.

    Li et al. (2024), A computational framework for neural network-based variational Monte Carlo with forward Laplacian,
    arXiv:2307.08214.
    """
    chosen = _axes(axes, x)
    value, total, *slopes = derivatives(field, x, (), [(i, i) for i in chosen], *chosen)
    return value, jnp.stack(slopes, axis=1), total


def laplacian(field: Field, x: Float[Array, " d"], axes: Sequence[int] | None = None) -> Float[Array, " c"]:
    """`sum_i d^2 field / d x_i^2` of each component, over all axes or those given: `(1, 2)` of `(t, x, y)`.

    **Raises:** `ValueError` for axes that there are not, or as `derivatives` does.
    """
    return derivatives(field, x, [(i, i) for i in _axes(axes, x)])[0]


def divergence(field: Field, x: Float[Array, " d"], axes: Sequence[int] | None = None) -> Float[Array, ""]:
    """`sum_i d field_i / d x_(axes_i)`: as many components as axes, which by default are all.

    **Raises:** `ValueError` for another number of components, or as `derivatives` does.
    """
    return jnp.trace(_square(field, x, _axes(axes, x)))


def curl(field: Field, x: Float[Array, " d"], axes: Sequence[int] | None = None) -> Float[Array, "..."]:
    """The curl: of three components along three axes a vector `(3,)`, of two along two the number `d_0 v_1 - d_1 v_0`.

    **Raises:** `ValueError` for other numbers of axes or components, or as `derivatives` does.
    """
    chosen = _axes(axes, x)
    if len(chosen) not in (2, 3):
        raise ValueError(f"`axes` are {chosen}; a curl needs two or three: name those of space.")
    j = _square(field, x, chosen)
    if len(chosen) == 2:
        return j[1, 0] - j[0, 1]
    return jnp.stack([j[2, 1] - j[1, 2], j[0, 2] - j[2, 0], j[1, 0] - j[0, 1]])


def _traced(field: Field, x: Array) -> ClosedJaxpr:
    """The field as operations."""
    if x.ndim != 1 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"`x` has shape {x.shape} and dtype {x.dtype}; expected one point (d,) of floats. Batches come from "
            "jax.vmap."
        )
    closed = jax.make_jaxpr(lambda x: field(x))(x)
    shapes = [aval.shape for aval in closed.out_avals]
    if len(shapes) != 1 or len(shapes[0]) != 1:
        raise ValueError(f"`field` returns shapes {shapes}; expected one array (c,), a number being an array (1,).")
    return closed


def _operator(wanted: Term | list[Term], count: int) -> Operator:
    """The sum of ascending monomials that `wanted` stands for, among `count` axes or directions."""
    terms = [(term,) if isinstance(term, int) else term for term in (wanted if isinstance(wanted, list) else [wanted])]
    if not terms or not all(terms):
        raise ValueError(f"`wanted` has {wanted}; expected a sum of derivatives. The value is asked for alone, as ().")
    if not all(0 <= i < count for term in terms for i in term):
        raise ValueError(f"`wanted` has {wanted}; expected axes 0 to {count - 1}.")
    return tuple(sorted(tuple(sorted(term)) for term in terms))


def _axes(axes: Sequence[int] | None, x: Array) -> tuple[int, ...]:
    chosen = tuple(range(x.size)) if axes is None else tuple(axes)
    if not chosen or len(set(chosen)) < len(chosen) or not all(0 <= i < x.size for i in chosen):
        raise ValueError(f"`axes` are {chosen}; expected different ones, from 0 to {x.size - 1}.")
    return chosen


def _square(field: Field, x: Array, axes: tuple[int, ...]) -> Array:
    """The Jacobian, of as many components as axes."""
    j = jacobian(field, x, axes)
    if len(j) != len(axes):
        raise ValueError(
            f"`field` has {len(j)} components and `axes` are {axes}; expected as many of one as of the other: pick "
            "components by `lambda x: field(x)[:2]`, axes by `axes=(1, 2)`."
        )
    return j
