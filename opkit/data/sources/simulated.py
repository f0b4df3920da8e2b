"""Samples that are simulated when they are asked for, on devices of their own."""

from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, PRNGKeyArray, PyTree

from .source import Source


class SimulatedSource(Source):
    """Sample `i` is `simulate(fold_in(key, i))`, computed on `devices` whenever it is asked for; nothing is kept.

    `fit` reads one chunk ahead, so that these devices simulate while another trains, and wait when they are first:

        train, *rest = jax.devices()
        source = SimulatedSource(solve, 100_000, key=key, devices=rest)
        fit(objective, model, source, optimiser, batch_size=50, steps=2000, seed=0, devices=[train])

    It is passed once where `steps batch_size` is `samples`. To see each sample several times, train by `Online`.

    **Arguments:** `simulate`: maps a key to one sample, a PyTree of arrays; it is jitted. `samples`: how many there
    are. `devices`: by default the first one. `block`: samples a device solves at a time; a last block is filled up.

    **Raises:** `ValueError` for numbers below one or no devices.
    """

    def __init__(
        self,
        simulate: Callable[[PRNGKeyArray], PyTree],
        samples: int,
        *,
        key: PRNGKeyArray,
        devices: Sequence[Any] | None = None,
        block: int = 16,
    ):
        if samples < 1 or block < 1:
            raise ValueError(f"`samples` is {samples}, `block` {block}; expected 1 or more.")
        if devices is not None and not devices:
            raise ValueError("`devices` is empty; expected one or more, such as jax.devices()[1:].")
        self._samples, self._block = samples, block
        self._devices = list(devices or jax.devices()[:1])
        self._key = key
        self._double = jnp.result_type(float) == np.float64
        self._solve = jax.jit(
            lambda keys, numbers: jax.vmap(simulate)(jax.vmap(jax.random.fold_in, (None, 0))(keys, numbers))
        )

    def __len__(self) -> int:
        return self._samples

    def take(self, indices: Int[np.ndarray, " batch"]) -> PyTree:
        """The samples of those numbers."""
        starts = range(0, len(indices), self._block)
        numbers = np.resize(np.asarray(indices, np.uint32), (len(starts), self._block))
        with jax.enable_x64(self._double):  # `fit` reads in a thread, which a surrounding `enable_x64` does not reach
            blocks = [
                self._solve(*jax.device_put((self._key, block), device))
                for block, device in zip(numbers, cycle(self._devices), strict=False)
            ]
            blocks = jax.device_get(blocks)
        return jax.tree.map(lambda *parts: np.concatenate(parts)[: len(indices)], *blocks)
