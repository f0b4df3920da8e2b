"""Newton's method by conjugate gradients within a trust region."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from .iterations import iterate


class NewtonCGState(NamedTuple):
    """`radius`: of the trust region. `iterations`: in all.

    `gradients`: what it all cost in gradients, a Hessian-vector product counting two, and a gradient with its value
    one. `stalled`: whether the last update ended because the quadratic model sees no descent beyond rounding.
    """

    radius: Float[Array, ""]
    iterations: Int[Array, ""]
    gradients: Int[Array, ""]
    stalled: Bool[Array, ""]


class _Point(NamedTuple):
    """Where the iteration is."""

    params: Float[Array, " n"]
    value: Float[Array, ""]
    gradient: Float[Array, " n"]
    state: NewtonCGState


class _Search(NamedTuple):
    """Conjugate gradients on the quadratic model: the `step` so far, and `image`, the Hessian's product with it."""

    step: Array
    image: Array
    residual: Array
    direction: Array
    products: Array
    bounded: Array  # whether the step ends on the boundary


def newton_cg(
    *, iterations: int = 1, radius: float = 1.0, max_steps: int = 200
) -> optax.GradientTransformationExtraArgs:
    """Minimise by truncated Newton steps, which the trust region bounds: the method of Steihaug and Toint.

    The quadratic model `g^T s + s^T H s / 2` is minimised by conjugate gradients on Hessian-vector products, until
    their residual is below `min(1/2, sqrt |g|) |g|`; where they leave `|s| <= radius`, or find a direction of negative
    curvature, the step goes along it to the boundary. It is taken if the value falls. The radius becomes a quarter of
    the step where the value falls by less than a quarter of the model's promise, and doubles where by more than three
    quarters and the step ends on the boundary.

    It is a transformation of Optax's that needs the value and the function: in `make_train_step`, and so in `fit`,
    they are passed. One update takes `iterations` steps, rejected ones included, on the batch it is given. It holds
    some ten vectors of the parameters' size, and works in any precision.

    **Arguments:** `radius`: the first. `max_steps`: the most products a step.

    **Raises:** `ValueError` for counts below one, or a radius that is not positive.

    Steihaug (1983), The conjugate gradient method and trust regions in large scale optimization,
    doi:10.1137/0720042; Nocedal and Wright (2006), Numerical optimization, algorithms 4.1 and 7.2.
    """
    if iterations < 1 or max_steps < 1:
        raise ValueError(f"`iterations` is {iterations} and `max_steps` {max_steps}; expected 1 or more of each.")
    if not radius > 0:
        raise ValueError(f"`radius` is {radius}; expected a positive length.")

    def init(params: PyTree) -> NewtonCGState:
        dtype = jnp.result_type(*jax.tree.leaves(params))
        zero = jnp.zeros((), jnp.int32)
        return NewtonCGState(jnp.asarray(radius, dtype), zero, zero, jnp.array(False))

    def update(
        updates: PyTree,
        state: Any,
        params: PyTree | None = None,
        *,
        value: Float[Array, ""] | None = None,
        value_fn: Callable[[PyTree], Float[Array, ""]] | None = None,
        **unused: Any,
    ) -> tuple[PyTree, NewtonCGState]:
        if params is None or value is None or value_fn is None:
            raise ValueError(
                "`params`, `value` or `value_fn` is None; newton_cg needs the parameters, the value there, and the "
                "function: pass them to `update`."
            )
        start, unravel = ravel_pytree(params)
        function = lambda flat: value_fn(unravel(flat)).astype(start.dtype)
        state = state._replace(gradients=state.gradients + 1, stalled=jnp.array(False))

        first = _Point(start, value.astype(start.dtype), ravel_pytree(updates)[0], state)
        last = iterate(lambda point: _iterate(point, function, max_steps), first, iterations)
        return unravel(last.params - start), last.state

    return optax.GradientTransformationExtraArgs(init, update)


def _iterate(point: _Point, function: Callable[[Array], Array], max_steps: int) -> _Point:
    """One step within the region, taken or not."""
    params, value, gradient, state = point
    _, product = jax.linearize(jax.grad(function), params)
    search = _steihaug(product, gradient, state.radius, max_steps)
    predicted = -(gradient + search.image / 2) @ search.step
    found, ahead = jax.value_and_grad(function)(params + search.step)
    gain = (value - found) / predicted
    lower = (found < value) & jnp.all(jnp.isfinite(ahead))
    length = jnp.linalg.norm(search.step)
    poor = ~(gain >= 0.25)  # also where it is not a number
    radius = jnp.where((gain > 0.75) & search.bounded, 2 * state.radius, state.radius)
    eps = jnp.finfo(params.dtype).eps
    after = NewtonCGState(
        radius=jnp.where(poor, length / 4, radius),
        iterations=state.iterations + 1,
        gradients=state.gradients + 2 * search.products + 1,
        stalled=~(predicted > eps * jnp.abs(value)),
    )
    pick = lambda new, old: jnp.where(lower, new, old)
    return _Point(pick(params + search.step, params), pick(found, value), pick(ahead, gradient), after)


def _steihaug(product: Callable[[Array], Array], gradient: Array, radius: Array, max_steps: int) -> _Search:
    """Minimise the quadratic model within the radius, more or less."""
    norm = jnp.linalg.norm(gradient)
    target = jnp.minimum(0.5, jnp.sqrt(norm)) * norm

    def going(search: _Search) -> Array:
        return ~search.bounded & (search.products < max_steps) & (jnp.linalg.norm(search.residual) > target)

    def iterate(search: _Search) -> _Search:
        step, image, residual, direction, products, _ = search
        moved = product(direction)
        curvature, squared = direction @ moved, residual @ residual
        length = squared / curvature
        bounded = ~(curvature > 0) | (jnp.linalg.norm(step + length * direction) >= radius)
        length = jnp.where(bounded, _to_boundary(step, direction, radius), length)
        following = residual + length * moved
        return _Search(
            step + length * direction,
            image + length * moved,
            following,
            (following @ following) / squared * direction - following,
            products + 1,
            bounded,
        )

    zero = jnp.zeros_like(gradient)
    start = _Search(zero, zero, gradient, -gradient, jnp.zeros((), jnp.int32), jnp.array(False))
    return lax.while_loop(going, iterate, start)


def _to_boundary(step: Array, direction: Array, radius: Array) -> Array:
    """The positive `t` with `|step + t direction| = radius`."""
    a, b, c = direction @ direction, step @ direction, step @ step - radius**2
    return (jnp.sqrt(jnp.maximum(b**2 - a * c, 0)) - b) / a
