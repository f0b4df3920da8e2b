"""Open array files, `.npz` and HDF5, told apart by their content; what is wrong is a `ValueError` naming the file."""

import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np

_NPZ, _HDF5 = b"PK\x03\x04", b"\x89HDF\r\n\x1a\n"
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, KeyError, RuntimeError)


@contextmanager
def open_arrays(path: str | os.PathLike[str]) -> Iterator[Mapping[str, Any]]:
    """The arrays of an `.npz` or HDF5 file by name; read one with `read_array`.

    An `.npz` has checksums; HDF5 has none unless written with `fletcher32=True`, so that a flipped bit in its numbers
    goes unseen.

    **Raises:** `ValueError` for another format, or a truncated file. `FileNotFoundError`.
    """
    start = _start(path)
    if start.startswith(_NPZ):
        with Path(path).open("rb") as file:
            try:
                archive = np.load(file, allow_pickle=False)
            except (*_DAMAGE, ValueError) as error:
                raise ValueError(f"{path} is truncated or damaged ({error}); fetch or write it again.") from error
            yield archive
    elif start == _HDF5:
        file, arrays = open_hdf5(path)
        with file:
            yield arrays
    else:
        raise ValueError(f"{path} begins with {start!r}: neither .npz nor HDF5; write it with `numpy.savez` or h5py.")


def open_hdf5(path: str | os.PathLike[str]) -> tuple[Any, dict[str, Any]]:
    """An `h5py.File`, open for reading, and what is at its top. **Raises:** as `open_arrays`."""
    import h5py

    start = _start(path)
    if start != _HDF5:
        raise ValueError(f"{path} begins with {start!r}: not an HDF5 file; `read_pairs` reads .npz too.")
    file = None
    try:
        file = h5py.File(path, "r")
        return file, {str(name): file[name] for name in file}
    except (*_DAMAGE, TypeError, ValueError) as error:
        if file is not None:
            file.close()
        raise ValueError(f"{path} is truncated or damaged ({error}); fetch or write it again.") from error


def read_array(path: str | os.PathLike[str], arrays: Mapping[str, Any], name: str) -> np.ndarray:
    """One array of an open file, whole.

    **Raises:** `ValueError` naming file and array: not there, not numbers, pickled, damaged.
    """
    if name not in arrays:
        raise ValueError(f"{path} has no array {name!r}; it has {sorted(arrays)}.")
    try:
        array = arrays[name][()]
    except _DAMAGE as error:
        raise ValueError(f"{path}: {name!r} is truncated or damaged ({error}); fetch or write it again.") from error
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise ValueError(f"{path}: {name!r} is damaged ({error}); fetch or write it again.") from error
        raise ValueError(
            f"{path}: {name!r} is pickled Python objects, which can run code when loaded; save it as plain numbers."
        ) from error
    except TypeError as error:
        raise ValueError(f"{path}: {name!r} is a group; expected an array at the top of the file.") from error
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{path}: {name!r} has dtype {array.dtype}; expected real numbers or booleans.")
    return cast(np.ndarray, array)


def _start(path: str | os.PathLike[str]) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(len(_HDF5))
