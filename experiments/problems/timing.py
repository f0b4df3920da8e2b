"""Times of several functions that can be compared: taken in turn."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np


def medians(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each call; one more in front of the `rounds` compiles."""
    stamps: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            jax.block_until_ready(call())
            if turn:
                stamps[name].append(time.perf_counter() - began)
    return {name: float(np.median(seconds)) for name, seconds in stamps.items()}
