"""Trajectories of a partial differential equation in memory."""

import os
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from .arrays import open_hdf5, read_array
from .pairs import check_finite


class Trajectories(NamedTuple):
    """What a file of trajectories holds; arrays are NumPy's.

    - `states`: `(samples, time, channels, *n)`; `channels`: their names.
    - `times`: `(time,)`, or `(samples, time)` where samples have their own.
    - `axes`: the coordinates along each axis of space, `(n_j,)` each; empty where the file does not give them.
    - `boundary`: per axis `"periodic"`, `"wall"`, `"open"`, `""` (unknown), or two of them with a `/` between.
    - `constants`: fields that do not change in time, `(samples, *n)` each.
    - `parameters`: numbers by name, `()` where common to all, `(samples,)`, or with an axis of time behind.
    """

    states: Float[np.ndarray, "samples time c *n"]
    channels: tuple[str, ...]
    times: Float[np.ndarray, "..."]
    axes: tuple[Float[np.ndarray, " _"], ...]
    boundary: tuple[str, ...]
    constants: Mapping[str, np.ndarray]
    parameters: Mapping[str, np.ndarray]


def read_trajectories(path: str | os.PathLike[str], part: str = "train") -> Trajectories:
    """Read the `"train"` or `"test"` trajectories of a file that `generate` made.

    **Raises:** `ValueError` for a damaged file or one of another making. `FileNotFoundError`.
    """
    file, arrays = open_hdf5(path)
    with file:
        states = read_array(path, arrays, f"u_{part}")
        axes = tuple(read_array(path, arrays, name) for name in "xyz"[: states.ndim - 3])
        coefficients = dict(arrays.get(f"parameters_{part}", {}))
        parameters = {name: read_array(path, coefficients, name) for name in coefficients}
        boundary = tuple(str(side) for side in file.attrs.get("boundary", [""] * len(axes)))
        channels = tuple(f"u{i}" for i in range(states.shape[2]))
        check_finite(f"{path}: 'u_{part}'", states, np.arange(len(states)))
        return Trajectories(states, channels, read_array(path, arrays, "t"), axes, boundary, {}, parameters)
