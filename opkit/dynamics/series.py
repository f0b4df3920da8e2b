"""What models of irregular time series share: the checks of times, the common grid, the precision."""

from typing import Any, TypeVar

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

T = TypeVar("T")


def on_common_times(
    ts: Float[np.ndarray, "batch n"], values: Float[np.ndarray, "batch n c"], mask: Bool[np.ndarray, "batch n c"]
) -> tuple[Float[np.ndarray, " times"], Float[np.ndarray, "batch times c"], Bool[np.ndarray, "batch times c"]]:
    """Series with times of their own, on the union of all times: `(times, values, mask)`.

    So a batch becomes one state and is solved for once, with shared steps. What `mask` excludes (padding, missing
    channels) is left out, and zero in the result.
    """
    times, place = np.unique(ts[mask.any(-1)], return_inverse=True)
    places = np.zeros(ts.shape, int)
    places[mask.any(-1)] = place.reshape(-1)
    sample, row, channel = np.nonzero(mask)
    shape = (len(ts), len(times), values.shape[-1])
    merged, seen = np.zeros(shape, values.dtype), np.zeros(shape, bool)
    at = (sample, places[sample, row], channel)
    merged[at], seen[at] = values[mask], True
    return times, merged, seen


def check_times(name: str, ts: Float[Array, " n"], *, strictly: bool = False, after: Any = None) -> None:
    """Raises `ValueError` for times that do not increase, or begin before `after`; traced ones are not looked at."""
    if isinstance(ts, Tracer):
        return
    times = np.asarray(ts)
    gaps = np.diff(times)
    wrong = ~(gaps > 0) if strictly else ~(gaps >= 0)
    if wrong.any():
        i = int(np.argmax(wrong))
        raise ValueError(
            f"`{name}` has {times[i]!s} at {i} and {times[i + 1]!s} after it; expected "
            f"{'strictly ' if strictly else ''}increasing times. Sort the samples by them"
            + (", and merge what was observed at the same time." if strictly else " (padding repeats the last one).")
        )
    if after is not None and not isinstance(after, Tracer) and times[0] < after:
        raise ValueError(f"`{name}` begins at {times[0]!s}; expected no time before {np.asarray(after)!s}, the start.")


def in_precision(module: T, dtype: DTypeLike) -> T:
    """The module with its real arrays cast, so that precision follows the input."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf, module)
