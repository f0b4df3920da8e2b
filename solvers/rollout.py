"""Many steps of a stepper: the last state, or a trajectory of every k-th."""

from collections.abc import Callable
from math import isqrt
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from .roles import Stepper


@runtime_checkable
class TransformStepper(Protocol):
    """A stepper that works on a transform of the state, `advance(v, t)`; `t` is the time before the step.

    A transform is a PyTree of arrays. Where the stepper has a field or property `dt`, `t` grows by it from step to
    step; without, `advance(v)` is called. A random one takes `advance(v, t, key=key)`.
    """

    def encode(self, u: Any, /) -> Any:
        """The transform of a state."""
        ...

    def advance(self, v: Any, /) -> Any:
        """The transform one step later."""
        ...

    def decode(self, v: Any, /) -> Any:
        """The state of a transform."""
        ...


class Rollout(eqx.Module):
    """A trajectory, and whether it stayed finite.

    - `states`: `(time, channels, *n)`.
    - `blow_up`: the number of the first step whose result has NaN or infinity, warm-up steps counted, 0 for the
      initial state; -1 if there is none. `states` from that step on mean nothing. Under `vmap` one for each sample:
      `jnp.flatnonzero(~rollout.finite)` are the numbers of those that blew up.
    """

    states: Float[Array, "time c *n"]
    blow_up: Int[Array, ""]

    @property
    def finite(self) -> Bool[Array, "..."]:
        """Whether all steps were finite."""
        return self.blow_up < 0


def repeat(
    stepper: Stepper | TransformStepper, steps: int, *, remat: bool = False
) -> Callable[..., Float[Array, "c *n"]]:
    """`u`, `steps` steps later, as a function `(u, *, t0=0.0, key=None)`: itself a stepper.

    A transform is made once, before the first step, and undone after the last. The arguments are those of `rollout`,
    which also tells when a trajectory blows up: `rollout(stepper, steps, every=steps)`. Here it shows as NaN or
    infinity in the result.

    **Raises:** `ValueError` for negative `steps`; as `rollout` when called.
    """
    if steps < 0:
        raise ValueError(f"`steps` is {steps}; expected 0 or more.")

    def run(u: Float[Array, "c *n"], *, t0: float | Float[Array, ""] = 0.0, key: PRNGKeyArray | None = None):
        encode, advance, decode = _parts(stepper, u, t0, key)
        step = lambda carry: (advance(*carry), carry[1] + 1)
        v, _ = _steps(step, (encode(u), jnp.int32(0)), steps, _run_length(steps, remat))
        return decode(v)

    return run


