"""Chunks of training steps, compiled once a length."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

from .parallel.sharding import BATCH_AXIS, on_first, over_batch, place, place_parts, state_specs
from .state import TrainState
from .step import TrainStep


class NonFiniteLoss(FloatingPointError):
    """The loss, or the model after the update, stopped being finite at `step` (from 0), where the terms had the values
    `terms`, and the objective's metric `unsolved`, if it has one, that number; the latest checkpoint is from before."""

    step: int
    terms: dict[str, float]
    unsolved: int

    def __init__(self, step: int, terms: Mapping[str, float], unsolved: int = 0):
        self.step, self.terms, self.unsolved = step, dict(terms), unsolved
        values = ", ".join(f"{name} {value:.3g}" for name, value in self.terms.items())
        values += f" ({unsolved} unsolved)" if unsolved else ""
        what = "the update made the model" if all(map(math.isfinite, self.terms.values())) else "the loss is"
        super().__init__(
            f"{what} not finite at step {step}: {values}. Try a lower learning rate, warm-up or clipped gradients;"
            " checkpoints written before hold finite states."
        )


class Stopped(Exception):
    """Training was asked to stop, and did after `step` completed steps; if there are checkpoints, one holds them."""

    step: int

    def __init__(self, step: int):
        self.step = step
        super().__init__(f"stopped on request after step {step}.")


class Program:
    """The state, and the compiled chunks that move it on in its own memory."""

    def __init__(
        self,
        step: TrainStep,
        state: TrainState,
        seed: int,
        on_compile: Callable[[float], None] | None,
        *,
        mesh: Mesh | None,
        pool: P,
        shard_optimiser: bool,
    ):
        """`mesh`: of the devices that share a batch. `pool`: how the samples lie on them."""
        arrays, self._static = eqx.partition(state, eqx.is_array)
        self._arrays = jax.tree.map(_copy, arrays)  # donated: neither the caller's, nor one buffer at two places
        self._step, self._key = step, jax.random.key(seed)
        self._compiled: dict[int, Callable] = {}
        self._on_compile = on_compile
        self._mesh = mesh
        if mesh is not None:
            held = state_specs(arrays, mesh, shard_optimiser=shard_optimiser)
            self._specs = (held, pool, P(None, BATCH_AXIS), P())
            self._arrays, self._key = place(self._arrays, mesh, held), place(self._key, mesh, P())

    @property
    def state(self) -> TrainState:
        """The state, on the first device (of each process), in the memory it is trained in."""
        arrays = self._arrays if self._mesh is None else on_first(self._arrays, self._mesh)
        return eqx.combine(arrays, self._static)

    @property
    def spread_state(self) -> TrainState:
        """The state as it lies on the devices, in the memory it is trained in."""
        return eqx.combine(self._arrays, self._static)

    def put(self, pool: PyTree) -> PyTree:
        """Samples where `run` takes them from: all of them, or if `pool` is cut, those of this process's devices."""
        if self._mesh is None:
            return jax.tree.map(jnp.asarray, pool)
        return place(pool, self._mesh, P()) if self._specs[1] == P() else place_parts(pool, self._mesh)

    def run(self, pool: PyTree, chosen: Any) -> dict[str, np.ndarray]:
        """Take the steps whose batches are `pool[chosen[i]]`; their metrics, `finite` apart, which raises."""
        chunk = self._chunk
        if self._mesh is not None:
            chunk = over_batch(chunk, self._mesh, self._specs, (self._specs[0], P()))
            chosen = place(chosen, self._mesh, self._specs[2])
        if len(chosen) not in self._compiled:
            began = time.perf_counter()
            lowered = jax.jit(chunk, donate_argnums=0).lower(self._arrays, pool, chosen, self._key)
            self._compiled[len(chosen)] = lowered.compile()
            if self._on_compile is not None:
                self._on_compile(time.perf_counter() - began)
        first = int(self._arrays.step)
        self._arrays, metrics = self._compiled[len(chosen)](self._arrays, pool, chosen, self._key)
        metrics = jax.device_get(metrics)
        finite = metrics.pop("finite")
        if not finite.all():
            bad = int(np.argmin(finite))
            terms = {name: float(value[bad]) for name, value in metrics.items() if name.startswith("term/")}
            unsolved = int(metrics["unsolved"][bad]) if "unsolved" in metrics else 0
            terms = {name.removeprefix("term/"): value for name, value in terms.items()}
            raise NonFiniteLoss(first + bad, terms, unsolved)
        return metrics

    def _chunk(self, arrays, pool, chosen, key):
        def body(arrays, batch_indices):
            state = eqx.combine(arrays, self._static)
            batch = jax.tree.map(lambda array: array[batch_indices], pool)
            state, metrics = self._step(state, batch, key=jax.random.fold_in(key, state.step))
            return eqx.filter(state, eqx.is_array), metrics

        return jax.lax.scan(body, arrays, chosen)


def _copy(leaf: jax.Array) -> jax.Array:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        return jnp.copy(leaf)
    return jnp.array(leaf, leaf.dtype, copy=True)  # of strong type, as it will be after the first chunk
