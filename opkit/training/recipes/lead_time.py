"""Operators that take the lead time: trained on all pairs of states along a trajectory."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from solvers import Domain

from ..terms import Objective, Term
from .unrolled import SampleLoss
from .windows import call, per_window


def lead_pairs(frames: int) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
    """The pairs `i <= j` of `frames` states, as `(i, j)`: those of no lead are among them, `frames (frames + 1) / 2`
    in all."""
    return np.triu_indices(frames)


def all_to_all(
    loss: SampleLoss, domain: Domain | None, dt: float, *, frames: int, pairs: int | None = None
) -> Objective:
    """The mean of `loss(S(u_i, t_j - t_i), u_j, domain)` over the pairs `i <= j` of `frames` states, `dt` apart.

    Pairs teach a trajectory of `frames` states many times over, and every lead time between. `S` gets the lead in its
    `args`, in front of the batch's own (see `lead_args`), and has to be the identity at lead zero, which is trained
    too. At a fixed lead it is a stepper: `as_stepper(op, grid, lead_args(dt))`.

    **Arguments:** `pairs`: so many of each window, drawn anew every step with repeats; by default all.

    **Raises:** `ValueError` for `dt` not positive or numbers below 1; when traced, for windows of fewer states.

    Herde et al. (2024), Poseidon: efficient foundation models for PDEs, arXiv:2405.19101, section 2.2.
    """
    if not dt > 0 or frames < 1 or (pairs is not None and pairs < 1):
        raise ValueError(f"`dt` is {dt}, `frames` {frames}, `pairs` {pairs}; expected positive numbers.")
    starts, ends = (jnp.asarray(side) for side in lead_pairs(frames))

    def objective(model, batch, *, key, carry):
        def one(window, args, key):
            draw, key = jax.random.split(key)
            chosen = jnp.arange(len(starts)) if pairs is None else jax.random.randint(draw, (pairs,), 0, len(starts))

            def pair(i, j, key):
                lead = jnp.asarray(dt, window.dtype) * (j - i).astype(window.dtype)
                prediction = call(model, window[i], domain, args=lead_args(lead, args), key=key)
                return loss(prediction, window[j], domain)

            return jax.vmap(pair)(starts[chosen], ends[chosen], jax.random.split(key, len(chosen)))

        return {"data": Term(per_window(one, batch, length=frames, key=key), "losses")}, {}, carry

    return objective


def lead_args(lead: float | Float[Array, ""], args: Float[Array, " p"] | None = None) -> Float[Array, " q"]:
    """The lead time in front of the parameters `(p,)`, `(1 + p,)`: the `args` of an operator that takes it."""
    lead = jnp.atleast_1d(jnp.asarray(lead, None if args is None else args.dtype))
    return lead if args is None else jnp.concatenate([lead, args])


def semigroup_defect(
    model: Callable[..., Any],
    u: Float[Array, "c *n"],
    domain: Domain | None,
    s: float | Float[Array, ""],
    t: float | Float[Array, ""],
    *,
    args: PyTree = None,
    key: PRNGKeyArray | None = None,
) -> Float[Array, ""]:
    """`||S(s + t) u - S(s) S(t) u|| / ||S(s + t) u||`, root mean squares: zero for an autonomous evolution."""
    step = lambda v, lead: call(model, v, domain, args=lead_args(jnp.asarray(lead, u.dtype), args), key=key)
    whole, parts = step(u, s + t), step(step(u, t), s)
    return jnp.linalg.norm((whole - parts).ravel()) / jnp.linalg.norm(whole.ravel())