def rollout(
    stepper: Stepper | TransformStepper,
    steps: int,
    *,
    every: int = 1,
    include_initial: bool = False,
    warm_up: int = 0,
    remat: bool = False,
) -> Callable[..., Rollout]:
    """The trajectory of `steps` steps from `u`, as a function `(u, *, t0=0.0, key=None)` to a `Rollout`.

    `vmap` it over initial states (and keys), or `jax.lax.map`: on a CPU, in two and three dimensions, the latter is up
    to twice as fast, as one trajectory fits the caches and a batch does not. `jit` and differentiate it like any
    function. A `TransformStepper` (`ETDRK` is one) stays in its transform from first step to last, and only what is
    saved is transformed back.

    **Arguments:**

    - `stepper`: `u -> u`, or a `TransformStepper`. A random one takes a keyword `key`.
    - `steps`: those recorded, a multiple of `every`.
    - `every`: save each `every`-th state, `steps / every` in all.
    - `include_initial`: save the state before the first recorded step too, in front: as the stepper sees it, that is
      without the wavenumbers that a dealiased space drops.
    - `warm_up`: steps taken before, and discarded.
    - `remat`: for reverse mode, store few states and compute the steps between them again: memory grows as the square
      root of the steps, plus what is saved, and the gradient takes one more forward pass.

    **Call:** `u`: `(channels, *n)`. `t0`: the time before the first step, warm-up included, for steppers that have a
    `dt`. `key`: step `i`, counted from 0 and with the warm-up, gets `fold_in(key, i)`.

    **Raises:** `ValueError` for `steps` below 1 or no multiple of `every`, `every` below 1, `warm_up` below 0; when
    called, for a stepper whose result differs from its argument in shape or dtype.

    Chen, Xu, Zhang and Guestrin (2016), Training deep nets with sublinear memory cost, arXiv:1604.06174.
    """
    if steps < 1 or every < 1 or steps % every:
        raise ValueError(
            f"`steps` is {steps}, `every` {every}; expected positive numbers, `steps` a multiple of `every`."
        )
    if warm_up < 0:
        raise ValueError(f"`warm_up` is {warm_up}; expected 0 or more.")
    length = _run_length(warm_up + steps, remat)

    def run(u: Float[Array, "c *n"], *, t0: float | Float[Array, ""] = 0.0, key: PRNGKeyArray | None = None):
        encode, advance, decode = _parts(stepper, u, t0, key)

        def step(carry):
            v, i, blow_up = carry
            v = advance(v, i)
            return v, i + 1, jnp.where((blow_up < 0) & ~_finite(v), i + 1, blow_up)

        def frame(carry, _):
            carry = _steps(step, carry, every, length)
            return carry, decode(carry[0])

        v = encode(u)
        carry = (v, jnp.int32(0), jnp.where(_finite(v), -1, 0).astype(jnp.int32))
        initial = _steps(step, carry, warm_up, length)
        (_, _, blow_up), states = lax.scan(frame, initial, length=steps // every)
        if include_initial:
            states = jnp.concatenate([decode(initial[0])[None], states])
        return Rollout(states, blow_up)

    return run


def _parts(stepper, u: Array, t0, key: PRNGKeyArray | None):
    """`encode`, `advance(v, i)` for step `i`, `decode`, whatever the stepper."""
    if isinstance(stepper, TransformStepper):
        encode, decode, take = stepper.encode, stepper.decode, stepper.advance
        dt = getattr(stepper, "dt", None)
    else:
        encode, decode, take, dt = (lambda u: u), (lambda v: v), stepper, None
    real = jnp.finfo(u.dtype).dtype

    def advance(v: PyTree, i: Int[Array, ""]) -> PyTree:
        times = () if dt is None else (jnp.asarray(t0, real) + i.astype(real) * jnp.asarray(dt, real),)
        keys = {} if key is None else {"key": jax.random.fold_in(key, i)}
        new = take(v, *times, **keys)
        before, after = (jax.tree.map(lambda leaf: f"{leaf.dtype} {leaf.shape}", tree) for tree in (v, new))
        if before != after:
            raise ValueError(f"`stepper` makes {after} of {before}; a step keeps shape and dtype.")
        return new

    return encode, advance, decode


def _run_length(steps: int, remat: bool) -> int:
    """How many steps to compute again at a time, 0 for none. `steps / length` states are stored besides, and within a
    run each step's intermediate values, some ten times a state: a third of the root balances the two."""
    return max(1, isqrt(steps) // 3) if remat else 0


def _steps(step: Callable, carry, steps: int, length: int):
    """`steps` steps; with a `length`, in checkpointed runs of that many and what is left over."""
    if not length:
        return _scan(step, carry, steps)
    runs, rest = divmod(steps, length)
    again = lambda n: jax.checkpoint(lambda carry: _scan(step, carry, n), prevent_cse=False)
    return again(rest)(_scan(again(length), carry, runs))


def _scan(step: Callable, carry, length: int):
    return step(carry) if length == 1 else lax.scan(lambda c, _: (step(c), None), carry, length=length)[0]


def _finite(v: PyTree) -> Bool[Array, ""]:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(v)]))
