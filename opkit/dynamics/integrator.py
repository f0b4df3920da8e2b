"""How an equation is integrated, as a value that models hold."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .penalties import Regulariser
from .regularise import Rate, Regularised, regularised_solve


class Integrator(eqx.Module):
    """A solver, a step size controller and an adjoint: everything about a solve but the problem.

    Models of this package hold one and pass the rest on, so that each takes any of Diffrax's methods, and any of the
    penalties. `dt0=None` leaves the first step to the controller. Nothing in it is trained.

    **Arguments:** as `diffrax.diffeqsolve`.
    """

    solver: diffrax.AbstractSolver
    controller: diffrax.AbstractStepSizeController
    adjoint: diffrax.AbstractAdjoint
    dt0: float | None = eqx.field(static=True)
    max_steps: int | None = eqx.field(static=True)

    def __init__(
        self,
        solver: diffrax.AbstractSolver | None = None,
        controller: diffrax.AbstractStepSizeController | None = None,
        *,
        adjoint: diffrax.AbstractAdjoint | None = None,
        dt0: float | None = None,
        max_steps: int | None = 4096,
    ):
        self.solver = diffrax.Tsit5() if solver is None else solver
        self.controller = diffrax.PIDController(rtol=1e-5, atol=1e-5) if controller is None else controller
        self.adjoint = diffrax.RecursiveCheckpointAdjoint() if adjoint is None else adjoint
        self.dt0, self.max_steps = dt0, max_steps
        adaptive = isinstance(self.controller, diffrax.AbstractAdaptiveStepSizeController)
        if dt0 is None and not adaptive and not isinstance(self.controller, diffrax.StepTo):
            raise ValueError("`dt0` is missing; a controller that does not adapt the step needs one.")

    def __call__(
        self,
        terms: PyTree,
        t0: Float[Array, ""] | float,
        t1: Float[Array, ""] | float,
        y0: PyTree,
        args: PyTree = None,
        *,
        saveat: diffrax.SaveAt | None = None,
        regulariser: Regulariser | None = None,
        rate: Rate | None = None,
        step: Any = 0,
        key: PRNGKeyArray | None = None,
    ) -> Regularised:
        """`regularised_solve` from `t0` to `t1`, saving at the end by default; times in the state's precision."""
        real = jnp.finfo(jnp.result_type(*jax.tree.leaves(y0))).dtype
        t0, t1 = jnp.asarray(t0, real), jnp.asarray(t1, real)
        dt0 = None if self.dt0 is None else jnp.sign(t1 - t0) * jnp.asarray(self.dt0, real)
        return regularised_solve(
            terms, self.solver, t0, t1, dt0, y0, args,
            regulariser=regulariser, rate=rate, step=step, key=key,
            saveat=diffrax.SaveAt(t1=True) if saveat is None else saveat,
            stepsize_controller=self.controller, adjoint=self.adjoint, max_steps=self.max_steps,
        )  # fmt: skip
