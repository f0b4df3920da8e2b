"""Objectives on transformed samples."""

from collections.abc import Callable
from typing import Any

import jax

from opkit.data import count_samples

from ..keys import fold_key, sample_keys
from ..terms import Objective


def augmented(objective: Objective, transform: Callable[..., Any]) -> Objective:
    """The same objective on `transform(sample, key=...)` of each sample, drawn anew at every training step.

    A sample is what the batch has of it: of `(x, y)` the pair `(x[i], y[i])`, of `u: (batch, time, c, *n)` a
    trajectory. The transformation is computed in the step, on the device, and its shapes are those of the sample. With
    `opkit.data.augmentation(...)` these are symmetries of an equation. The objective gets a key of its own.

    **Raises:** `ValueError` for an objective with `prepare`, which would see other samples than it is evaluated on.
    """
    if getattr(objective, "prepare", None) is not None:
        raise ValueError(
            f"`objective` is a {type(objective).__name__} with `prepare`, which sees the batch as it is; augment the "
            "data of its parts instead."
        )

    def on_transformed(model, batch, *, key, carry):
        keys = sample_keys(fold_key(key, 1), count_samples(batch))
        batch = jax.vmap(lambda sample, key: transform(sample, key=key))(batch, keys)
        return objective(model, batch, key=fold_key(key, 0), carry=carry)

    return on_transformed
