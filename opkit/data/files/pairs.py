"""Read pairs of input and output fields from a file, and refuse files that would train on nonsense."""

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import DTypeLike

from .arrays import open_arrays, read_array

Pair = tuple[Float[np.ndarray, "samples cin *n"], Float[np.ndarray, "samples cout *n"]]


class Pairs(NamedTuple):
    """Inputs and outputs `(samples, channels, *n)`, read-only: those to train on, and tests by resolution (`"32"`)."""

    train: Pair
    test: Mapping[str, Pair]


def read_pairs(path: str | os.PathLike[str], *, ndim: int, dtype: DTypeLike | None = None) -> Pairs:
    """Read `x_train, y_train, x_test, y_test` and any further tests `x_test32, y_test32` from an `.npz` or HDF5 file.

    Arrays are `(samples, *n)` or `(samples, channels, *n)`; the former get one channel. Booleans and integers become
    floats. A test is labelled by its points along the first axis of space. Other arrays in the file are not read.

    **Arguments:** `ndim`: the number of axes of space, which tells channels from space. `dtype`: what to cast to; by
    default the wider float type of a pair's two arrays, float32 where both are booleans or integers.

    **Raises:** `ValueError` naming the file and the array: missing, pickled, damaged, of a wrong rank, empty, with NaN
    or infinity, or with a partner of another length or resolution; or if the file is neither format.
    `FileNotFoundError`.
    """
    with open_arrays(path) as arrays:
        test = {}
        for suffix in ["", *sorted({m[1] for name in arrays if (m := re.fullmatch(r"[xy]_test(\d+)", name))})]:
            x, y = _read_pair(path, arrays, f"x_test{suffix}", f"y_test{suffix}", ndim, dtype)
            label = str(x.shape[2])
            if suffix and suffix != label:
                raise ValueError(f"{path}: 'x_test{suffix}' has {label} points along its first axis of space.")
            if label in test:
                raise ValueError(f"{path}: 'x_test' and 'x_test{label}' both have {label} points; keep one.")
            test[label] = (x, y)
        train = _read_pair(path, arrays, "x_train", "y_train", ndim, dtype)
    for name, fields in (("x", 0), ("y", 1)):
        channels = {str(label): pair[fields].shape[1] for label, pair in {"train": train, **test}.items()}
        if len(set(channels.values())) > 1:
            raise ValueError(f"{path}: the {name} arrays differ in channels: {channels}; is `ndim={ndim}` right?")
    return Pairs(train, test)


def with_channels(
    where: str, array: np.ndarray, *, ndim: int, dtype: DTypeLike | None = None
) -> Float[np.ndarray, "samples c *n"]:
    """`(samples, c, *n)` as it is, `(samples, *n)` with one channel; without `dtype` floats stay, others are float32.

    **Raises:** `ValueError`, beginning with `where`, for another rank or no sample.
    """
    if array.ndim not in (ndim + 1, ndim + 2):
        raise ValueError(
            f"{where} has shape {array.shape}; with `ndim={ndim}` expected (samples, *n) or (samples, channels, *n),"
            f" {ndim + 1} or {ndim + 2} axes."
        )
    if 0 in array.shape:
        raise ValueError(f"{where} is empty: its shape is {array.shape}.")
    array = array[:, None] if array.ndim == ndim + 1 else array
    return array.astype(dtype or (array.dtype if array.dtype.kind == "f" else np.float32), copy=False)


def check_finite(where: str, array: np.ndarray, numbers: np.ndarray) -> None:
    """`ValueError`, beginning with `where`, that names the first of the samples `numbers` with NaN or infinity."""
    bad = numbers[~np.isfinite(array).all(axis=tuple(range(1, array.ndim)))]
    if len(bad):
        raise ValueError(
            f"{where} has NaN or infinity in {len(bad)} of {len(array)} samples, the first at index {bad[0]};"
            " mend or drop them."
        )


def _read_pair(path, arrays: Mapping, x_name: str, y_name: str, ndim: int, dtype: DTypeLike | None) -> Pair:
    raw = {name: read_array(path, arrays, name) for name in (x_name, y_name)}
    floats = [array.dtype for array in raw.values() if array.dtype.kind == "f"]
    common = dtype or (np.result_type(*floats) if floats else np.float32)
    x, y = (with_channels(f"{path}: {name!r}", array, ndim=ndim, dtype=common) for name, array in raw.items())
    if len(x) != len(y):
        raise ValueError(f"{path}: {x_name!r} has {len(x)} samples, {y_name!r} has {len(y)}; expected as many.")
    if x.shape[2:] != y.shape[2:]:
        raise ValueError(
            f"{path}: {x_name!r} is on {x.shape[2:]} points, {y_name!r} on {y.shape[2:]}; expected the same grid."
        )
    for name, array in ((x_name, x), (y_name, y)):
        check_finite(f"{path}: {name!r}", array, np.arange(len(array)))
        array.flags.writeable = False
    return x, y
