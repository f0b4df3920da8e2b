"""Conjugate gradients as a Lineax solver, for operators on a single array."""

from typing import Any

import jax.numpy as jnp
import lineax as lx
from jax import lax
from jaxtyping import Array, Float

State = lx.AbstractLinearOperator


class PreconditionedCG(lx.AbstractLinearSolver[State]):
    """Preconditioned conjugate gradients that stop at a residual relative to the right-hand side, in the 2-norm.

    `lx.CG` compares each entry with `atol + rtol |b_i|`: where `b` has zeros it needs an `atol`, which then has the
    wrong scale for the right-hand sides of the adjoint and tangent solves. Here a tolerance means the same in all of
    them. Iterations and their cost are the same; with the preconditioner in the loop alone, not also before it,
    compiling takes a fifth less.

    `compute` reports success whatever happened, so that adjoint solves, which Lineax runs with `throw=True`,
    do not raise; `stats` has `num_steps` and `converged`. Option: `preconditioner`, a positive definite
    `lx.AbstractLinearOperator`.

    **Arguments:** `rtol`: where to stop. `max_steps`: the most iterations.
    """

    rtol: float
    max_steps: int

    def init(self, operator: lx.AbstractLinearOperator, options: dict[str, Any]) -> State:
        """Check that the operator is tagged positive semidefinite."""
        del options
        if not lx.is_positive_semidefinite(operator):
            raise ValueError("`operator` is not tagged `lx.positive_semidefinite_tag`, which conjugate gradients need.")
        return lx.linearise(operator)

    def compute(
        self, state: State, vector: Float[Array, "..."], options: dict[str, Any]
    ) -> tuple[Float[Array, "..."], lx.RESULTS, dict[str, Any]]:
        """Iterate from zero."""
        precondition = options["preconditioner"].mv
        limit = self.rtol**2 * _dot(vector, vector)

        def unfinished(carry):
            _, residual, _, _, step = carry
            return (_dot(residual, residual) > limit) & (step < self.max_steps)

        def iterate(carry):
            u, residual, direction, previous, step = carry
            z = precondition(residual)
            gamma = _dot(z, residual)
            direction = z + gamma / previous * direction
            image = state.mv(direction)
            length = gamma / _dot(direction, image)
            return u + length * direction, residual - length * image, direction, gamma, step + 1

        zero = jnp.zeros_like(vector)
        start = (zero, vector, zero, jnp.full((), jnp.inf, vector.dtype), 0)
        u, residual, _, _, steps = lax.while_loop(unfinished, iterate, start)
        stats = {"num_steps": steps, "converged": _dot(residual, residual) <= limit}
        return u, lx.RESULTS.successful, stats

    def transpose(self, state: State, options: dict[str, Any]) -> tuple[State, dict[str, Any]]:
        """The operator and the preconditioner are symmetric."""
        return state, options

    def conj(self, state: State, options: dict[str, Any]) -> tuple[State, dict[str, Any]]:
        """Everything is real."""
        return state, options

    def assume_full_rank(self) -> bool:
        """The operator is regular."""
        return True


def _dot(x: Array, y: Array) -> Array:
    return jnp.sum(x * y)
