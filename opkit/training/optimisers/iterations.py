"""Several iterations of a method within one update of an optimiser."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax.numpy as jnp
from jax import lax

P = TypeVar("P")


def iterate(step: Callable[[P], P], start: P, count: int) -> P:
    """`step` applied `count` times, or until `.state.stalled` of what it gives."""
    going: Callable[[Any], Any] = lambda taken: (taken[0] < count) & ~taken[1].state.stalled
    onwards: Callable[[Any], Any] = lambda taken: (taken[0] + 1, step(taken[1]))
    return lax.while_loop(going, onwards, (jnp.zeros((), jnp.int32), start))[1]
