"""Learn the rate of change, and integrate it."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from solvers import Domain, Operator

from ..terms import Objective, Term
from .unrolled import SampleLoss
from .windows import call, check_same, per_window

Differences = Literal["forward", "central", "richardson"]
Method = Literal["euler", "heun", "rk4"]

_WEIGHTS: dict[Differences, dict[int, float]] = {
    "forward": {0: -1.0, 1: 1.0},
    "central": {-1: -1 / 2, 1: 1 / 2},
    "richardson": {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12},
}


def tendencies(
    u: Float[Array, "time c *n"], dt: float, differences: Differences
) -> tuple[Float[Array, "inner c *n"], Float[Array, "inner c *n"]]:
    """The states that have neighbours enough, and `du/dt` there by differences of order 1, 2 or 4 in `dt`:

        forward      (u_1 - u_0) / dt,
        central      (u_1 - u_-1) / (2 dt),
        richardson   (4 central(dt) - central(2 dt)) / 3 = (u_-2 - 8 u_-1 + 8 u_1 - u_2) / (12 dt).

    The error of the differences is a floor for what is learned from them: states have to be saved often enough.

    **Raises:** `ValueError` for other differences, `dt` not positive, or too few states.
    """
    weights = _weights(differences, dt)
    first, last = min(weights), max(weights)
    inner = len(u) + first - last
    if inner < 1:
        raise ValueError(f"`u` has {len(u)} states; {differences!r} differences need {last - first + 1}.")
    part = lambda offset: u[offset - first : offset - first + inner]
    rate = sum((weight * part(offset) for offset, weight in weights.items()), start=jnp.zeros_like(part(0)))
    return part(0), rate / dt


def tendency(
    loss: SampleLoss, domain: Domain | None, dt: float, *, differences: Differences = "richardson"
) -> Objective:
    """The mean of `loss(f(u), du/dt, domain)` with `du/dt` by `tendencies`, as the term `data`.

    Batches and models are those of `windows`; a sample is one state with the neighbours it needs: 2, 3 or 5. The model
    is a right-hand side: `TendencyStep` integrates it, and so does Diffrax, by `solvers.as_vector_field`. (The control
    is to train the step itself: `one_step` of `TendencyStep(op, dt, "euler")`, which is `u + dt f(u)`.)

    **Raises:** `ValueError` for other differences or `dt` not positive; when traced, for windows too short.

    Zhou and Barati Farimani (2024), Predicting change, not states, arXiv:2412.13074.
    """
    weights = _weights(differences, dt)

    def objective(model, batch, *, key, carry):
        def one(window, args, key):
            (state,), (rate,) = tendencies(window, dt, differences)
            return loss(call(model, state, domain, args=args, key=key), rate, domain)

        losses = per_window(one, batch, length=max(weights) - min(weights) + 1, key=key)
        return {"data": Term(losses, "losses")}, {}, carry

    return objective


class TendencyStep(eqx.Module):
    """A step `dt` of `du/dt = op(u)` by a Runge-Kutta method, itself an operator, and trainable by every recipe.

    `as_stepper(TendencyStep(op, dt, "rk4"), grid)` rolls out; another `dt` needs no new training.

    **Arguments:** `method`: `"euler"` (order 1: the residual step), `"heun"` (2) or `"rk4"` (4); the operator is
    evaluated as many times.

    **Raises:** `ValueError` for another method.
    """

    op: Callable[..., Any]
    dt: float = eqx.field(static=True)
    method: Method = eqx.field(static=True)

    def __init__(self, op: Callable[..., Any], dt: float, method: Method):
        if method not in get_args(Method):
            raise ValueError(f"`method` is {method!r}; expected one of {get_args(Method)}, or Diffrax's own solvers.")
        self.op, self.dt, self.method = op, float(dt), method

    def __call__(
        self,
        u: Float[Array, "c *n"],
        domain: Domain | None = None,
        query: Domain | None = None,
        *,
        args: PyTree = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "c *n"]:
        """The state one step later."""
        check_same(query, domain)
        f = lambda v: call(self.op, v, domain, args=args, key=key)
        dt, k1 = self.dt, f(u)
        if self.method == "euler":
            return u + dt * k1
        if self.method == "heun":
            return u + dt / 2 * (k1 + f(u + dt * k1))
        k2 = f(u + dt / 2 * k1)
        k3 = f(u + dt / 2 * k2)
        return u + dt / 6 * (k1 + 2 * (k2 + k3) + f(u + dt * k3))


class AdamsBashforth(eqx.Module):
    """Steps `u_{i+1} = u_i + dt (3/2 f(u_i) - 1/2 f(u_{i-1}))` of `du/dt = f(u) = op(u, domain, args=args)`, for
    `rollout` and `repeat`: second order at one evaluation a step. The first step is Euler's."""

    op: Operator
    domain: Domain
    dt: float = eqx.field(static=True)
    args: PyTree = None

    def encode(self, u: Float[Array, "c *n"]) -> tuple[Array, Array]:
        """The state, and the rate one step before."""
        return u, self._rate(u, None)

    def advance(self, v: tuple[Array, Array], t: Any = None, *, key: PRNGKeyArray | None = None) -> tuple[Array, Array]:
        """One step; `t` is not read."""
        u, before = v
        rate = self._rate(u, key)
        return u + self.dt * (1.5 * rate - 0.5 * before), rate

    def decode(self, v: tuple[Array, Array]) -> Float[Array, "c *n"]:
        """The state."""
        return v[0]

    def _rate(self, u: Array, key: PRNGKeyArray | None) -> Array:
        return self.op(u, self.domain, args=self.args, key=key)


def _weights(differences: Differences, dt: float) -> dict[int, float]:
    if differences not in _WEIGHTS:
        raise ValueError(f"`differences` is {differences!r}; expected one of {get_args(Differences)}.")
    if not dt > 0:
        raise ValueError(f"`dt` is {dt}; expected the positive time between states.")
    return _WEIGHTS[differences]
