"""Classical steppers inside training: corrected by a network, telling it what its own states should become, or what
its states leave of an equation."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from solvers import Domain, Frozen, Operator, Stepper

from ..terms import Objective, Term
from .unrolled import SampleLoss
from .windows import per_window, unroll


class Corrected(eqx.Module):
    """`v + op(v)`, `v = step(u)`: a coarse stepper and a learned correction of it, itself an operator.

    The stepper is differentiated but not trained: unrolled over several steps, the correction sees how its states fare
    in the solver. Any recipe trains it.

    **Arguments:** `step`: on the grid of `u`, such as `ETDRK` or `repeat(stepper, 4)`. `op`: to as many channels.

    Um et al. (2020), Solver-in-the-loop: learning from differentiable physics to interact with iterative PDE-solvers,
    arXiv:2007.00016.
    """

    step: Frozen[Any]
    op: Operator

    def __init__(self, step: Stepper, op: Operator):
        self.step, self.op = Frozen(step), op

    def __call__(
        self,
        u: Float[Array, "c *n"],
        domain: Domain,
        query: Domain | None = None,
        *,
        args: PyTree = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "c *n"]:
        """The state one step later."""
        v = self.step.value(u)
        return v + self.op(v, domain, query, args=args, key=key)


def diverted(
    loss: SampleLoss,
    domain: Domain | None,
    reference: Stepper,
    *,
    steps: int,
    cut_reference: bool = False,
    remat: bool = False,
) -> Objective:
    """The mean of `loss(v_{i+1}, reference(v_i), domain)` along the model's own states `v_0 = u, v_1, ..., v_steps`.

    The solver answers where the model has got to, not where it should have been (diverted chain). It needs initial
    states alone, windows of one; batches and models are those of `windows`.

    **Arguments:** `reference`: the solver over the model's step of time. `cut_reference`: no gradient through it, so it
    need have none. `remat`: see `unroll`.

    **Raises:** `ValueError` for `steps` below 1.

    Koehler et al. (2024), APEBench: a benchmark for autoregressive neural emulators of PDEs, arXiv:2411.00180.
    """
    if steps < 1:
        raise ValueError(f"`steps` is {steps}; expected 1 or more.")

    def objective(model, batch, *, key, carry):
        def one(window, args, key):
            states = unroll(model, window, domain, steps=steps, remat=remat, args=args, key=key)
            entered = jnp.concatenate([window, states[:-1]])
            targets = jax.vmap(reference)(lax.stop_gradient(entered) if cut_reference else entered)
            targets = lax.stop_gradient(targets) if cut_reference else targets
            return jax.vmap(lambda prediction, target: loss(prediction, target, domain))(states, targets)

        return {"data": Term(per_window(one, batch, length=1, key=key), "losses")}, {}, carry

    return objective


def label_free(
    residual: Callable[[Array, Array, Any], Float[Array, "e ..."]],
    domain: Domain | None,
    *,
    steps: int = 1,
    remat: bool = False,
) -> Objective:
    """The mean square of `residual(v_i, v_{i+1}, args)` along the model's own states, as the term `physics`.

    `residual` is what two successive states leave of the equation, such as `(v - u) / dt - rhs((u + v) / 2)`. Initial
    states are all the data; batches and models are those of `windows`.

    **Raises:** `ValueError` for `steps` below 1.
    """
    if steps < 1:
        raise ValueError(f"`steps` is {steps}; expected 1 or more.")

    def objective(model, batch, *, key, carry):
        def one(window, args, key):
            states = unroll(model, window, domain, steps=steps, remat=remat, args=args, key=key)
            entered = jnp.concatenate([window, states[:-1]])
            return jax.vmap(residual, (0, 0, None))(entered, states, args)

        return {"physics": Term(per_window(one, batch, length=1, key=key), "residual")}, {}, carry

    return objective
