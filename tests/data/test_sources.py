"""Samples by number, and the order they come in."""

import h5py
import numpy as np
import pytest

from opkit.data import ArraySource, HDF5Source, index_stream

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(9, 4, 4)) > 0, RNG.normal(size=(9, 2, 4, 4)).astype(np.float32)
WANTED = np.array([5, 0, 5, 8, 1])


@pytest.fixture
def path(tmp_path):
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["x_train"], file["y_train"], file["other"] = X, Y, np.zeros(3)
    return tmp_path / "data.h5"


def test_an_hdf5_source_takes_samples_in_the_order_asked_repeats_included(path):
    with HDF5Source(path, ndim=2) as source:
        assert len(source) == 9
        x, y = source.take(WANTED)
    np.testing.assert_array_equal(x, X[WANTED][:, None].astype(np.float32))
    np.testing.assert_array_equal(y, Y[WANTED])
    assert x.dtype == y.dtype == np.float32
    with HDF5Source(path, ndim=2, dtype=np.float64) as source:
        assert source.take(WANTED)[0].dtype == np.float64


def test_an_array_source_takes_samples_of_any_pytree_and_of_a_memmap(tmp_path):
    np.save(tmp_path / "y.npy", Y)
    source = ArraySource({"x": X, "y": np.load(tmp_path / "y.npy", mmap_mode="r")})
    assert len(source) == 9
    np.testing.assert_array_equal(source.take(WANTED)["y"], Y[WANTED])


@pytest.mark.parametrize("batch", [1, 4, 7, 10])
def test_every_epoch_holds_every_sample_once_and_none_is_dropped(batch):
    stream = index_stream(10, batch, seed=3)(0, 70).reshape(-1)
    epochs = stream[: len(stream) // 10 * 10].reshape(-1, 10)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(10), (len(epochs), 1)))
    assert len({tuple(epoch) for epoch in epochs}) > len(epochs) / 2


def test_a_batch_is_a_function_of_seed_and_step_alone():
    whole = index_stream(10, 4, seed=3)(0, 50)
    np.testing.assert_array_equal(index_stream(10, 4, seed=3)(17, 31), whole[17:31])
    assert not np.array_equal(index_stream(10, 4, seed=4)(0, 50), whole)
    assert whole.dtype == np.int32


@pytest.mark.plain
def test_wrong_sources_are_errors(path, tmp_path):
    with pytest.raises(ValueError, match=r"data\.h5 has no dataset 'z'; it has \['other', 'x_train', 'y_train'\]"):
        HDF5Source(path, ("x_train", "z"), ndim=2)
    with pytest.raises(ValueError, match=r"data\.h5: {'x_train': \(9, 4, 4\), 'other': \(3,\)} are the shapes"):
        HDF5Source(path, ("x_train", "other"), ndim=2)
    with pytest.raises(ValueError, match=r"data\.h5: 'x_train' has shape \(1, 4, 4\); with `ndim=3`"):
        HDF5Source(path, ("x_train",), ndim=3)
    with pytest.raises(ValueError, match=r"`arrays` have shapes {}; expected \(samples, ...\)"):
        ArraySource(())
    with pytest.raises(ValueError, match=r"`batch_size` is 11 for 10 samples; expected 1 to 10"):
        index_stream(10, 11, seed=0)
    (tmp_path / "cut.h5").write_bytes(path.read_bytes()[:900])
    with pytest.raises(ValueError, match=r"cut\.h5 is truncated or damaged"):
        HDF5Source(tmp_path / "cut.h5", ndim=2)
    np.savez(tmp_path / "f.npz", x=X)
    with pytest.raises(ValueError, match=r"f\.npz begins with b'PK.*not an HDF5 file"):
        HDF5Source(tmp_path / "f.npz", ndim=2)


@pytest.mark.plain
def test_a_nan_on_disk_is_an_error_when_its_sample_is_taken(path):
    with h5py.File(path, "a") as file:
        file["y_train"][7, 0, 0, 0] = np.nan
    with HDF5Source(path, ndim=2) as source:
        source.take(np.array([0, 1]))
        with pytest.raises(ValueError, match=r"'y_train' has NaN or infinity in 1 of 2 samples, the first at index 7"):
            source.take(np.array([7, 1]))
