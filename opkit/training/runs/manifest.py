"""What is written of a PyTree: its arrays by path, each with shape, dtype and checksum; and the way back."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ..parallel.processes import sum_over_processes

Entry = dict[str, Any]
"""`{"path", "shape", "dtype", "crc32"}` of one array; the dtype of a typed key is `"key:"` and its implementation.

Of an array in pieces, `crc32` is the list of theirs, and `"pieces"` that of their bounds, `[start, stop]` an axis."""


class StructureError(ValueError):
    """The arrays written down are not those the program has; the message names the first path that differs."""


class DamagedError(ValueError):
    """The bytes read are not the bytes written."""


def describe(tree: PyTree, *, in_pieces: bool = False) -> tuple[dict[str, Any], list[Entry]]:
    """Copies of the arrays of `tree` on the host, by path, and their entries in the order of the tree.

    Typed keys are written as their key data. Leaves that are no arrays are left out. With `in_pieces`, arrays that no
    device has whole are copied where they lie, and each process reads its own pieces; all are to call together.
    """
    arrays, entries = {}, []
    for path, leaf in _leaves(tree):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        if path in arrays:
            raise ValueError(f"`tree` has two arrays at the path {path}; rename the dictionary key with a '/' in it.")
        data = jax.random.key_data(leaf) if is_key else leaf
        entry: Entry = {"path": path, "shape": list(leaf.shape)}
        entry["dtype"] = f"key:{jax.random.key_impl(leaf)}" if is_key else data.dtype.name
        if in_pieces and isinstance(data, jax.Array) and data.size and not data.is_fully_replicated:
            arrays[path] = jnp.copy(data)
            entry["pieces"], entry["crc32"] = _pieces(data)
        else:
            arrays[path] = np.array(data, order="C")
            entry["crc32"] = crc32(arrays[path])
        entries.append(entry)
    in_all = sum_over_processes([crc for entry in entries if "pieces" in entry for crc in entry["crc32"]])
    for entry in entries:
        if "pieces" in entry:
            entry["crc32"], in_all = in_all[: len(entry["pieces"])], in_all[len(entry["pieces"]) :]
    return arrays, entries


def verify(arrays: Mapping[str, np.ndarray], entries: Sequence[Entry]) -> None:
    """Raise `DamagedError` unless `arrays` are, to the bit, those the entries were made of."""
    for entry in entries:
        path = entry["path"]
        if path not in arrays:
            raise DamagedError(f"the array {path} is missing")
        if "pieces" in entry:
            found = [crc32(arrays[path][tuple(slice(*bounds) for bounds in piece)]) for piece in entry["pieces"]]
        else:
            found = crc32(arrays[path])
        if found != entry["crc32"]:
            raise DamagedError(f"the checksum of the array {path} is wrong")


def fill(like: PyTree, arrays: Mapping[str, np.ndarray], entries: Sequence[Entry], *, same_dtype: bool) -> PyTree:
    """`like` with its arrays (or `jax.ShapeDtypeStruct`s) replaced by those of the same path.

    All else comes from `like`, as does the device. Paths and shapes must agree, and dtypes too if `same_dtype`;
    otherwise only their kind (a model cast to another precision before it was saved comes back in that precision).

    **Raises:** `StructureError`, naming the first path that differs.
    """
    leaves = dict(_leaves(like))
    for written, path in zip(entries, leaves, strict=False):
        if written["path"] != path:
            raise StructureError(f"the first difference: {_text(written)} was written where the program has {path}.")
        if not _agree(written, leaves[path], same_dtype):
            leaf = leaves[path]
            raise StructureError(
                f"{_text(written)} was written; the program has {tuple(leaf.shape)} {leaf.dtype} in that place."
            )
    if len(entries) > len(leaves):
        raise StructureError(f"{_text(entries[len(leaves)])} was written; the program has no such array.")
    if len(entries) < len(leaves):
        raise StructureError(f"{list(leaves)[len(entries)]} of the program was not written.")
    new = iter([_placed(arrays[entry["path"]], entry, leaves[entry["path"]]) for entry in entries])
    return jax.tree.map(lambda leaf: next(new) if _is_array(leaf) else leaf, like)


def stored(entry: Entry) -> tuple[tuple[int, ...], Any]:
    """The shape and the dtype of what is written for `entry`: a typed key's are those of its key data."""
    shape = tuple(entry["shape"])
    if not entry["dtype"].startswith("key:"):
        return shape, jnp.dtype(entry["dtype"])
    data = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0, impl=entry["dtype"].removeprefix("key:"))))
    return (*shape, *data.shape), data.dtype


def crc32(array: np.ndarray) -> int:
    """The CRC-32 of the bytes of `array` in C order."""
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _pieces(array: jax.Array) -> tuple[list, list[int]]:
    """The bounds of each piece, and the CRC-32 of those that this process is to write; 0 for the others."""

    def bounds(index: tuple[slice, ...]) -> tuple[tuple[int, int], ...]:
        return tuple(part.indices(size)[:2] for part, size in zip(index, array.shape, strict=True))

    pieces = sorted({bounds(index) for index in array.sharding.devices_indices_map(array.shape).values()})
    own = {bounds(shard.index): shard.data for shard in array.addressable_shards if shard.replica_id == 0}
    crcs = [crc32(np.asarray(own[piece])) if piece in own else 0 for piece in pieces]
    return [[list(pair) for pair in piece] for piece in pieces], crcs


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct)


def _leaves(tree: PyTree) -> list[tuple[str, Any]]:
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in flat if _is_array(leaf)]


def _text(entry: Entry) -> str:
    return f"{entry['path']} {tuple(entry['shape'])} {entry['dtype']}"


def _agree(written: Entry, leaf: Any, same_dtype: bool) -> bool:
    if tuple(written["shape"]) != tuple(leaf.shape):
        return False
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    if is_key or written["dtype"].startswith("key:"):
        return is_key and written["dtype"].startswith("key:") and _key_dtype(written["dtype"]) == leaf.dtype
    dtype = jnp.dtype(written["dtype"])
    if same_dtype:
        return dtype == leaf.dtype
    return any(
        jnp.issubdtype(dtype, kind) and jnp.issubdtype(leaf.dtype, kind)
        for kind in (jnp.floating, jnp.complexfloating, jnp.integer, jnp.bool_)
    )


def _key_dtype(name: str) -> Any:
    return jax.eval_shape(lambda: jax.random.key(0, impl=name.removeprefix("key:"))).dtype


def _placed(array: np.ndarray, entry: Entry, leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray | np.generic):
        return array if isinstance(leaf, np.ndarray) else array[()]
    placed = jnp.asarray(array)
    if placed.dtype != array.dtype:
        raise StructureError(
            f"{_text(entry)} was written, and JAX has {array.dtype} switched off; turn on `jax_enable_x64`."
        )
    if entry["dtype"].startswith("key:"):
        placed = jax.random.wrap_key_data(placed, impl=entry["dtype"].removeprefix("key:"))
    elif leaf.weak_type and placed.dtype == leaf.dtype:  # or the program would promote, and compile, otherwise
        placed = jax.lax.full_like(leaf, 0).at[...].set(placed)
    # A committed array must stay where it was, and one that was free must stay free to join others.
    return jax.device_put(placed, leaf.sharding) if getattr(leaf, "committed", False) else placed
