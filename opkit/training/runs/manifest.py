"""What is written of a PyTree: its arrays by path, each with shape, dtype and checksum; and the way back."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

Entry = dict[str, Any]
"""`{"path", "shape", "dtype", "crc32"}` of one array; the dtype of a typed key is `"key:"` and its implementation."""


class StructureError(ValueError):
    """The arrays written down are not those the program has; the message names the first path that differs."""


class DamagedError(ValueError):
    """The bytes read are not the bytes written."""


def describe(tree: PyTree) -> tuple[dict[str, np.ndarray], list[Entry]]:
    """Copies of the arrays of `tree` on the host, by path, and their entries in the order of the tree.

    Typed keys are written as their key data. Leaves that are no arrays are left out.
    """
    arrays, entries = {}, []
    for path, leaf in _leaves(tree):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        if path in arrays:
            raise ValueError(f"`tree` has two arrays at the path {path}; rename the dictionary key with a '/' in it.")
        array = np.array(jax.random.key_data(leaf) if is_key else leaf, order="C")
        dtype = f"key:{jax.random.key_impl(leaf)}" if is_key else array.dtype.name
        arrays[path] = array
        entries.append({"path": path, "shape": list(leaf.shape), "dtype": dtype, "crc32": crc32(array)})
    return arrays, entries


def verify(arrays: Mapping[str, np.ndarray], entries: Sequence[Entry]) -> None:
    """Raise `DamagedError` unless `arrays` are, to the bit, those the entries were made of."""
    for entry in entries:
        path = entry["path"]
        if path not in arrays:
            raise DamagedError(f"the array {path} is missing")
        if crc32(arrays[path]) != entry["crc32"]:
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
