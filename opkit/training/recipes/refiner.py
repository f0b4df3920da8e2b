"""Predict, then denoise: a step refined at ever smaller amplitudes, so that weak modes stay right."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from solvers import Domain, Operator

from ..metrics.errors import mse
from ..terms import Objective, Term
from .lead_time import lead_args
from .windows import check_same, per_window


class Refiner(eqx.Module):
    """A random step `u -> u + scale d`, `d` predicted and then refined `steps` times by the same network:

        d_0 = op(0, u; 0),        d_k = d~ - sigma_k op(d~, u; k),   d~ = d_{k-1} + sigma_k z_k,   z_k standard normal,

    so for `k > 0` the network tells the noise from what is a change of state. `sigma_k = least^(k / steps)`, from
    below 1 to `least`. Train it by `denoising`; roll it out by `as_stepper(refiner, grid)` with a key. It costs
    `steps + 1` evaluations a step.

    **Arguments:**

    - `op`: an operator from `2 c` channels, the noisy change and the state, to `c`, with one parameter more than the
      problem has: `args` has `k / steps` in front.
    - `least`: a standard deviation, in units of `d`. The paper's code calls its figure `min_noise_std` and uses it as
      a *variance*: its 4e-7 is `least=6.3e-4` here.
    - `scale`: the size of a change, so that `d` is of order 1.

    **Call:** as an operator on the grid of the state; `key` is needed.

    **Raises:** `ValueError` for `steps` below 1, `least` not between 0 and 1, or `scale` not positive; when called,
    without a key.

    Lippe et al. (2023), PDE-Refiner: achieving accurate long rollouts with neural PDE solvers, arXiv:2308.05732,
    section 3.1 (predicting the noise).
    """

    op: Operator
    steps: int = eqx.field(static=True)
    least: float = eqx.field(static=True)
    scale: float = eqx.field(static=True)

    def __init__(self, op: Operator, *, steps: int = 3, least: float = 6.3e-4, scale: float = 1.0):
        if steps < 1 or not 0 < least < 1 or not scale > 0:
            raise ValueError(
                f"`steps` is {steps}, `least` {least}, `scale` {scale}; expected 1 or more refinements, a standard "
                "deviation between 0 and 1, a positive size of changes."
            )
        self.op, self.steps, self.least, self.scale = op, steps, float(least), float(scale)

    @property
    def deviations(self) -> Float[np.ndarray, " levels"]:
        """`sigma_k` for `k = 0 ... steps`; the first, 1, is not used: nothing is known yet."""
        return self.least ** (np.arange(self.steps + 1) / self.steps)

    def denoise(
        self,
        change: Float[Array, "c *n"],
        u: Float[Array, "c *n"],
        k: Int[Array, ""] | int,
        domain: Domain,
        *,
        args: Float[Array, " p"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "c *n"]:
        """`op(change, u; k)`: at `k = 0` the change itself, above the noise in it."""
        level = jnp.asarray(k, u.dtype) / self.steps
        return self.op(jnp.concatenate([change, u]), domain, args=lead_args(level, args), key=key)

    def __call__(
        self,
        u: Float[Array, "c *n"],
        domain: Domain,
        query: Domain | None = None,
        *,
        args: Float[Array, " p"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "c *n"]:
        """The state one step later."""
        check_same(query, domain)
        if key is None:
            raise ValueError(
                "`key` is missing; refinement draws noise: `rollout(as_stepper(refiner, grid), n)(u, key=key)`."
            )
        sigma = jnp.asarray(self.deviations, u.dtype)

        def refine(change, k):
            noise, own = jax.random.split(jax.random.fold_in(key, k))
            noisy = change + sigma[k] * jax.random.normal(noise, u.shape, u.dtype)
            return noisy - sigma[k] * self.denoise(noisy, u, k, domain, args=args, key=own), None

        first = self.denoise(jnp.zeros_like(u), u, 0, domain, args=args, key=jax.random.fold_in(key, 0))
        change, _ = lax.scan(refine, first, jnp.arange(1, self.steps + 1, dtype=jnp.int32))
        return u + self.scale * change


def denoising(domain: Domain) -> Objective:
    """What trains a `Refiner`: at a level `k` drawn for each sample, the mean square of `op(0, u; 0) - d` for `k = 0`,
    and of `op(d + sigma_k z, u; k) - z` above, as the term `data`. Batches are windows of two states (see `windows`).

    **Raises:** `ValueError`, when traced, for another model than a `Refiner`, or windows too short.
    """

    def objective(model, batch, *, key, carry):
        if not isinstance(model, Refiner):
            raise ValueError(f"`model` is a {type(model).__name__}; `denoising` trains a `Refiner`.")

        def one(window, args, key):
            u, later = window
            level, noise, own = jax.random.split(key, 3)
            change = (later - u) / model.scale
            k = jax.random.randint(level, (), 0, model.steps + 1)
            z = jax.random.normal(noise, u.shape, u.dtype)
            sigma = jnp.asarray(model.deviations, u.dtype)[k]
            given, target = jnp.where(k == 0, 0, change + sigma * z), jnp.where(k == 0, change, z)
            return mse(model.denoise(given, u, k, domain, args=args, key=own), target, domain)

        return {"data": Term(per_window(one, batch, length=2, key=key), "losses")}, {}, carry

    return objective
