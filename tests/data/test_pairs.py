"""Pairs of fields from files: what is read, and what is refused."""

import io
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest

from opkit.data import read_pairs

RNG = np.random.default_rng(0)
SHARED = Path(__file__).parents[3] / "shared" / "data"


def arrays(**changes):
    """A small set of 2-D fields, bool in and float32 out, as darcy16 has it."""
    made = {
        "x_train": RNG.uniform(size=(6, 4, 4)) > 0.5,
        "y_train": RNG.normal(size=(6, 4, 4)).astype(np.float32),
        "x_test": RNG.uniform(size=(3, 4, 4)) > 0.5,
        "y_test": RNG.normal(size=(3, 4, 4)).astype(np.float32),
        "x_test8": RNG.uniform(size=(2, 8, 8)) > 0.5,
        "y_test8": RNG.normal(size=(2, 8, 8)).astype(np.float32),
        "comment": np.array([1, 2]),
    } | changes
    return {name: array for name, array in made.items() if array is not None}


def write_npz(path, made):
    np.savez_compressed(path, **made)


def write_hdf5(path, made):
    with h5py.File(path, "w") as file:
        for name, array in made.items():
            file[name] = array


WRITERS = {"npz": write_npz, "h5": write_hdf5}


@pytest.mark.parametrize("kind", WRITERS)
def test_pairs_come_back_with_channels_as_floats_by_resolution(tmp_path, kind):
    made = arrays()
    path = tmp_path / f"fields.{kind}"
    WRITERS[kind](path, made)
    pairs = read_pairs(path, ndim=2)
    x, y = pairs.train
    assert x.shape == y.shape == (6, 1, 4, 4)
    assert x.dtype == y.dtype == np.float32
    np.testing.assert_array_equal(x[:, 0], made["x_train"])
    np.testing.assert_array_equal(y[:, 0], made["y_train"])
    assert list(pairs.test) == ["4", "8"]
    np.testing.assert_array_equal(pairs.test["8"][1][:, 0], made["y_test8"])
    assert not x.flags.writeable


def test_the_content_tells_the_format_not_the_name(tmp_path):
    with (tmp_path / "fields.dat").open("wb") as file:
        np.savez(file, **arrays())
    assert read_pairs(str(tmp_path / "fields.dat"), ndim=2).train[0].shape == (6, 1, 4, 4)


def test_float64_is_kept_and_casts_are_made_when_asked(tmp_path):
    made = {name: array.astype(np.float64) for name, array in arrays().items()}
    write_npz(tmp_path / "f.npz", made | {"x_train": made["x_train"] > 0})
    assert {a.dtype for a in read_pairs(tmp_path / "f.npz", ndim=2).train} == {np.dtype(np.float64)}
    assert {a.dtype for a in read_pairs(tmp_path / "f.npz", ndim=2, dtype=np.float32).train} == {np.dtype(np.float32)}


def test_channels_are_told_from_space_by_the_number_of_axes(tmp_path):
    made = {"x_train": (5, 8), "y_train": (5, 3, 8), "x_test": (2, 8), "y_test": (2, 3, 8)}
    write_npz(tmp_path / "f.npz", {name: RNG.normal(size=shape) for name, shape in made.items()})
    x, y = read_pairs(tmp_path / "f.npz", ndim=1).train
    assert (x.shape, y.shape) == ((5, 1, 8), (5, 3, 8))


@pytest.mark.skipif(not SHARED.exists(), reason="reference data are not part of the project")
def test_the_reference_darcy_flow_is_read():
    pairs = read_pairs(SHARED / "darcy16.npz", ndim=2)
    assert pairs.train[0].shape == (1000, 1, 16, 16)
    assert {label: x.shape for label, (x, _) in pairs.test.items()} == {"16": (50, 1, 16, 16), "32": (50, 1, 32, 32)}
    assert pairs.train[0].dtype == np.float32


def bad(name, index, value):
    array = arrays()[name].astype(np.float32)
    array[index] = value
    return {name: array}


