"""What inverse problems with a prior that is standard normal in its coordinates share: the posterior's variance, and
L-BFGS."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from opkit.training import Run


def posterior_variance(
    quantity: Callable[[Float[Array, " p"]], Float[Array, "..."]], jacobian: Float[Array, "m p"]
) -> Float[Array, "..."]:
    """The variance of a linear `quantity(xi)` under the Gaussian posterior `(I + J^T J)^-1` of `xi` about its mode.

    `J = jacobian` is that of the `m` observations in units of their noise, at the mode: Laplace's approximation.
    """
    prior = jnp.sum(jax.vmap(quantity)(jnp.eye(jacobian.shape[1], dtype=jacobian.dtype)) ** 2, 0)
    seen = jax.vmap(quantity)(jacobian)
    gram = jacobian @ jacobian.T + jnp.eye(len(jacobian), dtype=jacobian.dtype)
    explained = jnp.linalg.solve(gram, seen.reshape(len(jacobian), -1)).reshape(seen.shape)
    return prior - jnp.sum(seen * explained, 0)


def lbfgs(loss: Callable[[PyTree], Float[Array, ""]], start: PyTree, steps: int, run: Run) -> PyTree:
    """`steps` steps of Optax's L-BFGS with its line search; every tenth loss goes into the log."""
    optimiser = optax.lbfgs(memory_size=30)
    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry: Any, _: None) -> tuple[Any, Any]:
        x, state = carry
        value, gradient = value_and_grad(x, state=state)
        updates, state = optimiser.update(gradient, state, x, value=value, grad=gradient, value_fn=loss)
        return (optax.apply_updates(x, updates), state), value

    (x, _), losses = jax.jit(lambda carry: jax.lax.scan(step, carry, length=steps))((start, optimiser.init(start)))
    for i in range(0, steps, 10):
        run.log(i, {"loss": float(losses[i])}, stage="lbfgs")
    return x


def jacobian_by_rows(function: Callable[[Float[Array, " p"]], Float[Array, " m"]], x: Array) -> Float[Array, "m p"]:
    """The Jacobian in reverse mode, a few rows at a time: what lies between takes the memory of those."""
    value, pull = jax.vjp(function, x)
    return jax.lax.map(lambda row: pull(row)[0], jnp.eye(len(value), dtype=value.dtype), batch_size=32)
