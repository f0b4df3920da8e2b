"""Weights that steer training from point to point: causal ones, and ones that are trained against the loss."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def causal_weights(losses: Float[Array, " t"], tolerance: float | Float[Array, ""]) -> Float[Array, " t"]:
    """`w_i = exp(-tolerance * (losses_0 + ... + losses_(i-1)))`: a time counts once those before it are learnt.

    No gradient goes through them. All near one: training is done for that tolerance, and the next may be larger.

    **Arguments:** `losses`: the mean square of the residual on slices of time, in order. `tolerance`: 0.01 to 100.

    Wang, Sankaran and Perdikaris (2022), Respecting causality is all you need for training physics-informed neural
    networks, arXiv:2203.07404, equation 3.7.
    """
    if losses.ndim != 1:
        raise ValueError(f"`losses` has shape {losses.shape}; expected (t,), one for each slice of time.")
    before = jnp.cumsum(losses) - losses
    return lax.stop_gradient(jnp.exp(-tolerance * before))


def ascending(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """`x`, with its gradient reversed: what minimises the loss in the rest maximises it in `x`.

    For self-adaptive weights: train `weights` beside the field, and give the objective the residual
    `ascending(jax.nn.softplus(weights)) * r`: they grow where the residual stays large.

    McClenny and Braga-Neto (2023), Self-adaptive physics-informed neural networks, arXiv:2009.04544.
    """
    return 2 * lax.stop_gradient(x) - x
