"""What becomes of samples whose solve failed: left out and counted, or the end of training."""

from typing import Any, Literal, get_args

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from solvers import VectorField

Policy = Literal["skip", "stop"]


def judge_solves(
    losses: Float[Array, " n"], result: Any, *, policy: Policy = "skip"
) -> tuple[Float[Array, " n"], Bool[Array, " n"], dict[str, Float[Array, ""]]]:
    """`(losses, solved, metrics)`: which samples count, by the result code of their solves.

    A solve that failed has a value nevertheless, where it stopped: its loss is finite and means nothing. So an
    objective asks here, and masks:

        def sample(x, y):
            out = model(x)
            return loss(out.ys[-1], y), out.penalty, out.solution.result

        losses, penalties, result = jax.vmap(sample)(*batch)
        losses, solved, metrics = judge_solves(losses, result)
        terms = {"data": Term(losses, "losses", mask=solved), "penalty": Term(penalties, "losses", mask=solved)}

    `metrics` is `{"unsolved": number of samples left out}`; a solve that an event ended is none of them, one whose loss
    is not finite is. By `policy`, `"skip"` leaves the losses of such samples to the mask, and `"stop"` has all count
    and makes theirs infinite, at which `opkit.training.fit` stops with `NonFiniteLoss` and their number.

    The gradient of what a mask excludes is zero, but `0 * inf` is not: `contain` a vector field that can overflow.

    **Arguments:** `losses`: one a sample. `result`: Diffrax's code, one a sample, or one for a batch solved as a whole;
    or booleans, where true stands for solved.

    **Raises:** `ValueError` for another policy.
    """
    if policy not in get_args(Policy):
        raise ValueError(f"`policy` is {policy!r}; expected one of {get_args(Policy)}.")
    okay = diffrax.is_okay(result) if isinstance(result, diffrax.RESULTS) else jnp.asarray(result)
    solved = jnp.broadcast_to(okay, losses.shape) & jnp.isfinite(losses)
    metrics = {"unsolved": jnp.sum(~solved, dtype=losses.dtype)}
    if policy == "stop":
        return jnp.where(solved, losses, jnp.inf), jnp.ones_like(solved), metrics
    return losses, solved, metrics


def contain(vector_field: VectorField, at: PyTree) -> VectorField:
    """The vector field, but where it is not finite it is NaN, at which solvers with error control reject the step, and
    its derivatives are zero.

    Such steps, which ordinary solves reject now and then, and failing ones without end, have no part in the solution;
    in its gradient the cotangent zero meets an infinite derivative, and NaN comes out, of the parameters that all
    samples share. Costs a second evaluation, without its derivative.

    **Arguments:** `vector_field`: `f(t, y, args)`. `at`: a state where it is finite, such as the initial one.
    """

    def contained(t: Any, y: PyTree, args: PyTree) -> PyTree:
        slope = jax.lax.stop_gradient(vector_field(t, y, args))
        finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves((y, slope))]))
        inside = jax.tree.map(lambda a, b: jnp.where(finite, a, b), y, at)
        return jax.tree.map(lambda k: jnp.where(finite, k, jnp.nan), vector_field(t, inside, args))

    return contained
