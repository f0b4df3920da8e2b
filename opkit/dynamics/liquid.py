"""Liquid time-constant networks: recurrent cells whose time constants depend on state and input."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from .integrator import Integrator
from .penalties import Regulariser
from .regularise import Regularised
from .series import check_times, in_precision

Control = Callable[[Any], Float[Array, " m"]]


def semi_implicit_linear_step(
    x: Float[Array, "*n"], rate: Float[Array, "*n"], source: Float[Array, "*n"], dt: Float[Array, ""] | float
) -> Float[Array, "*n"]:
    """A step of `x' = -a(x) x + b(x)`, the first `x` at the new time: `(x + dt b) / (1 + dt a)`.

    Of first order, explicit to compute, and stable for every `dt` where `a >= 0`: the result lies between `x` and
    `b / a`. **Arguments:** `rate`, `source`: `a(x)` and `b(x)` at the old state, elementwise.
    """
    dt = jnp.asarray(dt, x.dtype)
    return (x + dt * source) / (1 + dt * rate)


@runtime_checkable
class LiquidCell(Protocol):
    """What says how a state `(n,)` moves under an input `(m,)`: `x' = -a(x, u) x + b(x, u)`, elementwise."""

    @property
    def size(self) -> int:
        """`n`."""
        ...

    def coefficients(
        self, x: Float[Array, " n"], u: Float[Array, " m"], /
    ) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        """`(a, b)`."""
        ...


class LTCCell(eqx.Module):
    """`x' = -(1/tau + f) x + f A`, with `f = w sigmoid(W [u, x] + c)`: the time constant is `tau / (1 + tau f)`.

    `1/tau` and `w` are kept positive by softplus, so that every `x_i` which starts between `min(0, A_i)` and
    `max(0, A_i)` stays there, under any input.

    **Arguments:** `in_size`: `m`. `size`: `n`. `tau`: the time constant without input, at the start.

    Hasani, Lechner, Amini, Rus and Grosu (2021), Liquid time-constant networks, arXiv:2006.04439, equation 1.
    """

    weight: Float[Array, "n k"]
    bias: Float[Array, " n"]
    gain: Float[Array, " n"]
    leak: Float[Array, " n"]
    target: Float[Array, " n"]
    size: int = eqx.field(static=True)

    def __init__(self, in_size: int, size: int, *, tau: float = 1.0, key: PRNGKeyArray):
        _check_sizes(in_size, size, tau)
        weight_key, target_key = jax.random.split(key)
        bound = (in_size + size) ** -0.5
        self.weight = jax.random.uniform(weight_key, (size, in_size + size), minval=-bound, maxval=bound)
        self.bias = jnp.zeros(size)
        self.gain = _inverse_softplus(jnp.ones(size))
        self.leak = _inverse_softplus(jnp.full(size, 1 / tau))
        self.target = jax.random.normal(target_key, (size,))
        self.size = size

    def coefficients(
        self, x: Float[Array, " n"], u: Float[Array, " m"]
    ) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        """`1/tau + f`, `f A`."""
        own = in_precision(self, x.dtype)
        f = jax.nn.softplus(own.gain) * jax.nn.sigmoid(own.weight @ jnp.concatenate([u, x]) + own.bias)
        return jax.nn.softplus(own.leak) + f, f * own.target

    @property
    def bounds(self) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        """`min(0, A)` and `max(0, A)`."""
        return jnp.minimum(self.target, 0), jnp.maximum(self.target, 0)


class SynapticCell(eqx.Module):
    """`x_i' = -x_i / tau_i + sum_j f_ij (A_ij - x_i)`, with `f_ij = w_ij sigmoid(g_ij (z_j - m_ij))`, `z = [u, x]`.

    The conductance form: a synapse for every pair, with its own reversal potential `A_ij`, which excites or inhibits by
    its sign. `1/tau` and `w` are positive as in `LTCCell`, and `x_i` stays between the least and the largest of `0` and
    `A_ij` over `j`. Four numbers a synapse.

    **Arguments:** as `LTCCell`. Inputs and states are taken to be of order one.

    Hasani, Lechner, Amini, Rus and Grosu (2021), arXiv:2006.04439, section 2 and theorem 2.
    """

    gain: Float[Array, "n k"]
    slope: Float[Array, "n k"]
    centre: Float[Array, "n k"]
    target: Float[Array, "n k"]
    leak: Float[Array, " n"]
    size: int = eqx.field(static=True)

    def __init__(self, in_size: int, size: int, *, tau: float = 1.0, key: PRNGKeyArray):
        _check_sizes(in_size, size, tau)
        shape = (size, in_size + size)
        gain_key, slope_key, centre_key, target_key = jax.random.split(key, 4)
        self.gain = _inverse_softplus(jax.random.uniform(gain_key, shape, minval=0.01, maxval=2 / shape[1]))
        self.slope = jax.random.uniform(slope_key, shape, minval=1, maxval=4)
        self.centre = jax.random.normal(centre_key, shape) / 2
        self.target = jax.random.rademacher(target_key, shape, self.slope.dtype)
        self.leak = _inverse_softplus(jnp.full(size, 1 / tau))
        self.size = size

    def coefficients(
        self, x: Float[Array, " n"], u: Float[Array, " m"]
    ) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        """`1/tau_i + sum_j f_ij`, `sum_j f_ij A_ij`."""
        own = in_precision(self, x.dtype)
        f = jax.nn.softplus(own.gain) * jax.nn.sigmoid(own.slope * (jnp.concatenate([u, x]) - own.centre))
        return jax.nn.softplus(own.leak) + jnp.sum(f, 1), jnp.sum(f * own.target, 1)

    @property
    def bounds(self) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        """The least and the largest of `0` and `A_ij` over `j`."""
        return jnp.minimum(jnp.min(self.target, 1), 0), jnp.maximum(jnp.max(self.target, 1), 0)


class LiquidVectorField(eqx.Module):
    """`f(t, x, args) = -a(x, u) x + b(x, u)` of a cell, with `u = args(t)` the input: for Diffrax."""

    cell: LiquidCell

    def __call__(self, t: Any, x: Float[Array, " n"], args: Control) -> Float[Array, " n"]:
        """`dx/dt` under the input `args`, a function of time."""
        rate, source = self.cell.coefficients(x, args(t))
        return source - rate * x


class HeldInput(eqx.Module):
    """The input `us[i]` from `ts[i]` until `ts[i + 1]`, the first before and the last after."""

    ts: Float[Array, " t_plus_1"]
    us: Float[Array, "t m"]

    def __call__(self, t: Any) -> Float[Array, " m"]:
        """The input at time `t`."""
        return self.us[jnp.clip(jnp.searchsorted(self.ts, t, side="right") - 1, 0, len(self.us) - 1)]


class LiquidNetwork(eqx.Module):
    """A cell driven by samples at irregular times, and a linear readout of its state.

    Sample `us[i]`, taken at `ts[i]`, is held until `ts[i + 1]`, where the state is read out: the network may predict
    the next sample, from those so far and the time until then. Times that repeat leave the state as it is: pad a short
    series with them.

    **Arguments:** `cell`: `LTCCell`, `SynapticCell`, or any other in their linear form (a CT-RNN, a leaky integrator).
    `out_size`: `k`. `unfolds`: steps between samples, each `semi_implicit_linear_step`.

    **Call:** `ts: (T + 1,)`, ascending, `us: (T, m)`, and perhaps the state to start from (by default zero); returns
    `(T, k)`. One series a call. **Raises:** `ValueError` for other shapes, times that descend, or no steps.
    """

    cell: LiquidCell
    readout: eqx.nn.Linear
    unfolds: int = eqx.field(static=True)

    def __init__(self, cell: LiquidCell, out_size: int, *, unfolds: int = 6, key: PRNGKeyArray):
        if unfolds < 1:
            raise ValueError(f"`unfolds` is {unfolds}; expected at least one step between samples.")
        self.cell, self.unfolds = cell, unfolds
        self.readout = eqx.nn.Linear(cell.size, out_size, key=key)

    def __call__(
        self, ts: Float[Array, " t_plus_1"], us: Float[Array, "t m"], x0: Float[Array, " n"] | None = None
    ) -> Float[Array, "t k"]:
        """What is read out at `ts[1:]`."""
        x0 = self._checked_start(ts, us, x0)

        def between(x: Array, sample: tuple[Array, Array]) -> tuple[Array, Array]:
            dt, u = sample
            take = lambda x, _: (semi_implicit_linear_step(x, *self.cell.coefficients(x, u), dt / self.unfolds), None)
            x, _ = lax.scan(take, x, length=self.unfolds)
            return x, x

        _, xs = lax.scan(between, x0, (jnp.diff(ts), us))
        return self.read(xs)

    def solve(
        self,
        ts: Float[Array, " t_plus_1"],
        us: Float[Array, "t m"],
        integrator: Integrator,
        x0: Float[Array, " n"] | None = None,
        *,
        regulariser: Regulariser | None = None,
        step: Any = 0,
        key: PRNGKeyArray | None = None,
    ) -> Regularised:
        """The states at `ts[1:]`, for `read`, by any of Diffrax's solvers instead of semi-implicit steps.

        The input jumps at `ts`; `diffrax.ClipStepSizeController(..., jump_ts=ts)` steps exactly to the jumps, which
        other controllers find by rejecting steps.
        """
        x0 = self._checked_start(ts, us, x0)
        return integrator(
            diffrax.ODETerm(LiquidVectorField(self.cell)), ts[0], ts[-1], x0, HeldInput(ts.astype(x0.dtype), us),
            saveat=diffrax.SaveAt(ts=ts[1:].astype(x0.dtype)), regulariser=regulariser, step=step, key=key,
        )  # fmt: skip

    def read(self, xs: Float[Array, "t n"]) -> Float[Array, "t k"]:
        """`W x + c` of every state."""
        return jax.vmap(in_precision(self.readout, xs.dtype))(xs)

    def _checked_start(self, ts: Array, us: Array, x0: Array | None) -> Array:
        if us.ndim != 2 or ts.shape != (len(us) + 1,):
            raise ValueError(
                f"`ts` has shape {ts.shape}, `us` {us.shape}; expected (T + 1,) and (T, inputs): every sample is held "
                "until the next time, and the last needs one too. Batches come from jax.vmap."
            )
        check_times("ts", ts)
        return jnp.zeros(self.cell.size, us.dtype) if x0 is None else x0


def _check_sizes(in_size: int, size: int, tau: float) -> None:
    if in_size < 1 or size < 1:
        raise ValueError(f"`in_size` is {in_size}, `size` {size}; expected at least 1.")
    if tau <= 0:
        raise ValueError(f"`tau` is {tau}; expected a positive time.")


def _inverse_softplus(y: Array) -> Array:
    return y + jnp.log(-jnp.expm1(-y))
