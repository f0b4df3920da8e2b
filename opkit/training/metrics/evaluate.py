"""Measure a model on data, sample by sample."""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float

from opkit.data import ArraySource, Source
from solvers import Domain

Metric = Callable[[Any, Any, Any], Any]


def evaluate(
    model: Callable[..., Any],
    data: Mapping[str, Any],
    metrics: Mapping[str, Metric],
    domains: Mapping[str, Domain | None],
    *,
    batch_size: int = 64,
) -> dict[str, Float[np.ndarray, " samples"]]:
    """The metrics of every sample of every data set, as `{"relative_l2@32": (samples,)}`.

    A model is an operator, called as `model(x[i], domain)`; a `None` for its domain makes it a function `model(x[i])`.
    One batch at a time is on the device. Compiled once for each shape of batch and each set of functions in `metrics`,
    so keep those rather than build them anew for every call.

    **Arguments:** `data`: by label, often the resolution, pairs `(x, y)` of arrays `(samples, c, *n)` or a `Source` of
    them. `metrics`: by name, functions of one sample, such as `relative_l2`. `domains`: by label, where `x` and `y`
    live.

    **Raises:** `ValueError` for a label without a domain.
    """
    missing = [label for label in data if label not in domains]
    if missing:
        raise ValueError(f"`domains` has none for {missing[0]!r}; it has {sorted(domains)}.")
    scores = {}
    for label, pairs in data.items():
        source = pairs if isinstance(pairs, Source) else ArraySource(pairs)
        parts = []
        for start in range(0, len(source), batch_size):
            wanted = np.arange(start, min(start + batch_size, len(source)))
            full = np.resize(wanted, min(batch_size, len(source)))  # a short last batch repeats some: one compilation
            x, y = source.take(full)
            values = jax.device_get(_scores(model, tuple(metrics.values()), x, y, domains[label]))
            parts.append([value[: len(wanted)] for value in values])
        for name, values in zip(metrics, zip(*parts, strict=True), strict=True):
            scores[f"{name}@{label}"] = np.concatenate(values)
    return scores


@eqx.filter_jit
def _scores(model, metrics, x, y, domain):
    def one(u, target):
        prediction = model(u) if domain is None else model(u, domain)
        return [metric(prediction, target, domain) for metric in metrics]

    return jax.vmap(one)(x, y)
