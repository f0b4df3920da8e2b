"""Samples that are simulated when they are asked for, by any Python function, in other processes."""

from collections.abc import Callable
from itertools import islice
from typing import Any

import jax
import numpy as np
from jaxtyping import Int, PyTree

from .source import Source


class SimulationError(RuntimeError):
    """A simulation in another process raised an error, or its process died as often as it was tried."""


class WorkerSource(Source):
    """Sample `i` is `simulate(i)`, computed by Ray in other processes, of this machine or a cluster; nothing is kept.

    For solvers that are not JAX: a compiled program, another array library, a remote service.

        ray.init()                                   # or ray.init("auto") on a cluster
        source = WorkerSource(simulate, 100_000)
        objective = Online(supervised(relative_l2, grid), batch_size=32)
        carry = objective.start(Reservoir(source.take(np.arange(1)), 4096))
        fit(objective, model, source, optimiser, carry=carry, batch_size=4, steps=25_000, seed=0)

    Samples come in the order of their numbers, whichever process was first, so that training depends on none. `fit`
    reads one chunk ahead: the workers simulate while it trains, and wait when they are first. If a worker process dies,
    Ray computes its sample again in another.

    **Arguments:** `simulate`: a pure function of the number of a sample, its seed, to a PyTree of NumPy arrays. It is
    sent to the workers, which import what it does. `samples`: how many there are. `at_once`: tasks that are submitted
    and not yet collected, at most; by default twice the processors that Ray has. `retries`: of one sample, after the
    death of its process; an error that `simulate` raises is not tried again. `cpus`: processors a task occupies.

    **Raises:** `ValueError` for numbers out of range. `ImportError` without Ray, `RuntimeError` before `ray.init()`.
    From `take`, `SimulationError`.
    """

    def __init__(
        self,
        simulate: Callable[[int], PyTree],
        samples: int,
        *,
        at_once: int | None = None,
        retries: int = 3,
        cpus: float = 1,
    ):
        ray = _ray()
        if at_once is None:
            at_once = max(1, int(2 * ray.cluster_resources().get("CPU", 1) / max(cpus, 1)))
        if samples < 1 or at_once < 1 or retries < 0:
            raise ValueError(
                f"`samples` is {samples}, `at_once` {at_once}, `retries` {retries}; expected 1, 1 and 0 or more."
            )
        self._samples, self._at_once = samples, at_once
        self._task = ray.remote(num_cpus=cpus, max_retries=retries)(lambda number: simulate(number))

    def __len__(self) -> int:
        return self._samples

    def take(self, indices: Int[np.ndarray, " batch"]) -> PyTree:
        """The samples of those numbers."""
        ray = _ray()
        found: list[Any] = [None] * len(indices)
        waiting, running = iter(enumerate(indices.tolist())), {}
        try:
            while True:
                for place, number in islice(waiting, self._at_once - len(running)):
                    running[self._task.remote(number)] = place
                if not running:
                    break
                (done,), _ = ray.wait(list(running), num_returns=1)
                place = running.pop(done)
                try:
                    found[place] = ray.get(done)
                except ray.exceptions.RayError as error:
                    cause = getattr(error, "cause", None) or error  # what `simulate` raised, or what killed it
                    what = f"{type(cause).__name__}: {cause}"
                    raise SimulationError(f"The simulation of sample {indices[place]} failed: {what}") from error
        finally:
            for task in running:
                ray.cancel(task, force=True)
        return jax.tree.map(lambda *samples: np.stack(samples), *found)


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ImportError('Workers in other processes need Ray: pip install "opkit[online]".') from error
    if not ray.is_initialized():
        raise RuntimeError("Ray is not running; call `ray.init()` first, or on a cluster `ray.init('auto')`.")
    return ray
