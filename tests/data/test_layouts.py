"""Files in the layouts of PDEBench and The Well, written here as their documentation and loaders have them."""

import h5py
import numpy as np
import pytest

from opkit.data import WindowSource, read_pdebench, read_well

RNG = np.random.default_rng(0)
N, T, X, Y, Z = 3, 4, 6, 5, 2
TIMES = np.linspace(0, 1, T, dtype=np.float32)
COORDINATES = {name: np.arange(n, dtype=np.float32) / n for name, n in zip(("x", "y", "z"), (X, Y, Z), strict=True)}


def random(*shape):
    return RNG.normal(size=shape).astype(np.float32)


@pytest.fixture
def file(tmp_path):
    with h5py.File(tmp_path / "data.hdf5", "w") as file:
        yield file


def reopened(file, read, **options):
    path = file.filename
    file.close()
    return read(path, **options)


def test_pdebench_tensor_with_a_time_too_many(file):
    """1D_Burgers_Sols_Nu0.01.hdf5: tensor (10000, 201, 1024), x-coordinate (1024), t-coordinate (202), @Nu."""
    tensor = random(N, T, X)
    file["tensor"], file["x-coordinate"] = tensor, COORDINATES["x"]
    file["t-coordinate"] = np.append(TIMES, 9)
    file.attrs["Nu"] = 0.01
    data = reopened(file, read_pdebench)
    np.testing.assert_array_equal(data.states, tensor[:, :, None])
    np.testing.assert_array_equal(data.times, TIMES)
    np.testing.assert_array_equal(data.axes[0], COORDINATES["x"])
    assert data.states.dtype == np.float32
    assert data.channels == ("tensor",)
    assert data.parameters["Nu"] == 0.01
    x, y = WindowSource(data.states).take(np.array([1]))
    np.testing.assert_array_equal((x, y), (tensor[0, 1][None, None], tensor[0, 2][None, None]))


def test_pdebench_darcy_flow_has_one_state_and_a_coefficient(file):
    """2D_DarcyFlow_beta1.0_Train.hdf5: tensor (10000, 1, 128, 128), nu (10000, 128, 128), coordinates, @beta."""
    tensor, nu = random(N, 1, X, Y), random(N, X, Y)
    file["tensor"], file["nu"] = tensor, nu
    file["x-coordinate"], file["y-coordinate"] = COORDINATES["x"], COORDINATES["y"]
    data = reopened(file, read_pdebench, samples=slice(1, None))
    np.testing.assert_array_equal(data.states, tensor[1:, :, None])
    np.testing.assert_array_equal(data.constants["nu"], nu[1:])
    np.testing.assert_array_equal(data.times, [0])


@pytest.mark.parametrize("d", [1, 2, 3])
def test_pdebench_compressible_flow_has_a_dataset_a_variable(file, d):
    """2D_CFD_*_Train.hdf5: density, pressure, Vx, Vy (N, 21, 128, 128), coordinates, @eta, @zeta, @M."""
    n = (X, Y, Z)[:d]
    fields = {name: random(N, T, *n) for name in ("density", "pressure", "Vx", "Vy", "Vz")[: 2 + d]}
    for name, values in fields.items():
        file[name] = values
    for name in "xyz"[:d]:
        file[f"{name}-coordinate"] = COORDINATES[name]
    file["t-coordinate"] = np.append(TIMES, 9)
    file.attrs["eta"] = 1e-8
    data = reopened(file, read_pdebench, samples=slice(2))
    assert data.channels == tuple(fields)
    np.testing.assert_array_equal(data.states, np.stack([v[:2] for v in fields.values()], axis=2))
    assert len(data.axes) == d


def test_pdebench_groups_of_samples_have_channels_last(file):
    """2D_diff-react_NA_NA.h5: 0000/data (101, 128, 128, 2), 0000/grid/t, x, y, @config."""
    samples = random(N, T, X, Y, 2)
    for i, data in enumerate(samples):
        group = file.create_group(f"{i:04d}")
        group.create_dataset("data", data=data, compression="lzf")
        group["grid/t"], group["grid/x"], group["grid/y"] = TIMES, COORDINATES["x"], COORDINATES["y"]
        group.attrs["config"] = "sim:\n  seed: 0\n"
    data = reopened(file, read_pdebench)
    np.testing.assert_array_equal(data.states, np.moveaxis(samples, -1, 2))
    np.testing.assert_array_equal(data.axes[1], COORDINATES["y"])
    np.testing.assert_array_equal(data.times, TIMES)


