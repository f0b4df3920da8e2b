"""Gauss-Newton methods for objectives of residuals: Levenberg-Marquardt and the energy natural gradient."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import lineax as lx
import optax
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from solvers import PreconditionedCG

from ..terms import Loss, residual_vector
from .iterations import iterate
from .least_squares import TermsFn, normal_equations, residual_jacobian, residual_products
from .quasi_newton import require_double

Damping = Literal["levenberg_marquardt", "fixed"]
Solve = Literal["dense", "kernel", "matrix_free"]

_STRENGTH = {"levenberg_marquardt": 1e-3, "fixed": 1e-10}


class GaussNewtonState(NamedTuple):
    """`damping`: `lambda`, of the next step under `"levenberg_marquardt"`, else of the last. `iterations`: in all.

    `stalled`: whether the last update ended because no trial lowered the value.
    """

    damping: Float[Array, ""]
    iterations: Int[Array, ""]
    stalled: Bool[Array, ""]


class _Point(NamedTuple):
    """Where the iteration is."""

    params: Float[Array, " n"]
    value: Float[Array, ""]
    state: GaussNewtonState


class _System(NamedTuple):
    """The linear least-squares problem of an iteration, in parameters divided by `scale`.

    `residual`: `r`. `gradient`: `J^T r`. `squared`: `v -> |J v|^2`. `solver`: `lambda -> (w -> -(J^T J + lambda)^-1 J^T
    w)`.
    """

    residual: Float[Array, " rows"]
    gradient: Float[Array, " n"]
    scale: Float[Array, " n"]
    squared: Callable[[Array], Array]
    solver: Callable[[Array], Callable[[Array], Array]]


def gauss_newton(
    damping: Damping = "levenberg_marquardt",
    *,
    strength: float | None = None,
    solve: Solve | None = None,
    scaled: bool = False,
    acceleration: bool = True,
    iterations: int = 1,
    trials: int = 20,
    chunk: int | None = None,
    tolerance: float = 1e-4,
    max_steps: int = 200,
) -> optax.GradientTransformationExtraArgs:
    """Minimise `|r(p)|^2` by steps `-(J^T J + lambda D)^-1 J^T r`, `J` the Jacobian of the residuals `r`.

    `damping` says how `lambda` is chosen, and the step with it:

    - `"levenberg_marquardt"`: it falls by up to 3 after a step that does as well as the linear model says; while the
      value does not fall, it grows by 2, 4, 8, ... and the step is tried again. At first it is `strength` (1e-3) times
      the curvature along the gradient `g`, `|J g|^2 / |g|^2`. With `acceleration`, the step `s` follows the bend of
      the residuals: to it comes `a = -(J^T J + lambda D)^-1 J^T r'' / 2`, `r''` their second derivative along `s`,
      where `2 |a| <= 0.75 |s|`. A network's valleys are narrow and bent: losses fall several orders lower.
    - `"fixed"`: it is `strength` (1e-10), and the step is the best of its multiples by 1, 1/2, 1/4, ...: the energy
      natural gradient, whose matrix is `J^T J` for energies that are squares.

    A step to a value that is higher or not finite is never taken; where all trials end there, the update does too
    (`stalled`). `solve` says how the step is computed; by default by the smaller of two matrices:

    - `"dense"`: a Cholesky factorisation of `J^T J + lambda`, parameters squared;
    - `"kernel"`: one of `J J^T + lambda`, the tangent kernel, residuals squared; the step is the same;
    - `"matrix_free"`: conjugate gradients on products with `J`, a forward and a backward pass each.

    It is a transformation of Optax's that needs the value and the function, as a `Loss`: in `make_train_step`, and so
    in `fit`, they are passed. Make terms by `Term.of`: else the Jacobian costs a pass over the batch for each of its
    rows or columns. One update takes `iterations` steps on the batch it is given. Optimistix has Levenberg-Marquardt
    too, but it differentiates the residual as a whole, and its state holds the linearised function, which no
    checkpoint can. For networks too large for these, there is `optax.lbfgs`.

    **Arguments:** `scaled`: `D` is the diagonal of `J^T J` instead of one. `acceleration`: needs residuals that can be
    differentiated forwards, and a second solve, which without a matrix is as costly as the first. `trials`: the most
    values of `lambda`, or multiples, an iteration tries. `chunk`: as in `residual_jacobian`. `tolerance`, `max_steps`:
    of the conjugate gradients: where the residual over the right-hand side ends them, and after how many.

    **Raises:** `ValueError` for another damping or solve, for `strength` below zero, the counts below one, and for a
    `scaled` matrix-free solve; from `init` for parameters that are not in float64, in whose rounding the normal
    equations drown (`"matrix_free"` takes any); when traced, for a term of losses.

    Madsen, Nielsen and Tingleff (2004), Methods for non-linear least squares problems, algorithm 3.16; Transtrum and
    Sethna (2012), Improvements to the Levenberg-Marquardt algorithm for nonlinear least-squares minimization,
    arXiv:1201.5885; Müller and Zeinhofer (2023), Achieving high accuracy with PINNs via energy natural gradient
    descent, arXiv:2302.13163.
    """
    if damping not in get_args(Damping):
        raise ValueError(f"`damping` is {damping!r}; expected one of {get_args(Damping)}.")
    if solve is not None and solve not in get_args(Solve):
        raise ValueError(f"`solve` is {solve!r}; expected one of {get_args(Solve)}, or None.")
    if min(iterations, trials, max_steps) < 1:
        raise ValueError(
            f"`iterations` is {iterations}, `trials` {trials} and `max_steps` {max_steps}; expected 1 or more of each."
        )
    strength = _STRENGTH[damping] if strength is None else strength
    if strength < 0:
        raise ValueError(f"`strength` is {strength}; expected a damping that is not negative.")
    if scaled and solve == "matrix_free":
        raise ValueError("`scaled` needs the diagonal of `J^T J`, which a matrix-free solve never has; drop one.")

    def init(params: PyTree) -> GaussNewtonState:
        if solve != "matrix_free":
            require_double(params)
        dtype = jnp.result_type(*jax.tree.leaves(params))
        return GaussNewtonState(jnp.zeros((), dtype), jnp.zeros((), jnp.int32), jnp.array(False))

    def system(terms_fn: TermsFn, params: PyTree) -> _System:
        if solve == "matrix_free":
            return _matrix_free(terms_fn, params, tolerance, max_steps)
        rows = jax.eval_shape(lambda: residual_vector(terms_fn(params))).size
        columns = sum(leaf.size for leaf in jax.tree.leaves(params))
        dense = columns <= rows if solve is None else solve == "dense"
        return (_dense if dense else _kernel)(terms_fn, params, chunk, scaled)

    def update(
        updates: PyTree,
        state: Any,
        params: PyTree | None = None,
        *,
        value: Float[Array, ""] | None = None,
        value_fn: Callable[[PyTree], Float[Array, ""]] | None = None,
        **unused: Any,
    ) -> tuple[PyTree, GaussNewtonState]:
        if params is None or value is None or not isinstance(value_fn, Loss):
            raise ValueError(
                "`params` or `value` is None, or `value_fn` no `Loss`; gauss_newton needs the parameters, the value "
                "there, and the objective's terms as their function: pass `value_fn=Loss(terms_fn)` to `update`."
            )
        start, unravel = ravel_pytree(params)
        function = lambda flat: value_fn(unravel(flat)).astype(start.dtype)
        residuals = lambda flat: residual_vector(value_fn.terms_fn(unravel(flat)))

        def onwards(point: _Point) -> _Point:
            here, value, state = point
            linear = system(value_fn.terms_fn, unravel(here))
            if damping == "levenberg_marquardt":
                first = strength * _curvature(linear)
                before = jnp.where(state.iterations == 0, first, state.damping)
                bend = (lambda step: _second(residuals, here, step)) if acceleration else None
                step, found, after = _levenberg_marquardt(linear, function, bend, here, value, before, trials)
            else:
                after = jnp.asarray(strength, start.dtype)
                step, found = _line_search(linear, function, here, value, after, trials)
            stalled = ~(found < value)
            return _Point(here + step, found, GaussNewtonState(after, state.iterations + 1, stalled))

        begin = _Point(start, value.astype(start.dtype), state._replace(stalled=jnp.array(False)))
        last = iterate(onwards, begin, iterations)
        return unravel(last.params - start), last.state

    return optax.GradientTransformationExtraArgs(init, update)


def _levenberg_marquardt(
    system: _System,
    function: Callable,
    bend: Callable[[Array], Array] | None,
    params: Array,
    value: Array,
    damping: Array,
    trials: int,
) -> tuple[Array, Array, Array]:
    """The step, zero if none lowers the value; the value after it, and the damping of the next."""
    eps = jnp.finfo(params.dtype).eps
    # below this the matrix is singular in rounding
    damping = jnp.maximum(damping, eps * _curvature(system))

    def attempt(carry: tuple) -> tuple:
        tried, count, _, _, _ = carry
        solver = system.solver(tried)
        step = solver(system.residual)
        predicted = -(2 * system.gradient @ step + system.squared(step))
        if bend is not None:
            more = solver(bend(system.scale * step)) / 2
            small = 2 * jnp.linalg.norm(more) <= 0.75 * jnp.linalg.norm(step)
            step = jnp.where(small, step + more, step)
        found = function(params + system.scale * step)
        lower = (found < value) & jnp.all(jnp.isfinite(step))
        gain = jnp.clip((value - found) / predicted, 0, 1)
        factor = jnp.where(lower, jnp.maximum(1 / 3, 1 - (2 * gain - 1) ** 3), 2 ** (count + 1))
        following = factor.astype(tried.dtype) * tried
        # what the model itself does not see falling will not be seen to fall
        finished = lower | (predicted <= eps * value)
        return following, count + 1, jnp.where(lower, system.scale * step, 0), jnp.where(lower, found, value), finished

    going = lambda carry: (carry[1] < trials) & ~carry[4]
    start = (damping, jnp.zeros((), jnp.int32), jnp.zeros_like(params), value, jnp.array(False))
    following, _, step, found, _ = lax.while_loop(going, attempt, start)
    return step, found, jnp.where(found < value, following, damping)


def _line_search(
    system: _System, function: Callable, params: Array, value: Array, damping: Array, trials: int
) -> tuple[Array, Array]:
    """The multiple of the step with the least value, and that; zero if none lowers it."""
    step = system.scale * system.solver(damping)(system.residual)
    lengths = 0.5 ** jnp.arange(trials, dtype=params.dtype)
    values = lax.map(lambda length: function(params + length * step), lengths)
    values = jnp.where(jnp.isfinite(values), values, jnp.inf)
    best = jnp.argmin(values)
    lower = (values[best] < value) & jnp.all(jnp.isfinite(step))
    return jnp.where(lower, lengths[best] * step, 0), jnp.where(lower, values[best], value)


def _curvature(system: _System) -> Array:
    """`|J g|^2 / |g|^2`, a scale of the eigenvalues of `J^T J` that every way of solving has; one for no gradient."""
    squared = jnp.sum(system.gradient**2)
    some = squared > 0
    return jnp.where(some, system.squared(system.gradient) / jnp.where(some, squared, 1), 1)


def _dense(terms_fn: TermsFn, params: PyTree, chunk: int | None, scaled: bool) -> _System:
    residual, _, pull = residual_products(terms_fn, params)
    matrix, gradient = normal_equations(terms_fn, params, chunk=chunk)
    scale = _scale(jnp.diagonal(matrix), scaled)
    matrix = matrix * jnp.outer(scale, scale)

    def solver(damping: Array) -> Callable[[Array], Array]:
        solve = _cholesky(matrix, damping)
        return lambda w: -solve(scale * pull(w))

    return _System(residual, scale * gradient, scale, lambda v: v @ matrix @ v, solver)


def _kernel(terms_fn: TermsFn, params: PyTree, chunk: int | None, scaled: bool) -> _System:
    residual = residual_vector(terms_fn(params))
    jacobian = residual_jacobian(terms_fn, params, chunk=chunk)
    scale = _scale(jnp.sum(jacobian**2, 0), scaled)
    jacobian = jacobian * scale
    kernel = jacobian @ jacobian.T

    def solver(damping: Array) -> Callable[[Array], Array]:
        solve = _cholesky(kernel, damping)
        return lambda w: -jacobian.T @ solve(w)

    return _System(residual, jacobian.T @ residual, scale, lambda v: jnp.sum((jacobian @ v) ** 2), solver)


def _matrix_free(terms_fn: TermsFn, params: PyTree, tolerance: float, max_steps: int) -> _System:
    residual, push, pull = residual_products(terms_fn, params)
    gradient = pull(residual)
    shape = jax.eval_shape(lambda: gradient)
    options = {"preconditioner": lx.IdentityLinearOperator(shape)}
    method = PreconditionedCG(tolerance, max_steps)

    def solver(damping: Array) -> Callable[[Array], Array]:
        damped = lambda v: pull(push(v)) + damping * v
        operator = lx.FunctionLinearOperator(damped, shape, lx.positive_semidefinite_tag)
        return lambda w: -lx.linear_solve(operator, pull(w), method, options=options, throw=False).value

    return _System(residual, gradient, jnp.ones_like(gradient), lambda v: jnp.sum(push(v) ** 2), solver)


def _second(function: Callable[[Array], Array], x: Array, v: Array) -> Array:
    """The second derivative of `function` at `x` along `v`."""
    slope = lambda x: jax.jvp(function, (x,), (v,))[1]
    return jax.jvp(slope, (x,), (v,))[1]


def _scale(diagonal: Array, scaled: bool) -> Array:
    if not scaled:
        return jnp.ones_like(diagonal)
    least = jnp.finfo(diagonal.dtype).eps * jnp.max(diagonal)
    return 1 / jnp.sqrt(jnp.where(least > 0, jnp.maximum(diagonal, least), 1))


def _cholesky(matrix: Array, damping: Array) -> Callable[[Array], Array]:
    """The solve with `matrix + damping`; not a number where that is not positive definite in rounding."""
    factor = jax.scipy.linalg.cho_factor(matrix + damping * jnp.eye(len(matrix), dtype=matrix.dtype))
    return lambda vector: jax.scipy.linalg.cho_solve(factor, vector)
