"""Windows of trajectories as batches, and a model's steps through one: what the rollout recipes share.

**Batches.** `u: (batch, time, c, *n)` or `(u,)`, or `(u, args)` with a PyTree of arrays `(batch, ...)`, the parameters
of each trajectory. A recipe needs a certain number of states; of longer trajectories every sample gives as many, from a
random place drawn anew at every training step. So `fit` takes whole trajectories, as arrays or from a source such as
`HDF5Source(path, ["u_train"], ndim=3)` of `(samples, time, c, *n)` in 2-D.

**Models.** With a `domain` an operator, called as `model(u, domain, args=args, key=key)`; with `domain=None` any
function, called as `model(u)`, or `model(u, args=args)` where the batch has parameters. Several states, where a model
takes or gives them, follow one another along the channels, the earliest first.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from solvers import Domain

from ..keys import StepKey, sample_keys

Before = Callable[[Float[Array, "frames c *n"], Int[Array, ""]], Float[Array, "frames c *n"]]
"""`before(history, i)`: what enters step `i` in place of `history`."""


def unroll(
    model: Callable[..., Any],
    history: Float[Array, "frames c *n"],
    domain: Domain | None,
    *,
    steps: int,
    bundle: int = 1,
    before: Before | None = None,
    remat: bool = False,
    args: PyTree = None,
    key: PRNGKeyArray | None = None,
) -> Float[Array, "time c *n"]:
    """The `steps bundle` states after `history`, by a model that makes `bundle` states of the last `frames`.

    **Arguments:** `before`: changes what enters a step; teacher forcing and cuts of the gradient are such functions.
    `remat`: for reverse mode, keep what enters each step and compute what happens in it again. `args`: the model's, at
    every step. `key`: step `i` gets `fold_in(key, i)`.

    **Raises:** `ValueError` for `steps` or `bundle` below 1, or a model whose result has another shape or dtype.
    """
    if steps < 1 or bundle < 1:
        raise ValueError(f"`steps` is {steps}, `bundle` {bundle}; expected 1 or more.")

    def step(history, i):
        history = history if before is None else before(history, i)
        new = advance(model, history, domain, i, bundle=bundle, args=args, key=key)
        return jnp.concatenate([history, new])[-len(history) :], new

    step = jax.checkpoint(step, prevent_cse=False) if remat else step
    _, states = lax.scan(step, history, jnp.arange(steps, dtype=jnp.int32))
    return states.reshape(-1, *history.shape[1:])


def advance(
    model: Callable[..., Any],
    history: Float[Array, "frames c *n"],
    domain: Domain | None,
    i: Int[Array, ""] | int,
    *,
    bundle: int,
    args: PyTree,
    key: PRNGKeyArray | None,
) -> Float[Array, "bundle c *n"]:
    """Step `i`: the next `bundle` states."""
    u = history.reshape(-1, *history.shape[2:])
    new = call(model, u, domain, args=args, key=None if key is None else jax.random.fold_in(key, i))
    shape = (bundle * history.shape[1], *history.shape[2:])
    if (new.shape, new.dtype) != (shape, history.dtype):
        raise ValueError(
            f"`model` makes {new.dtype} {new.shape} of {u.dtype} {u.shape}; expected {history.dtype} {shape}: {bundle} "
            f"states of {history.shape[1]} channels from the last {len(history)}, as `bundle` and `frames` say."
        )
    return new.reshape(bundle, *history.shape[1:])


def call(model: Callable[..., Any], u: Array, domain: Domain | None, *, args: PyTree, key: PRNGKeyArray | None) -> Any:
    """The model's value: see the head of this file."""
    if domain is not None:
        return model(u, domain, args=args, key=key)
    return model(u) if args is None else model(u, args=args)


def per_window(
    one: Callable[[Array, PyTree, PRNGKeyArray], Array], batch: Any, *, length: int, key: StepKey
) -> Float[Array, "batch ..."]:
    """`one(window, args, key)` of each sample, `window: (length, c, *n)`.

    **Raises:** `ValueError` for a batch that is not of trajectories, or shorter ones.
    """
    u, *rest = batch if isinstance(batch, tuple) else (batch,)
    args = rest[0] if rest else None
    if u.ndim < 4:
        raise ValueError(
            f"`batch` has shape {u.shape}; expected windows (batch, time, channels, *n), or (windows, args)."
        )
    if u.shape[1] < length:
        raise ValueError(
            f"`batch` has windows of {u.shape[1]} states; this recipe needs {length}. Take fewer steps, or longer "
            "windows."
        )

    def sample(u, args, key):
        place, key = jax.random.split(key)
        if len(u) > length:
            u = lax.dynamic_slice_in_dim(u, jax.random.randint(place, (), 0, len(u) - length + 1), length)
        return one(u, args, key)

    return jax.vmap(sample)(u, args, sample_keys(key, len(u)))


def check_same(query: Domain | None, domain: Domain | None) -> None:
    """Raise `ValueError` where a step is asked for elsewhere than on the domain of its state."""
    if query is not None and query != domain:
        raise ValueError("`query` differs from `domain`; a step stays where its state lives. Leave `query` out.")
