"""Dense quasi-Newton methods for networks of a few thousand parameters."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from .iterations import iterate

Method = Literal["self_scaled_broyden", "self_scaled_bfgs", "bfgs"]


class QuasiNewtonState(NamedTuple):
    """`inverse`: the approximation of the inverse Hessian. `fresh`: whether that is still the identity.

    `iterations`: in all. `evaluations`: of the value and gradient in line searches, in all. `stalled`: whether the last
    update ended because no direction leads down.
    """

    inverse: Float[Array, "n n"]
    fresh: Bool[Array, ""]
    iterations: Int[Array, ""]
    evaluations: Int[Array, ""]
    stalled: Bool[Array, ""]


class _Point(NamedTuple):
    """Where the iteration is."""

    params: Float[Array, " n"]
    value: Float[Array, ""]
    gradient: Float[Array, " n"]
    state: QuasiNewtonState


def quasi_newton(
    method: Method = "self_scaled_broyden",
    *,
    iterations: int = 1,
    logarithm: bool = False,
    restart: bool = False,
    linesearch_steps: int = 20,
) -> optax.GradientTransformationExtraArgs:
    """Minimise by a dense approximation of the inverse Hessian and a line search with the strong Wolfe conditions.

    With `s` the step, `y` the change of the gradient, `H` the approximation, and `v = s / sy - H y / yHy`, the next
    one is `(H - H y y^T H / yHy + phi yHy v v^T) / tau + s s^T / sy`: `phi = tau = 1` for `"bfgs"`; `phi = 1` and
    `tau = min(1, sy / sBs)`, `B` the inverse of `H`, for `"self_scaled_bfgs"`; `"self_scaled_broyden"` chooses `phi`
    too. Where `sy` is not positive `H` stays. Where no step along the direction lowers the value, `H` begins afresh
    with the identity; where that fails too, the update ends (`stalled`).

    It is a transformation of Optax's that needs the value, the gradient and the function along a line: in
    `make_train_step`, and so in `fit`, they are passed. One update takes `iterations` steps **on the batch it is
    given**: an objective that draws its points from the key is minimised on the same points for that long, and the next
    update goes on from its `H` on new ones, unless `restart`.

    **Arguments:** `logarithm`: minimise the logarithm of the value, which must be positive: its curvature does not
    fade with the loss. `linesearch_steps`: the most evaluations a line search takes. Memory: `n^2` numbers and as much
    again for the next; where that is too much, `optax.lbfgs` keeps a few pairs of `s` and `y` instead.

    **Raises:** `ValueError` for another method, for `iterations` or `linesearch_steps` below one; from `init` for
    parameters that are not in float64, in whose rounding `y` drowns long before a minimum.

    Urban, Stefanou and Pons (2024), Unveiling the optimization process of physics informed neural networks,
    arXiv:2405.04230, equations 10 to 23; Al-Baali and Khalfan (2005), Wide interval for efficient self-scaling
    quasi-Newton algorithms, doi:10.1080/10556780410001709448; Nocedal and Wright (2006), Numerical optimization, 6.1.
    """
    if method not in get_args(Method):
        raise ValueError(f"`method` is {method!r}; expected one of {get_args(Method)}.")
    if iterations < 1 or linesearch_steps < 1:
        raise ValueError(
            f"`iterations` is {iterations} and `linesearch_steps` {linesearch_steps}; expected 1 or more of each."
        )
    search = optax.scale_by_zoom_linesearch(linesearch_steps, initial_guess_strategy="one")

    def init(params: PyTree) -> QuasiNewtonState:
        require_double(params)
        size = sum(leaf.size for leaf in jax.tree.leaves(params))
        zero = jnp.zeros((), jnp.int32)
        return QuasiNewtonState(jnp.eye(size), jnp.array(True), zero, zero, jnp.array(False))

    def update(
        updates: PyTree,
        state: Any,
        params: PyTree | None = None,
        *,
        value: Float[Array, ""] | None = None,
        value_fn: Callable[[PyTree], Float[Array, ""]] | None = None,
        **unused: Any,
    ) -> tuple[PyTree, QuasiNewtonState]:
        if params is None or value is None or value_fn is None:
            raise ValueError(
                "`params`, `value` or `value_fn` is None; quasi_newton searches along a line: it needs the "
                "parameters, the value there, and the function: pass them to `update`."
            )
        start, unravel = ravel_pytree(params)
        gradient = ravel_pytree(updates)[0]
        function = lambda flat: value_fn(unravel(flat))
        if logarithm:
            function = lambda flat: jnp.log(value_fn(unravel(flat)))
            value, gradient = jnp.log(value), gradient / value
        inverse, fresh = state.inverse, state.fresh
        if restart:
            inverse, fresh = jnp.eye(len(start)), jnp.array(True)
        state = state._replace(inverse=inverse, fresh=fresh, stalled=jnp.array(False))

        first = _Point(start, value, gradient, state)
        last = iterate(lambda point: _iterate(point, search, function, method), first, iterations)
        return unravel(last.params - start), last.state

    return optax.GradientTransformationExtraArgs(init, update)


def require_double(params: PyTree) -> None:
    """`ValueError` unless all parameters are in float64."""
    kinds = {str(leaf.dtype) for leaf in jax.tree.leaves(params)}
    if kinds != {"float64"}:
        raise ValueError(
            f"`params` are of {', '.join(sorted(kinds))}; dense second-order methods need float64: enable it "
            "(jax.config.update('jax_enable_x64', True)) before the model is made."
        )


def _iterate(
    point: _Point, search: optax.GradientTransformationExtraArgs, function: Callable, method: Method
) -> _Point:
    """One direction, line search and update."""
    params, value, gradient, state = point
    direction = -state.inverse @ gradient
    # the first step of the identity is no longer than one
    scale = 1 / jnp.maximum(jnp.linalg.norm(gradient), 1)
    direction = jnp.where(state.fresh, direction * scale, direction)
    ahead: Any = search.update(direction, search.init(params), params, value=value, grad=gradient, value_fn=function)
    step, found = ahead
    lower = jnp.isfinite(found.value) & (found.value < value) & jnp.all(jnp.isfinite(found.grad))
    change = found.grad - gradient
    inverse = _next_inverse(state.inverse, state.fresh, step, change, gradient, found.learning_rate, method)
    size = len(params)
    after = QuasiNewtonState(
        inverse=jnp.where(lower, inverse, jnp.eye(size)),
        fresh=~lower | (state.fresh & (step @ change <= 0)),
        iterations=state.iterations + 1,
        evaluations=state.evaluations + jnp.int32(found.info.num_linesearch_steps),
        stalled=~lower & state.fresh,
    )
    pick = lambda new, old: jnp.where(lower, new, old)
    return _Point(pick(params + step, params), pick(found.value, value), pick(found.grad, gradient), after)


def _next_inverse(
    inverse: Array, fresh: Array, step: Array, change: Array, gradient: Array, rate: Array, method: Method
) -> Array:
    """The inverse Hessian after a step; as it was where the curvature along the step is not positive."""
    along = step @ change
    good = along > 0
    safe = lambda x: jnp.where(good, x, 1)
    along = safe(along)
    # the first approximation: the curvature of the first step in all directions
    first = along / safe(change @ change)
    inverse = jnp.where(fresh & good, first, 1) * inverse
    moved = inverse @ change
    h = safe(change @ moved) / along
    # s B s / s y, with B s = - rate * gradient (after the first scaling: the identity over `first`)
    b = jnp.where(fresh, (step @ step) / first, -rate * (step @ gradient)) / along
    phi, tau = _coefficients(h, safe(b), len(step), method)
    other = step / along - moved / (h * along)
    following = (
        inverse - jnp.outer(moved, moved) / (h * along) + (phi * h * along) * jnp.outer(other, other)
    ) / tau + jnp.outer(step, step) / along
    return jnp.where(good & jnp.isfinite(tau) & (tau > 0), following, inverse)


def _coefficients(h: Array, b: Array, size: int, method: Method) -> tuple[Array, Array]:
    """`phi` and `tau`, from `h = y H y / s y` and `b = s B s / s y`."""
    if method == "bfgs":
        return jnp.ones_like(h), jnp.ones_like(h)
    if method == "self_scaled_bfgs":
        return jnp.ones_like(h), jnp.minimum(1, 1 / b)
    a = jnp.maximum(h * b - 1, jnp.finfo(h.dtype).eps)  # not negative, by Cauchy and Schwarz
    low = jnp.minimum(1, h * (1 - jnp.sqrt(a / (1 + a))))
    theta = jnp.maximum((low - 1) / a, jnp.minimum(1 / low, (1 - b) / b))
    sigma = 1 + theta * a
    root = jnp.abs(sigma) ** (-1 / max(size - 1, 1))
    scale = jnp.minimum(1, 1 / b)
    tau = jnp.where(
        theta > 0,
        scale * jnp.minimum(root, 1 / jnp.where(theta > 0, theta, 1)),
        jnp.minimum(scale * root, sigma),
    )
    return (1 - theta) / sigma, tau
