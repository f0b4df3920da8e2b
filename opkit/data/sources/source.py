"""Where samples come from, and the order they come in."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import lru_cache

import jax
import numpy as np
from jaxtyping import Int, PyTree, Shaped
from numpy.typing import DTypeLike

from ..files.arrays import open_hdf5
from ..files.pairs import check_finite, with_channels


class Source(ABC):
    """Samples by number, read when asked for: what does not fit on the device streams from one."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of samples."""

    @abstractmethod
    def take(self, indices: Int[np.ndarray, " batch"]) -> PyTree:
        """A PyTree of NumPy arrays `(batch, ...)`: the samples of those numbers, in that order, repeats allowed."""


class ArraySource(Source):
    """Samples of a PyTree of arrays `(samples, ...)` in the host's memory, `numpy.memmap` among them.

    **Raises:** `ValueError` for no array, or lengths that differ.
    """

    def __init__(self, arrays: PyTree[Shaped[np.ndarray, "..."]]):
        self._arrays = arrays
        self._length = count_samples(arrays)

    def __len__(self) -> int:
        return self._length

    def take(self, indices: Int[np.ndarray, " batch"]) -> PyTree:
        """The samples of those numbers."""
        return jax.tree.map(lambda array: array[indices], self._arrays)


class HDF5Source(Source):
    """Samples of datasets `(samples, ...)` in an HDF5 file that stays on disk; a tuple in the order of `names`.

    The file stays open until `close()`, or the end of a `with` block.

    **Arguments:** `names`: the datasets. `ndim`: the number of axes of space; a dataset without an axis of channels
    gets one, as in `read_pairs`. `dtype`: what samples are cast to; by default floats stay what they are.

    **Raises:** `ValueError` naming the file and the dataset: not HDF5, truncated, no such dataset, lengths that
    differ, a rank that does not fit `ndim`; from `take`, samples with NaN or infinity. `FileNotFoundError`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        names: Sequence[str] = ("x_train", "y_train"),
        *,
        ndim: int,
        dtype: DTypeLike | None = None,
    ):
        self._path, self._names, self._ndim, self._dtype = path, tuple(names), ndim, dtype
        self._file, self._datasets = open_hdf5(path)
        try:
            for name in names:
                if name not in self._datasets:
                    raise ValueError(f"{path} has no dataset {name!r}; it has {sorted(self._datasets)}.")
            shapes = {name: getattr(self._datasets[name], "shape", ()) for name in names}
            lengths = {shape[0] if shape else 0 for shape in shapes.values()}
            if len(lengths) != 1 or 0 in lengths:
                raise ValueError(f"{path}: {shapes} are the shapes; expected (samples, ...), as many samples in all.")
            self._length = lengths.pop()
            self.take(np.arange(1))
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return self._length

    def __enter__(self) -> "HDF5Source":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def take(self, indices: Int[np.ndarray, " batch"]) -> tuple[Shaped[np.ndarray, "batch ..."], ...]:
        """The samples of those numbers."""
        unique, inverse = np.unique(indices, return_inverse=True)  # h5py reads ascending numbers only
        return tuple(self._read(name, unique)[inverse] for name in self._names)

    def _read(self, name: str, numbers: np.ndarray) -> np.ndarray:
        where = f"{self._path}: {name!r}"
        try:
            samples = self._datasets[name][numbers]
        except OSError as error:
            raise ValueError(f"{where} is truncated or damaged ({error}); fetch or write it again.") from error
        samples = with_channels(where, samples, ndim=self._ndim, dtype=self._dtype)
        check_finite(where, samples, numbers)
        return samples


def count_samples(arrays: PyTree) -> int:
    """The common length of the leading axes.

    **Raises:** `ValueError` for no array, or lengths that differ.
    """
    leaves = jax.tree_util.tree_leaves_with_path(arrays)
    shapes = {jax.tree_util.keystr(path) or "data": np.shape(leaf) for path, leaf in leaves}
    lengths = {shape[0] if shape else 0 for shape in shapes.values()}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            f"`arrays` have shapes {shapes}; expected (samples, ...), as many samples in all, at least one."
        )
    return lengths.pop()


def index_stream(samples: int, batch_size: int, seed: int) -> Callable[[int, int], Int[np.ndarray, "steps batch"]]:
    """The numbers of the samples each training step sees, a function of seed and step alone.

    Random permutations of all samples, one an epoch, are laid end to end; step `s` takes positions `[s B, (s + 1) B)`.
    So each sample is seen once an epoch, none is dropped where `B` does not divide their number, and every batch has
    `B` samples (one that straddles two epochs may hold a sample twice).

    **Returns:** `indices(start, stop)`, int32 `(stop - start, batch_size)`: the batches of those steps.

    **Raises:** `ValueError` for a batch larger than the data.
    """
    if not 1 <= batch_size <= samples:
        raise ValueError(f"`batch_size` is {batch_size} for {samples} samples; expected 1 to {samples}.")

    @lru_cache(maxsize=2)
    def permutation(epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, epoch]).permutation(samples).astype(np.int32)

    def indices(start: int, stop: int) -> np.ndarray:
        first, last = start * batch_size, stop * batch_size
        epochs = range(first // samples, -(-last // samples))
        positions = np.concatenate([permutation(epoch) for epoch in epochs])
        offset = epochs.start * samples
        return positions[first - offset : last - offset].reshape(stop - start, batch_size)

    return indices
