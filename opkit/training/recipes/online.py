"""Training while the data are made: samples pass through a reservoir, and each is seen a few times."""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int, Key, PRNGKeyArray, PyTree

from opkit.data import Reservoir

from ..terms import Objective, Terms

Simulate = Callable[..., PyTree]
"""`simulate(key)` is a block of samples `(n, ...)`, jitted with the step."""


class OnlineCarry(eqx.Module):
    """The `reservoir`, the number of the training `step`, and what the `inner` objective remembers."""

    reservoir: Reservoir
    step: Int[Array, ""]
    inner: PyTree


class Online(eqx.Module):
    """`objective` on batches drawn from a reservoir, into which new samples come before a step.

    On one device the solver is part of the compiled step, every `every` steps, and `fit` gets no data:

        simulate = lambda key: jax.vmap(solve)(jax.random.split(key, 8))
        objective = Online(supervised(relative_l2, grid), simulate, batch_size=32, every=4)
        reservoir = Reservoir(jax.eval_shape(simulate, key), 4096)
        carry = objective.start(reservoir, blocks=16, key=key)
        fit(objective, model, None, optimiser, carry=carry, steps=10_000, seed=0)

    Here each sample is drawn 16 times on average: `every batch_size / 8`. Without `simulate`, the batch of `fit` is
    what arrives. Its source may simulate on other devices (`SimulatedSource`) or in other processes (`WorkerSource`)
    while this one trains:

        objective = Online(supervised(relative_l2, grid), batch_size=32)
        carry = objective.start(Reservoir(source.take(np.arange(1)), 4096))
        fit(objective, model, source, optimiser, carry=carry, batch_size=2, steps=len(source) // 2, seed=0)

    In both, what a step sees depends on its key and the carry alone, not on how fast anything was, and the carry is in
    the checkpoint: a run resumed is the run unbroken, bit for bit. The metrics are those of the objective, and how many
    samples `arrived` and how many were `refused`, as they were not finite. If all are, the loss is NaN.

    **Arguments:** `batch_size`: samples a step draws. `every`: simulate before step 0, `every`, `2 every`, ...

    **Raises:** `ValueError` for `batch_size` or `every` below one, or `every` without `simulate`; when traced, for data
    beside `simulate`, none without, and what `Reservoir.insert` refuses.

    Meyer, Schouler, Caulk, Ribes and Raffin (2023), Training deep surrogate models with large scale online learning,
    arXiv:2306.16133.
    """

    objective: Objective
    simulate: Simulate | None
    batch_size: int = eqx.field(static=True)
    every: int = eqx.field(static=True)

    def __init__(self, objective: Objective, simulate: Simulate | None = None, *, batch_size: int, every: int = 1):
        if batch_size < 1 or every < 1:
            raise ValueError(f"`batch_size` is {batch_size}, `every` {every}; expected 1 or more.")
        if simulate is None and every > 1:
            raise ValueError(f"`every` is {every} without `simulate`; every batch that arrives is taken in.")
        self.objective, self.simulate, self.batch_size, self.every = objective, simulate, batch_size, every

    def start(
        self, reservoir: Reservoir, inner: PyTree = None, *, blocks: int = 0, key: PRNGKeyArray | None = None
    ) -> OnlineCarry:
        """The first carry, with `blocks` blocks simulated into `reservoir`, and the objective's own, `inner`.

        **Raises:** `ValueError` for `blocks` without `simulate` or `key`.
        """
        if blocks:
            if self.simulate is None or key is None:
                raise ValueError(f"`blocks` is {blocks}; simulating them takes `simulate` and a `key`.")
            reservoir = _filled(reservoir, self.simulate, jax.random.split(key, blocks))
        return OnlineCarry(reservoir, jnp.zeros((), jnp.int32), inner)

    def prepare(self, model: Any, batch: Any, *, key: PRNGKeyArray, carry: OnlineCarry) -> OnlineCarry:
        """New samples: see `Objective`."""
        if (batch is None) == (self.simulate is None):
            raise ValueError(
                f"`data` is {'None' if batch is None else 'given'}, and so is `simulate`; expected one of the two."
            )
        key_simulate, key_insert, key_draw, key_inner = jax.random.split(key, 4)
        due = carry.step % self.every == 0
        if self.simulate is not None:
            # only the simulation is conditional: a reservoir that passes through a branch is copied
            shapes = jax.eval_shape(self.simulate, key_simulate)
            nothing = lambda _: jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
            batch = lax.cond(due, self.simulate, nothing, key_simulate)
        reservoir = carry.reservoir.insert(batch, key=key_insert, valid=due)
        inner, prepare = carry.inner, getattr(self.objective, "prepare", None)
        if prepare is not None:
            drawn, _ = reservoir.sample(self.batch_size, key=key_draw)
            inner = prepare(model, drawn, key=key_inner, carry=inner)
        return OnlineCarry(reservoir, carry.step + 1, inner)

    def __call__(
        self, model: Any, batch: Any, *, key: PRNGKeyArray, carry: OnlineCarry
    ) -> tuple[Terms, Mapping[str, Array], OnlineCarry]:
        """See `Objective`."""
        _, _, key_draw, key_inner = jax.random.split(key, 4)
        drawn, reservoir = carry.reservoir.sample(self.batch_size, key=key_draw)
        terms, metrics, inner = self.objective(model, drawn, key=key_inner, carry=carry.inner)
        counts = {"arrived": reservoir.arrived, "refused": reservoir.refused}
        return terms, {**metrics, **counts}, OnlineCarry(reservoir, carry.step, inner)


@eqx.filter_jit
def _filled(reservoir: Reservoir, simulate: Simulate, keys: Key[Array, " blocks"]) -> Reservoir:
    """The reservoir after a block from each of the keys."""

    def insert(reservoir, key):
        key_simulate, key_insert = jax.random.split(key)
        return reservoir.insert(simulate(key_simulate), key=key_insert), None

    return lax.scan(insert, reservoir, keys)[0]
