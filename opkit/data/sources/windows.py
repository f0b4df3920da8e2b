"""Stretches of trajectories as samples."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Int, PyTree

from .source import Source, count_samples


class WindowSource(Source):
    """All stretches of trajectories, as samples: what `fit` and `evaluate` take.

    A sample is a trajectory and a frame of it. As a pair `(x, y)`, `x` is that frame, `(c, *n)`, and `y` the frame
    `every` later; with `steps`, `y` is `(steps, c, *n)`, the frames `every`, `2 every`, ... later. `joined`, it is the
    window `(steps + 1, c, *n)` of all these, or `(window, args)`: the batches of the rollout recipes.

    **Arguments:** `states`: `(samples, time, c, *n)`, an array, or an HDF5 dataset that stays on disk. `args`: with
    `joined`, the parameters of each trajectory, a PyTree of arrays `(samples, ...)` in memory.

    **Raises:** `ValueError` for too few axes, numbers below 1, trajectories too short for a pair, or `args` that are
    not joined or of another number.
    """

    def __init__(
        self, states: Any, *, every: int = 1, steps: int | None = None, joined: bool = False, args: PyTree = None
    ):
        if len(states.shape) < 4 or not states.shape[0]:
            raise ValueError(f"`states` has shape {tuple(states.shape)}; expected (samples, time, channels, *n).")
        if every < 1 or (steps is not None and steps < 1):
            raise ValueError(f"`every` is {every}, `steps` {steps}; expected 1 or more.")
        if args is not None and (not joined or count_samples(args) != states.shape[0]):
            raise ValueError(
                f"`args` has {count_samples(args)} samples, `states` {states.shape[0]}, `joined` is {joined}; expected "
                "parameters of every trajectory, which go with joined windows."
            )
        self._states, self._every, self._steps, self._joined, self._args = states, every, steps, joined, args
        self._windows = states.shape[1] - every * (steps or 1)
        if self._windows < 1:
            raise ValueError(
                f"`states` has {states.shape[1]} frames; {steps or 1} steps of {every} frames need "
                f"{every * (steps or 1) + 1}."
            )

    def __len__(self) -> int:
        return self._states.shape[0] * self._windows

    def take(self, indices: Int[np.ndarray, " batch"]) -> Any:
        """The samples of those numbers; sample `i` begins at frame `i % w` of trajectory `i // w`, of `w` possible."""
        span = self._every * (self._steps or 1) + 1
        samples, frames = np.divmod(indices, self._windows)
        begins = zip(samples, frames, strict=True)
        windows = np.stack([self._states[sample, frame : frame + span : self._every] for sample, frame in begins])
        if self._joined:
            return windows if self._args is None else (windows, jax.tree.map(lambda a: a[samples], self._args))
        return windows[:, 0], windows[:, 1] if self._steps is None else windows[:, 1:]
