"""Grain's data sets as sources, and sources as Grain's data sets."""

import sys

import h5py
import numpy as np
import pytest

from opkit.data import ArraySource, GrainSource, HDF5Source, as_grain

RNG = np.random.default_rng(0)
X, Y = (RNG.normal(size=(7, 1, 4)).astype(np.float32) for _ in range(2))


@pytest.fixture
def files(tmp_path):
    """Two files, of four samples and of three."""
    paths = []
    for part in (slice(0, 4), slice(4, 7)):
        paths.append(tmp_path / f"{part.start}.h5")
        with h5py.File(paths[-1], "w") as file:
            file["x_train"], file["y_train"] = X[part], Y[part]
    return paths


def joined(files):
    import grain

    return grain.MapDataset.concatenate([as_grain(HDF5Source(path, ndim=1)) for path in files])


def test_several_files_are_one_source_whose_samples_are_transformed_in_threads(files):
    with GrainSource(joined(files).map(lambda pair: (2 * pair[0], pair[1])), threads=3) as source:
        assert len(source) == 7
        wanted = np.array([6, 0, 3, 6])
        x, y = source.take(wanted)
    np.testing.assert_array_equal(x, 2 * X[wanted])
    np.testing.assert_array_equal(y, Y[wanted])


def test_a_loop_over_a_source_is_shuffled_and_goes_on_from_its_state(files):
    data = joined(files).shuffle(seed=1).repeat(3).batch(3, drop_remainder=True)
    whole = [x for x, _ in data]
    epoch = np.concatenate(whole)[:7]
    assert not np.array_equal(epoch, X)
    np.testing.assert_array_equal(np.sort(epoch.ravel()), np.sort(X.ravel()))
    first = iter(data)
    for _ in range(2):
        next(first)
    second = iter(data)
    second.set_state(first.get_state())
    np.testing.assert_array_equal([x for x, _ in second], whole[2:])


def test_what_random_maps_draw_depends_on_the_sample_and_on_the_repetition():
    data = as_grain(ArraySource(X)).seed(0).repeat(2).random_map(lambda x, rng: x + rng.normal(size=x.shape))
    with GrainSource(data) as source:
        once, again = source.take(np.arange(14)), source.take(np.arange(14)[::-1])[::-1]
    np.testing.assert_array_equal(once, again)
    assert np.abs(once[:7] - once[7:]).min() > 0


@pytest.mark.plain
def test_a_sample_that_cannot_be_read_is_named(files):
    import grain

    with h5py.File(files[1], "a") as file:
        file["x_train"][1] = np.nan
    with GrainSource(joined(files)) as source:
        source.take(np.array([0, 4]))
        with pytest.raises(
            ValueError, match=r"Sample 5 of .* could not be read \(ValueError: .*4\.h5: 'x_train' has NaN"
        ):
            source.take(np.array([0, 5]))
    holed, ragged = grain.MapDataset.range(6).filter(lambda i: i % 2 == 0), grain.MapDataset.range(6).map(np.zeros)
    with (
        GrainSource(holed) as source,
        pytest.raises(ValueError, match=r"Sample [13] of .* is None, as `filter` leaves; select before"),
    ):
        source.take(np.arange(4))
    with (
        GrainSource(ragged) as source,
        pytest.raises(ValueError, match=r"`dataset` has \(1,\) as sample 1 and \(3,\) as sample 3"),
    ):
        source.take(np.array([1, 3]))
    with pytest.raises(ValueError, match=r"`threads` is 0, `dataset` has 6 samples; expected 1 or more"):
        GrainSource(grain.MapDataset.range(6), threads=0)


@pytest.mark.plain
def test_without_grain_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(ImportError, match=r'need Grain: pip install "opkit\[stream\]"'):
        as_grain(ArraySource(X))


@pytest.mark.slow
def test_records_of_a_damaged_file_are_errors_and_no_numbers(tmp_path):
    import grain
    from array_record.python.array_record_module import ArrayRecordWriter

    values = RNG.normal(size=(6, 40_000)).astype(np.float32)
    path = tmp_path / "data.array_record"
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for value in values:
        writer.write(value.tobytes())
    writer.close()

    def open_source():
        records = grain.sources.ArrayRecordDataSource([str(path)])
        return GrainSource(grain.MapDataset.source(records).map(lambda r: np.frombuffer(r, np.float32)))

    with open_source() as source:
        np.testing.assert_array_equal(source.take(np.array([4, 1])), values[[4, 1]])
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
    path.write_bytes(content)
    with open_source() as source, pytest.raises(ValueError, match=r"Sample \d of .* could not be read"):
        source.take(np.arange(6))