def test_pdebench_incompressible_flow_has_a_force(file):
    """ns_incom_inhom_2d_512-0.h5: velocity (4, 1000, 512, 512, 2), particles (..., 1), force (4, 512, 512, 2), t."""
    velocity, particles, force = random(N, T, X, Y, 2), random(N, T, X, Y, 1), random(N, X, Y, 2)
    file["velocity"], file["particles"], file["force"] = velocity, particles, force
    file["t"] = np.tile(TIMES, (N, 1))
    data = reopened(file, read_pdebench)
    assert data.channels == ("Vx", "Vy", "particles")
    np.testing.assert_array_equal(data.states, np.moveaxis(np.concatenate([velocity, particles], -1), -1, 2))
    np.testing.assert_array_equal(data.constants["force_y"], force[..., 1])
    assert data.times.shape == (N, T)


def well(file, **attributes):
    """The specification's example: https://polymathic-ai.org/the_well/data_format/, a field of each kind."""
    file.attrs.update(
        {
            "simulation_parameters": ["Re"],
            "Re": 100.0,
            "dataset_name": "example",
            "grid_type": "cartesian",
            "n_spatial_dims": 2,
            "n_trajectories": N,
        }
    )
    dimensions = file.create_group("dimensions")
    dimensions.attrs["spatial_dims"] = ["x", "y"]
    for name, values in (("time", TIMES), ("x", COORDINATES["x"]), ("y", COORDINATES["y"])):
        dimensions[name] = values
        dimensions[name].attrs.update({"sample_varying": False, "time_varying": False})
    for name, n, kind, ends in (("x", X, "periodic", [0, -1]), ("y", Y, "WALL", [0]), ("y", Y, "open", [-1])):
        side = file.create_group(f"boundary_conditions/{name}_{kind}")
        side.attrs.update({"associated_dims": [name], "associated_fields": [], "bc_type": kind})
        side.attrs.update({"sample_varying": False, "time_varying": False})
        side["mask"] = np.isin(np.arange(n), np.arange(n)[ends])
    fields = {
        "t0_fields": {
            "density": (random(N, T, X, Y), True, True, [True, True]),
            "height": (random(X), False, False, [True, False]),
            "drive": (random(T, X, Y), False, True, [True, True]),
        },
        "t1_fields": {"velocity": (random(N, T, X, Y, 2), True, True, [True, True])},
        "t2_fields": {"stress": (random(N, T, X, Y, 2, 2), True, True, [True, True])},
    }
    for group, members in fields.items():
        file.create_group(group).attrs["field_names"] = list(members)
        for name, (values, sample_varying, time_varying, dim_varying) in members.items():
            file[group][name] = values
            file[group][name].attrs.update(
                {"sample_varying": sample_varying, "time_varying": time_varying, "dim_varying": dim_varying}
            )
    scalars = file.create_group("scalars")
    scalars.attrs["field_names"] = ["Re", "heat", "seed"]
    for name, values, sample_varying, time_varying in (
        ("Re", np.float32([100]), False, False),
        ("heat", TIMES**2, False, True),
        ("seed", np.arange(N, dtype=np.float32), True, False),
    ):
        scalars[name] = values
        scalars[name].attrs.update({"sample_varying": sample_varying, "time_varying": time_varying})
    return {name: member[0] for members in fields.values() for name, member in members.items()}


def test_the_well(file):
    fields = well(file)
    data = reopened(file, read_well, samples=slice(1, None))
    names = ("density", "drive", "velocity_x", "velocity_y", "stress_xx", "stress_xy", "stress_yx", "stress_yy")
    assert data.channels == names
    assert data.states.shape == (2, T, len(names), X, Y)
    channel = dict(zip(names, np.moveaxis(data.states, 2, 0), strict=True))
    np.testing.assert_array_equal(channel["density"], fields["density"][1:])
    np.testing.assert_array_equal(channel["drive"], [fields["drive"]] * 2)
    np.testing.assert_array_equal(channel["velocity_y"], fields["velocity"][1:, ..., 1])
    np.testing.assert_array_equal(channel["stress_xy"], fields["stress"][1:, ..., 0, 1])
    np.testing.assert_array_equal(data.constants["height"], np.tile(fields["height"][:, None], (2, 1, Y)))
    np.testing.assert_array_equal(data.times, TIMES)
    assert [axis.shape for axis in data.axes] == [(X,), (Y,)]
    assert data.boundary == ("periodic", "wall/open")
    assert data.parameters["Re"] == 100
    np.testing.assert_array_equal(data.parameters["heat"], TIMES**2)
    np.testing.assert_array_equal(data.parameters["seed"], [1, 2])


