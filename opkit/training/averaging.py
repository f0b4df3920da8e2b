"""A running average of the parameters, kept by the optimiser."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from .state import TrainState


class EmaState(NamedTuple):
    """`average`: the decaying sum of the parameters, float32 at least. `mass`: that of ones, by which it is divided."""

    average: PyTree
    mass: Float[Array, ""]


def ema_parameters(decay: float) -> optax.GradientTransformation:
    """Average the parameters after each update with weights `decay^age`, normalised: the first ones count no more.

    `a_s = (1 - decay) / (1 - decay^s) sum_{j=1..s} decay^(s-j) p_j`. The updates pass unchanged. It must come last in
    the chain, where they are what the parameters move by:

        optimiser = optax.chain(optax.adamw(1e-3), ema_parameters(0.999))

    `averaged(state)` is the model with the average in place of its parameters.

    **Raises:** `ValueError` for a decay outside `[0, 1)`.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"`decay` is {decay}; expected 0 <= decay < 1, such as 0.999.")

    def init(params):
        average = jax.tree.map(lambda p: jnp.zeros(p.shape, np.promote_types(p.dtype, np.float32)), params)
        return EmaState(average, jnp.zeros((), jnp.result_type(float)))

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("`params` is None; the average needs them: optimiser.update(gradient, state, params).")
        moved = optax.apply_updates(params, updates)
        average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p.astype(a.dtype), state.average, moved)
        return updates, EmaState(average, decay * state.mass + (1 - decay))

    return optax.GradientTransformation(init, update)


def averaged(state: TrainState) -> Any:
    """The model of `state` with the average of `ema_parameters` in place of its trained part; itself before a step.

    **Raises:** `ValueError` unless the optimiser has one `ema_parameters`, over all that is trained.
    """
    nodes = jax.tree.leaves(state.opt_state, is_leaf=lambda node: isinstance(node, EmaState))
    found = [node for node in nodes if isinstance(node, EmaState)]
    if len(found) != 1:
        raise ValueError(
            f"`state` has {len(found)} averages of its parameters; expected one, from an optimiser such as"
            " optax.chain(optax.adamw(1e-3), ema_parameters(0.999))."
        )
    average, mass = found[0]
    begun = mass > 0
    scale = jnp.where(begun, mass, 1)

    def replace(a, p):
        return p if a is None else jnp.where(begun, a / scale.astype(a.dtype), p.astype(a.dtype)).astype(p.dtype)

    return jax.tree.map(replace, average, state.model, is_leaf=lambda leaf: leaf is None)
