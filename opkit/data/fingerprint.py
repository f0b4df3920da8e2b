"""A name for the content of data."""

import hashlib

import jax
import numpy as np
from jaxtyping import PyTree


def content_hash(arrays: PyTree) -> str:
    """SHA-256, in hexadecimal, over the paths, dtypes, shapes and values of a PyTree of arrays.

    The same on every machine, whatever the memory layout or the byte order; a result records it, so that it can say
    which data it was measured on.

    **Raises:** `ValueError` for a leaf that is no array of numbers.
    """
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(arrays):
        array = np.asarray(leaf)
        if array.dtype.hasobject:
            raise ValueError(
                f"`arrays` hold a {type(leaf).__name__} at {jax.tree_util.keystr(path)!r}; expected numbers."
            )
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype.name} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