@pytest.mark.plain
@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_train": None}, r"has no array 'y_train'; it has \['comment', 'x_test', "),
        ({"x_test": None, "y_test": None}, "has no array 'x_test'"),
        ({"y_test8": None}, "has no array 'y_test8'"),
        ({"y_train": np.zeros((5, 4, 4))}, "'x_train' has 6 samples, 'y_train' has 5"),
        ({"y_test8": np.zeros((2, 4, 4))}, r"'x_test8' is on \(8, 8\) points, 'y_test8' on \(4, 4\)"),
        ({"y_train": np.zeros((6, 4))}, r"'y_train' has shape \(6, 4\); with `ndim=2` expected \(samples, \*n\)"),
        ({"x_train": np.zeros((6, 1, 1, 4, 4))}, r"'x_train' has shape \(6, 1, 1, 4, 4\); with `ndim=2`"),
        ({"x_test": np.zeros((0, 4, 4))}, r"'x_test' is empty: its shape is \(0, 4, 4\)"),
        (bad("y_train", (3, 1, 1), np.nan), "'y_train' has NaN or infinity in 1 of 6 samples, the first at index 3"),
        (bad("x_test8", 1, np.inf), "'x_test8' has NaN or infinity in 1 of 2 samples, the first at index 1"),
        ({"x_train": np.zeros((6, 4, 4), complex)}, "'x_train' has dtype complex128; expected real numbers"),
        ({"x_test16": np.zeros((2, 8, 8)), "y_test16": np.zeros((2, 8, 8))}, "'x_test16' has 8 points along its first"),
        ({"x_test4": np.zeros((2, 4, 4)), "y_test4": np.zeros((2, 4, 4))}, "'x_test' and 'x_test4' both have 4 points"),
        (
            {"y_train": np.zeros((6, 2, 4, 4))},
            "the y arrays differ in channels: .*'train': 2, '4': 1.*is `ndim=2` right",
        ),
    ],
)
def test_what_would_train_on_nonsense_is_refused(tmp_path, kind, changes, message):
    path = tmp_path / f"fields.{kind}"
    WRITERS[kind](path, arrays(**changes))
    with pytest.raises(ValueError, match=message) as caught:
        read_pairs(path, ndim=2)
    assert str(path) in str(caught.value)


class Sprung:
    """What unpickling would run."""

    sprung = False

    def __reduce__(self):
        return setattr, (Sprung, "sprung", True)


@pytest.mark.plain
def test_pickled_objects_are_refused_and_never_loaded(tmp_path):
    np.savez(tmp_path / "f.npz", **arrays(x_train=np.array([Sprung()], dtype=object)))
    with pytest.raises(ValueError, match=r"f\.npz: 'x_train' is pickled Python objects, which can run code"):
        read_pairs(tmp_path / "f.npz", ndim=2)
    (tmp_path / "raw.npz").write_bytes(pickle.dumps({"x_train": Sprung()}))
    with pytest.raises(ValueError, match=r"raw\.npz begins with b'.*neither \.npz nor HDF5"):
        read_pairs(tmp_path / "raw.npz", ndim=2)
    assert not Sprung.sprung


@pytest.mark.plain
def test_another_format_is_refused(tmp_path):
    for name, content in {"t.npz": b"hello, world", "e.h5": b"", "n.npy": npy(np.zeros(3))}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=r"begins with b.*: neither \.npz nor HDF5"):
            read_pairs(tmp_path / name, ndim=2)
    with pytest.raises(FileNotFoundError):
        read_pairs(tmp_path / "none.npz", ndim=2)


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.plain
@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_truncated_anywhere_is_refused(tmp_path, kind):
    path = tmp_path / f"fields.{kind}"
    WRITERS[kind](path, arrays())
    whole = path.read_bytes()
    for keep in np.linspace(1, len(whole) - 1, 40).astype(int):
        path.write_bytes(whole[:keep])
        with pytest.raises(ValueError, match=r"fields\.(npz|h5)"):
            read_pairs(path, ndim=2)


@pytest.mark.plain
def test_a_flipped_bit_in_an_npz_is_refused_or_harmless(tmp_path):
    path = tmp_path / "fields.npz"
    write_npz(path, arrays())
    whole, expected = path.read_bytes(), read_pairs(path, ndim=2)
    refused = 0
    for position in np.random.default_rng(1).integers(0, len(whole), 60):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 8]) + whole[position + 1 :])
        try:
            pairs = read_pairs(path, ndim=2)
        except ValueError:
            refused += 1
            continue
        np.testing.assert_array_equal(pairs.train, expected.train)
        assert all(np.array_equal(pairs.test[label], pair) for label, pair in expected.test.items())
    assert refused > 30


@pytest.mark.plain
def test_a_group_in_place_of_an_array_is_refused(tmp_path):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["x_train/x"] = np.zeros(3)
        for name, array in arrays(x_train=None).items():
            file[name] = array
    with pytest.raises(ValueError, match="'x_train' is a group; expected an array at the top of the file"):
        read_pairs(tmp_path / "f.h5", ndim=2)