def break_nothing_known(file):
    file["pressure"] = random(2)


def break_points(file):
    file["tensor"], file["x-coordinate"], file["t-coordinate"] = random(N, T, X), COORDINATES["y"], TIMES


def break_times(file):
    file["tensor"], file["x-coordinate"], file["t-coordinate"] = random(N, T, X), COORDINATES["x"], TIMES[:2]


def break_coordinates(file):
    file["tensor"], file["x-coordinate"] = random(N, T, X), COORDINATES["x"]


def break_values(file):
    file["tensor"], file["x-coordinate"], file["t-coordinate"] = random(N, T, X), COORDINATES["x"], TIMES
    file["tensor"][1, 2, 3] = np.nan


def break_groups(file):
    for i in range(2):
        file[f"000{i}/data"] = random(T, X + i, 1)


@pytest.mark.plain
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_nothing_known, r"data\.hdf5 has \['pressure'\]; PDEBench has 'tensor', 'density'"),
        (break_points, r"'tensor' has shape \(3, 4, 6\); expected \(samples, time, \(5,\)\)"),
        (break_times, r"data\.hdf5 has 2 times for 4 states"),
        (break_coordinates, r"data\.hdf5 has no dataset 't-coordinate'; it has \['tensor', 'x-coordinate'\]"),
        (break_values, r"the trajectory data has NaN or infinity in 1 of 3 samples, the first at index 1"),
        (break_groups, r"the shapes of 'data' are \[\(4, 6, 1\), \(4, 7, 1\)\]"),
    ],
)
def test_wrong_pdebench_files_are_errors(file, damage, message):
    damage(file)
    with pytest.raises(ValueError, match=message):
        reopened(file, read_pdebench)


@pytest.mark.plain
@pytest.mark.parametrize(
    ("place", "attribute", "value", "message"),
    [
        ("/", "n_trajectories", None, r"'the file' has no attribute 'n_trajectories'"),
        ("/", "n_trajectories", 2, r"'t0_fields/density' has shape \(3, 4, 6, 5\); expected \(2, 4, 6, 5\) and 1 comp"),
        ("dimensions", None, None, r"data\.hdf5 has no 'dimensions'; a file of The Well has"),
        ("t1_fields/velocity", None, None, r"data\.hdf5 has no 't1_fields/velocity'"),
        ("t1_fields/velocity", "dim_varying", [True], r"'t1_fields/velocity' has shape \(3, 4, 6, 5, 2\); expected"),
        ("t2_fields", "field_names", ["density"], r"data\.hdf5 has no 't2_fields/density'"),
        ("scalars/seed", "sample_varying", None, r"'scalars/seed' has no attribute 'sample_varying'"),
    ],
)
def test_wrong_files_of_the_well_are_errors(file, place, attribute, value, message):
    well(file)
    if attribute is None:
        del file[place]
    elif value is None:
        del file[place].attrs[attribute]
    else:
        file[place].attrs[attribute] = value
    with pytest.raises(ValueError, match=message):
        reopened(file, read_well)


@pytest.mark.plain
def test_pickles_and_truncated_files_are_refused(file, tmp_path):
    file["tensor"] = np.array([b"text"])
    file["x-coordinate"] = COORDINATES["x"]
    with pytest.raises(ValueError, match=r"'tensor' has dtype \|S4; expected real numbers"):
        reopened(file, read_pdebench)
    whole = (tmp_path / "data.hdf5").read_bytes()
    (tmp_path / "cut.hdf5").write_bytes(whole[:900])
    with pytest.raises(ValueError, match=r"cut\.hdf5 is truncated or damaged"):
        read_well(tmp_path / "cut.hdf5")
