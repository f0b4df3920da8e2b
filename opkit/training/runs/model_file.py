"""A model in one file: its arrays and the hyperparameters it is built from, in a safetensors container."""

import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import equinox as eqx
import numpy as np
from jaxtyping import PyTree

from .atomic import write_whole
from .manifest import DamagedError, Entry, StructureError, crc32, describe, fill, stored, verify
from .provenance import versions

_FORMAT = "opkit-model"
_VERSION = 1

M = TypeVar("M")


class ModelFileError(ValueError):
    """A model file that cannot be read as asked; the message names the file and what is wrong."""


def save_model(path: str | Path, model: PyTree, hyperparameters: Mapping[str, Any]) -> None:
    """Write the arrays of `model`, and the `hyperparameters` that `load_model` will hand to `build`.

    The file is a safetensors container (no code in it, nothing is unpickled); its metadata holds the format's
    version, the hyperparameters as JSON, the libraries' versions, and path, shape, dtype and CRC-32 of each array. It
    is written whole or not at all.

    **Arguments:** `model`: any PyTree; only its arrays are written, statistics of a normaliser and `Frozen` tables
    among them. `hyperparameters`: what JSON holds: numbers, strings, `None`, lists and dictionaries of these. A
    function goes by its name, which `build` looks up.

    **Raises:** `ValueError` for hyperparameters JSON does not hold, naming the key.
    """
    for name, value in hyperparameters.items():
        try:
            json.dumps(value)
        except TypeError as error:
            raise ValueError(f"`hyperparameters` has {name}={value!r}: {error}; name it by a string.") from None
    arrays, entries = describe(model)
    fields = {
        "format": _FORMAT,
        "version": str(_VERSION),
        "hyperparameters": json.dumps(dict(hyperparameters)),
        "versions": json.dumps(versions()),
        "arrays": json.dumps(entries),
    }
    write_whole(path, _pack(arrays, fields | {"checksum": _checksum(fields)}))


def load_model(path: str | Path, build: Callable[..., M]) -> M:
    """The model in the file: `build(**hyperparameters)` with the arrays that were saved.

    `build` is evaluated for its structure only, so nothing is initialised; JSON's lists come to it as tuples. Paths
    and shapes must be those saved, while the precision is the file's, as of a model cast to bfloat16 to deploy it.

        save_model("fno.safetensors", model, {"modes": (12, 12), "width": 32})
        model = load_model("fno.safetensors", lambda **h: FNO(**h, key=jax.random.key(0)))

    **Raises:** `ModelFileError` for a file that is not of this format, of a later version, damaged, or of another
    structure (the path is named), and for hyperparameters `build` refuses. `OSError` where there is no such file.
    """
    fields, arrays = _unpack(Path(path))
    hyperparameters = _tuples(json.loads(fields["hyperparameters"]))
    try:
        skeleton = eqx.filter_eval_shape(build, **hyperparameters)
    except Exception as error:  # `build` is the caller's; whatever it raises, the cause is these hyperparameters
        raise ModelFileError(
            f"{path}: `build` refuses the hyperparameters {hyperparameters}: {type(error).__name__}: {error}"
        ) from error
    try:
        return fill(skeleton, arrays, json.loads(fields["arrays"]), same_dtype=False)
    except StructureError as error:
        raise ModelFileError(
            f"{path} holds another model than `build` gives from {hyperparameters}; {error}"
        ) from error


Fields = dict[str, str]
Arrays = dict[str, np.ndarray]


def _named_by_path(fields: Fields, arrays: Arrays) -> tuple[Fields, Arrays]:
    """0 -> 1. Arrays were numbered, in the order of the tree, and nothing had a checksum."""
    entries: list[Entry] = [
        {"path": path, "shape": shape, "dtype": dtype, "crc32": crc32(arrays[str(i)])}
        for i, (path, shape, dtype) in enumerate(json.loads(fields["arrays"]))
    ]
    fields = fields | {"version": "1", "arrays": json.dumps(entries)}
    return fields | {"checksum": _checksum(fields)}, {e["path"]: arrays[str(i)] for i, e in enumerate(entries)}


_MIGRATIONS = {0: _named_by_path}
"""From each earlier version of the format to the next."""


def _pack(arrays: Arrays, fields: Fields) -> bytes:
    import safetensors.numpy

    # The container has no complex128: its parts go side by side.
    flat = {path: a.reshape(-1).view(np.float64) if a.dtype == np.complex128 else a for path, a in arrays.items()}
    return safetensors.numpy.save(flat, metadata=fields)


def _unpack(path: Path) -> tuple[Fields, Arrays]:
    import safetensors

    content = path.read_bytes()
    try:
        tensors = dict(safetensors.deserialize(content))
        length = int.from_bytes(content[:8], "little")
        fields = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    except Exception as error:  # the container's own error, or Unicode's where the header is not even text
        raise ModelFileError(
            f"{path} is no model file, or a truncated or damaged one ({error}). Was it written by `save_model`, "
            "and copied whole?"
        ) from error
    if fields.get("format") != _FORMAT:
        raise ModelFileError(f"{path} is a safetensors file, but no opkit model: its metadata has {sorted(fields)}.")
    found = fields.get("version", "")
    if found.isdecimal() and int(found) > _VERSION:
        raise ModelFileError(f"{path} has format version {found}; this program reads up to {_VERSION}. Update opkit.")
    try:
        arrays = {name: np.frombuffer(tensor["data"], np.uint8) for name, tensor in tensors.items()}
        for earlier in range(int(found), _VERSION):
            fields, arrays = _MIGRATIONS[earlier](fields, arrays)
        if fields.pop("checksum") != _checksum(fields):
            raise DamagedError("the checksum of its metadata is wrong")
        entries = json.loads(fields["arrays"])
        verify(arrays, entries)
        for entry in entries:
            shape, dtype = stored(entry)
            arrays[entry["path"]] = arrays[entry["path"]].view(dtype).reshape(shape)
    except Exception as error:  # a checksum, or whatever the rest makes of damaged metadata
        reason = error if isinstance(error, DamagedError) else f"its metadata cannot be read ({type(error).__name__})"
        raise ModelFileError(f"{path} is damaged: {reason}. Copy or save it again.") from error
    return fields, arrays


def _checksum(fields: Fields) -> str:
    return str(zlib.crc32(json.dumps(fields, sort_keys=True).encode()))


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tuples(v) for v in value)
    return {k: _tuples(v) for k, v in value.items()} if isinstance(value, dict) else value
