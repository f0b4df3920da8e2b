"""Grain's pipelines as sources, and sources in them: many files, and work on every sample, read by several threads."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jaxtyping import Int, PyTree

from .source import Source


class GrainSource(Source):
    """The samples of a `grain.MapDataset`, read and transformed by `threads` at a time.

    Grain knows many formats, and joins, mixes, splits and maps data sets:

        files = grain.sources.ArrayRecordDataSource(paths)
        decode = lambda record: np.frombuffer(record, np.float32).reshape(2, 1, 128)
        source = GrainSource(grain.MapDataset.source(files).map(decode))

    The order is not Grain's but `fit`'s, shuffled anew each epoch, and so is the place to resume from, the training
    step; don't `shuffle`. What `random_map` draws depends on a sample's number: `repeat(epochs)` draws anew for each.
    Bare arrays in one HDF5 file are read faster by `HDF5Source`.

    The threads end at `close()`, or the end of a `with` block.

    **Arguments:** `dataset`: of finite length, its elements PyTrees of arrays of one shape.

    **Raises:** `ValueError` for no threads or no samples; from `take`, for a sample that cannot be read or decoded, is
    `None` (`filter` leaves such gaps), or has another shape: with its number. `ImportError` without Grain.
    """

    def __init__(self, dataset: Any, *, threads: int = 8):
        _grain()
        if threads < 1 or not 1 <= len(dataset) < 2**31:
            raise ValueError(
                f"`threads` is {threads}, `dataset` has {len(dataset)} samples; expected 1 or more, fewer than 2^31."
            )
        self._dataset, self._pool = dataset, ThreadPoolExecutor(threads)

    def __len__(self) -> int:
        return len(self._dataset)

    def __enter__(self) -> "GrainSource":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def take(self, indices: Int[np.ndarray, " batch"]) -> PyTree:
        """The samples of those numbers."""
        samples = list(self._pool.map(self._read, indices.tolist()))
        shapes = [jax.tree.map(np.shape, sample) for sample in samples]
        for index, shape in zip(indices, shapes, strict=True):
            if shape != shapes[0]:
                raise ValueError(f"`dataset` has {shapes[0]} as sample {indices[0]} and {shape} as sample {index}.")
        return jax.tree.map(lambda *arrays: np.stack(arrays), *samples)

    def _read(self, index: int) -> Any:
        try:
            sample = self._dataset[index]
        except Exception as error:  # of the file's reader or the user's map, whichever they are
            what = f"{type(error).__name__}: {error}"
            raise ValueError(
                f"Sample {index} of {self._dataset} could not be read ({what}); fetch or write a damaged file again."
            ) from error
        if sample is None:
            raise ValueError(f"Sample {index} of {self._dataset} is None, as `filter` leaves; select before.")
        return sample


def as_grain(source: Source) -> Any:
    """A `grain.MapDataset` of the samples of `source`, for Grain's transformations, or for a loop of one's own:

        data = grain.MapDataset.concatenate([as_grain(HDF5Source(path, ndim=2)) for path in paths])
        batches = iter(data.shuffle(seed=0).repeat().map(augment).batch(32, drop_remainder=True))
        batches.set_state(state)                         # of `batches.get_state()`, where it was left

    In the order of Grain's seed; `iter` of a `MapDataset` reads ahead by threads. `GrainSource(data)` gives it back to
    `fit`.

    **Raises:** `ImportError` without Grain.
    """
    return _grain().MapDataset.source(_Records(source))


class _Records:
    """What Grain takes for a source: samples one at a time."""

    def __init__(self, source: Source):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Any:
        return jax.tree.map(lambda array: array[0], self._source.take(np.array([index])))

    def __iter__(self) -> Iterator[Any]:
        return map(self.__getitem__, range(len(self)))


def _grain() -> Any:
    try:
        import grain
    except ImportError as error:
        raise ImportError('Grain\'s data sets need Grain: pip install "opkit[stream]".') from error
    return grain
