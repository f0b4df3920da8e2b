"""What a rollout is worth: errors, correlations and drifts by step.

Functions are of one rollout, `prediction` and `target: (time, c, *n)` on `domain` (`None` gives all points the same
weight): `jax.vmap` them over a batch and average after. Entry `i` is of the state after `i + 1` steps, if the initial
one is left out. None returns NaN: a state that is not finite has an infinite error and no correlation.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from solvers import Domain

from .errors import point_weights, relative_l2


def error_by_step(
    prediction: Float[Array, "time c *n"], target: Float[Array, "time c *n"], domain: Domain | None = None
) -> Float[Array, " time"]:
    """`relative_l2` after each step: the root mean square of the error over that of the target."""
    errors = jax.vmap(lambda p, t: relative_l2(p, t, domain))(prediction, target)
    return jnp.where(jnp.isfinite(errors), errors, jnp.inf)


def geometric_mean(errors: Float[Array, "*batch time"], horizon: int | None = None) -> Float[Array, "*batch"]:
    """`exp(mean(log(errors)))` over the first `horizon` steps, by default all: growth by a factor a step counts alike
    early and late. Infinite where an error is not finite.

    **Raises:** `ValueError` for a horizon of no step, or beyond the errors.
    """
    horizon = errors.shape[-1] if horizon is None else horizon
    if not 1 <= horizon <= errors.shape[-1]:
        raise ValueError(f"`horizon` is {horizon}; expected 1 to {errors.shape[-1]}, the steps of `errors`.")
    part = errors[..., :horizon]
    fine = jnp.isfinite(part)
    mean = jnp.exp(jnp.mean(jnp.log(jnp.where(fine, part, 1)), -1))
    return jnp.where(jnp.all(fine, -1), mean, jnp.inf)


def correlation_by_step(
    prediction: Float[Array, "time c *n"], target: Float[Array, "time c *n"], domain: Domain | None = None
) -> Float[Array, " time"]:
    """Pearson's correlation of the two states after each step, over the points (by quadrature) and the channels.

    Zero where either is constant or not finite. **Raises:** `ValueError` for states of different shapes.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"`prediction` has shape {prediction.shape}, `target` {target.shape}; expected the same.")
    wide = np.promote_types(target.dtype, np.float32)
    weights = point_weights(target[0].astype(wide), domain)

    def one(p, t):
        p, t = (jnp.where(weights != 0, u.astype(wide), 0) for u in (p, t))
        fine = jnp.all(jnp.isfinite(p)) & jnp.all(jnp.isfinite(t))
        p, t = (jnp.where(fine, u, 0) for u in (p, t))
        p, t = (u - jnp.sum(weights * u) / (jnp.sum(weights) * len(u)) for u in (p, t))
        scale = jnp.sqrt(jnp.sum(weights * p**2)) * jnp.sqrt(jnp.sum(weights * t**2))
        return jnp.where(scale > 0, jnp.sum(weights * p * t) / jnp.where(scale > 0, scale, 1), 0)

    return jax.vmap(one)(prediction, target)


def correlation_time(correlations: Float[Array, " time"], dt: float, threshold: float = 0.8) -> Float[Array, ""]:
    """The time at which the correlation first falls below `threshold`, linear between steps, from 1 at time zero.

    `correlations` are after `dt`, `2 dt`, ...; where they never fall, their last time: the true one is no less.
    Average it over rollouts, or take the mean correlation's.

    **Raises:** `ValueError` for a threshold not between 0 and 1, or `dt` not positive.
    """
    if not 0 < threshold < 1 or not dt > 0:
        raise ValueError(f"`threshold` is {threshold}, `dt` {dt}; expected 0 < threshold < 1, and a positive time.")
    values = jnp.concatenate([jnp.ones(1, correlations.dtype), jnp.nan_to_num(correlations, nan=0.0)])
    below = values < threshold
    i = jnp.argmax(below)  # at least 1 where there is any
    before, after = values[i - 1], values[i]
    part = (before - threshold) / jnp.where(before > after, before - after, 1)
    return dt * jnp.where(jnp.any(below), (i - 1).astype(values.dtype) + part, len(correlations))


def drift_by_step(
    states: Float[Array, "time c *n"], quantity: Callable[[Float[Array, "c *n"]], Float[Array, "*q"]]
) -> Float[Array, "time *q"]:
    """`|Q(u_i) - Q(u_0)|` of what should be conserved, `Q = quantity`, along states that begin with the initial one.

    In units of `Q`; divide by a scale of its own, as `Q(u_0)` may vanish. Infinite where a state is not finite.
    """
    values = jax.vmap(quantity)(states)
    drift = jnp.abs(values - values[0])
    return jnp.where(jnp.isfinite(drift), drift, jnp.inf)


def integral(u: Float[Array, "c *n"], domain: Domain, power: int = 1) -> Float[Array, " c"]:
    """The integral of `u_c^power` over the domain, by its quadrature: mass for 1, twice the energy for 2."""
    u = u.astype(np.promote_types(u.dtype, np.float32))
    weights = point_weights(u, domain)
    return jnp.sum(weights * jnp.where(weights != 0, u, 0) ** power, tuple(range(1, u.ndim)))


def finite_by_step(states: Float[Array, "samples time *rest"]) -> Float[Array, " time"]:
    """The share of rollouts that are finite up to each step, that step included."""
    fine = jnp.all(jnp.isfinite(states), tuple(range(2, states.ndim)))
    return jnp.mean(jnp.cumprod(fine.astype(np.promote_types(states.dtype, np.float32)), 1), 0)
