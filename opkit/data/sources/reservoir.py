"""A buffer of fixed size for samples that arrive without end: which enter, which leave, which are drawn."""

from typing import Any, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, Int, PRNGKeyArray, PyTree

from .source import count_samples

Replace = Literal["uniform", "oldest", "drawn"]
_MOST = 2**30  # arrivals told apart, in int32 with room for one block


class Reservoir(eqx.Module):
    """Samples in a buffer, as a PyTree: pure, compiled with the training step, and in its checkpoint.

        reservoir = Reservoir(jax.eval_shape(simulate, key), 10_000)
        reservoir = reservoir.insert(simulate(key), key=key)
        batch, reservoir = reservoir.sample(32, key=key)

    `buffer`: a PyTree of arrays `(capacity, ...)`, NaN where nothing is. `arrived`: how many samples were taken in; the
    first `held` places are theirs. `refused`: how many were not finite, and so were not. `draws`: how often each place
    was drawn since it was filled.

    **Arguments:** `like`: any number of samples, `(n, ...)`, or their shapes. `capacity`: the most it holds.
    `replace`: what makes room when it is full.

    - `uniform`: each arrival so far is held with the same probability, `capacity / arrived`, at any time.
    - `oldest`: the last `capacity` arrivals are held.
    - `drawn`: one drawn before, at random; one not drawn yet only when there is no other.

    Arrivals are counted to `2**30`; `uniform` then goes on at the rate it has reached.

    **Raises:** `ValueError` for a capacity below one or another `replace`.

    Vitter (1985), Random sampling with a reservoir, doi:10.1145/3147.3165, algorithm R; Meyer et al. (2023),
    High throughput training of deep surrogates from large ensemble runs, arXiv:2309.16743, for `drawn`.
    """

    buffer: PyTree
    arrived: Int[Array, ""]
    refused: Int[Array, ""]
    draws: Int[Array, " capacity"]
    replace: Replace = eqx.field(static=True)

    def __init__(self, like: PyTree, capacity: int, *, replace: Replace = "uniform"):
        if capacity < 1:
            raise ValueError(f"`capacity` is {capacity}; expected 1 or more samples.")
        if replace not in get_args(Replace):
            raise ValueError(f"`replace` is {replace!r}; expected one of {get_args(Replace)}.")
        self.buffer = jax.tree.map(lambda a: _empty((capacity, *a.shape[1:]), a.dtype), like)
        self.arrived = self.refused = jnp.zeros((), jnp.int32)
        self.draws = jnp.zeros(capacity, jnp.int32)
        self.replace = replace

    @property
    def capacity(self) -> int:
        """The most it holds."""
        return len(self.draws)

    @property
    def held(self) -> Int[Array, ""]:
        """How many it holds."""
        return jnp.minimum(self.arrived, self.capacity)

    def insert(
        self, samples: PyTree, *, key: PRNGKeyArray, valid: Bool[Array, ""] | Bool[Array, " n"] | bool = True
    ) -> "Reservoir":
        """As if the samples `(n, ...)` arrived one after another; those with NaN or infinity are refused.

        **Arguments:** `valid`: where false, there is no sample.

        **Raises:** `ValueError` for samples of another structure, shape or dtype, or more than `capacity`.
        """
        n = self._check(samples)
        valid = jnp.broadcast_to(jnp.asarray(valid), (n,))
        kept = valid & _finite(samples, n)
        order = jnp.cumsum(kept, dtype=jnp.int32) - 1
        place = jnp.where(kept, self._places(order, key), self.capacity)  # `capacity` is nowhere
        # of several for one place the last stays, as if they came in turn; XLA writes in any order
        turn = jnp.arange(n, dtype=jnp.int32)
        last = jnp.full(self.capacity, -1, jnp.int32).at[place].max(turn, mode="drop")
        place = jnp.where(last.at[place].get(mode="fill", fill_value=-1) == turn, place, self.capacity)
        arrived = self.arrived + jnp.sum(kept, dtype=jnp.int32)
        return eqx.tree_at(
            lambda r: (r.buffer, r.arrived, r.refused, r.draws),
            self,
            (
                jax.tree.map(lambda held, new: held.at[place].set(new, mode="drop"), self.buffer, samples),
                jnp.where(arrived > _MOST, arrived - self.capacity, arrived),  # whole rounds: `oldest` goes on
                self.refused + jnp.sum(valid & ~kept, dtype=jnp.int32),
                self.draws.at[place].set(0, mode="drop"),
            ),
        )

    def sample(self, batch_size: int, *, key: PRNGKeyArray) -> tuple[Any, "Reservoir"]:
        """Samples `(batch_size, ...)`, each drawn from all that are held, repeats allowed.

        **Raises:** `ValueError` where nothing is held. In compiled code, which cannot tell, the samples are NaN then.
        """
        if not isinstance(self.arrived, Tracer) and not int(self.arrived):
            raise ValueError(
                f"The reservoir is empty ({int(self.refused)} samples were refused as not finite); `insert` first."
            )
        chosen = jax.random.randint(key, (batch_size,), 0, jnp.maximum(self.held, 1), jnp.int32)
        batch = jax.tree.map(lambda held: held[chosen], self.buffer)
        return batch, eqx.tree_at(lambda r: r.draws, self, self.draws.at[chosen].add(1))

    def _places(self, order: Int[Array, " n"], key: PRNGKeyArray) -> Int[Array, " n"]:
        """Where arrivals go that are `order`-th of their block."""
        number = self.arrived + order
        if self.replace == "uniform":
            drawn = jax.random.randint(key, order.shape, 0, number + 1, jnp.int32)
            return jnp.where(number < self.capacity, number, jnp.minimum(drawn, self.capacity))
        if self.replace == "oldest":
            return number % self.capacity
        drawn = jax.random.uniform(key, (self.capacity,), jnp.float32)
        free = jnp.arange(self.capacity, dtype=jnp.int32) >= self.held
        first = jnp.where(free, 2, jnp.where(self.draws > 0, drawn, drawn - 1))
        _, places = jax.lax.top_k(first, len(order))
        return places[jnp.maximum(order, 0)]

    def _check(self, samples: PyTree) -> int:
        n = count_samples(samples)
        held, new = (
            jax.tree.map(lambda a: f"{a.dtype.name}{list(a.shape[1:])}", tree) for tree in (self.buffer, samples)
        )
        if held != new or n > self.capacity:
            raise ValueError(
                f"`samples` are {n} of {new}; expected at most {self.capacity} of {held}, as the reservoir was made."
            )
        return n


def _empty(shape: tuple[int, ...], dtype: Any) -> Array:
    return jnp.full(shape, jnp.nan if jnp.issubdtype(dtype, jnp.inexact) else 0, dtype)


def _finite(samples: PyTree, n: int) -> Bool[Array, " n"]:
    """Which samples are finite in all their inexact arrays."""
    finite = jnp.ones(n, bool)
    for leaf in jax.tree.leaves(samples):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            finite &= jnp.isfinite(leaf).reshape(n, -1).all(1)
    return finite
