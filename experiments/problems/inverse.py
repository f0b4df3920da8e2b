"""What inverse problems share: a Gaussian prior in coordinates where it is a standard normal, the posterior's variance,
and L-BFGS."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from opkit.training import Run
from solvers import Grid, Spectrum

FieldMap = Callable[[Float[Array, " *k"]], Float[Array, " *n"]]


def whitened(grid: Grid, spectrum: Spectrum, *, basis: Literal["periodic", "neumann"], modes: int) -> FieldMap:
    """The linear map from coefficients `xi: (modes,) * d` to the field `sum_k sqrt(S(lambda_k)) xi_k phi_k` on `grid`.

    Where `xi` is standard normal, the field is what `gaussian_random_field` draws with the same arguments.
    """
    tables = []
    for x, lower, extent in zip(grid.axes(), grid.lower, grid.extent, strict=True):
        q = np.arange(modes) if basis == "neumann" else (np.arange(modes) + 1) // 2
        k = np.pi * q / extent * (1 if basis == "neumann" else 2)
        angle = np.outer(np.asarray(x, np.float64) - lower, k)
        sines = np.zeros(modes, bool) if basis == "neumann" else np.arange(modes) % 2 == 0
        values = np.where(q == 0, 1, np.sqrt(2) * np.where(sines, np.sin(angle), np.cos(angle)))
        tables.append((k**2, jnp.asarray(values)))
    deviation = jnp.sqrt(spectrum(jnp.asarray(sum(np.ix_(*(eigenvalues for eigenvalues, _ in tables))))))

    def field(coefficients: Float[Array, " *k"]) -> Float[Array, " *n"]:
        u = deviation.astype(coefficients.dtype) * coefficients
        for _, values in tables:
            u = jnp.tensordot(u, values.astype(u.dtype), axes=(0, 1), precision=jax.lax.Precision.HIGHEST)
        return u

    return field


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
