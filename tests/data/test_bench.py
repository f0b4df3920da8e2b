"""The bench sets: what they hold solves their equations, to the byte the same from the same seed."""

import dataclasses
import json
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from opkit.data import BENCH, BlowUpError, HDF5Source, WindowSource, generate, read_pairs, read_trajectories
from solvers.equations import Diffusion

ROOT = Path(__file__).parent.parent.parent
SMALL = {
    "d1": dataclasses.replace(BENCH["d1"], train=1, test=1, batch=2),
    "d3": dataclasses.replace(BENCH["d3"], train=3, test=1, batch=4, frames=30),
    "d4": dataclasses.replace(BENCH["d4"], train=1, test=1, batch=2, frames=4),
    "d5": dataclasses.replace(BENCH["d5"], train=3, test=2, batch=4, frames=3),
}


EACH = pytest.mark.parametrize("name", sorted(SMALL))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The path of a small set by name, generated when first asked for."""
    return lru_cache(lambda name: generate(SMALL[name], tmp_path_factory.mktemp("bench") / name))


def derivative(u, extent, order=1, axis=-1):
    n = u.shape[axis]
    k = (2j * np.pi * np.fft.fftfreq(n, extent / n)) ** order
    k[n // 2] *= order % 2 == 0
    return np.fft.ifft(
        np.fft.fft(u, axis=axis) * np.expand_dims(k, [j for j in range(u.ndim) if j != axis % u.ndim]), axis=axis
    ).real


def kuramoto_sivashinsky(u, p):
    return -u * derivative(u, 64) - derivative(u, 64, 2) - derivative(u, 64, 4)


def navier_stokes(w, p):
    n = len(w)
    kx, ky = np.meshgrid(*[2 * np.pi * np.fft.fftfreq(n, 1 / n)] * 2, indexing="ij")
    psi = np.fft.fft2(w) / np.maximum(kx**2 + ky**2, 1)
    u, v = np.fft.ifft2(1j * ky * psi).real, np.fft.ifft2(-1j * kx * psi).real
    phase = 2 * np.pi * np.add.outer(np.arange(n), np.arange(n)) / n
    flux = u * derivative(w, 1, axis=0) + v * derivative(w, 1, axis=1)
    return 1e-3 * (derivative(w, 1, 2, 0) + derivative(w, 1, 2, 1)) - flux + 0.1 * (np.sin(phase) + np.cos(phase))


def burgers_fisher(u, p):
    advection = (p["advection"] + p["convection"] * u) * derivative(u, 1)
    return p["viscosity"] * derivative(u, 1, 2) + p["growth"] * u * (1 - u) - advection


EQUATIONS = {"d3": kuramoto_sivashinsky, "d4": navier_stokes, "d5": burgers_fisher}


@pytest.mark.parametrize("name", EQUATIONS)
def test_a_frame_leads_to_the_next_by_the_equation(name, made):
    """SciPy's, with the equation written anew: pseudo-spectral, aliasing and all."""
    data = read_trajectories(made(name), "test")
    first, second = data.states[0, :2, 0]
    parameters = {key: value[0] for key, value in data.parameters.items()}
    rate = lambda t, u: EQUATIONS[name](u.reshape(first.shape), parameters).ravel()
    method, duration = "RK45" if name == "d4" else "BDF", data.times[1] - data.times[0]
    solved = solve_ivp(rate, (0, duration), first.astype(float).ravel(), method, rtol=1e-7, atol=1e-8)
    assert np.abs(solved.y[:, -1].reshape(first.shape) - second).max() < 5e-5 * np.abs(second).max()


@EACH
def test_the_spectrum_is_resolved_and_states_are_sane(name, made):
    data = read_trajectories(made(name))
    u, axes = data.states.astype(float), tuple(range(3, data.states.ndim))
    energy = np.abs(np.fft.fftn(u - u.mean(axes, keepdims=True), axes=axes)) ** 2
    highest = np.zeros(())
    for n in u.shape[3:]:
        highest = np.maximum.outer(highest, np.abs(np.fft.fftfreq(n)))
    tail = np.sum(energy * (highest >= 1 / 3), axes) / np.sum(energy, axes)
    assert tail[:, 0].max() < 1e-4  # D1's initial states are rough: of energy k^-4
    assert tail[:, 1:].max() < 1e-6
    if name == "d5":
        assert u.min() > 0
        assert u.max() < 1
    else:
        assert np.abs(u.mean(axes)).max() < 1e-6
    if name == "d3":  # the attractor's mean square is about 1.7, over 64 units and 6 of time a fifth more or less
        assert np.abs(u.std((1, 2, 3)) / 1.3 - 1).max() < 0.25


@EACH
def test_metadata_says_what_the_file_holds(name, made):
    recipe, path = SMALL[name], made(name)
    data = read_trajectories(path)
    assert data.states.shape == (recipe.train, recipe.frames, 1, *(recipe.points,) * recipe.grid.ndim)
    assert data.states.dtype == np.float32
    np.testing.assert_allclose(np.diff(data.times), recipe.dt * recipe.every)
    np.testing.assert_allclose(data.axes[0], np.arange(recipe.points) * recipe.grid.extent[0] / recipe.points)
    assert set(data.boundary) == {"periodic"}
    with h5py.File(path) as file:
        assert file.attrs["recipe"] == name
        assert file.attrs["seed"] == 0
        assert set(json.loads(file.attrs["versions"])) == {"opkit", "jax", "jaxlib", "numpy", "h5py"}
    expected = {"d4": {"viscosity", "drag"}, "d5": {"advection", "convection", "viscosity", "growth"}}
    assert set(data.parameters) >= expected.get(name, set())
    if name == "d5":
        assert len(set(data.parameters["advection"].tolist())) == recipe.train


def test_the_pairs_of_d1_are_the_ends_of_its_trajectories_and_solve_burgers_equation(made):
    pairs, whole = read_pairs(made("d1"), ndim=1), read_trajectories(made("d1"))
    np.testing.assert_array_equal(pairs.train[0], whole.states[:, 0])
    np.testing.assert_array_equal(pairs.train[1], whole.states[:, -1])
    assert set(pairs.test) == {"128", "512"}
    np.testing.assert_array_equal(pairs.test["512"][1][..., ::4], pairs.test["128"][1])
    with HDF5Source(made("d1"), ndim=1) as source:
        np.testing.assert_array_equal(source.take(np.array([0]))[1], pairs.train[1])
    # Cole and Hopf: u = -2 nu (log phi)_x with phi_t = nu phi_xx, phi(0) = exp(-int u / (2 nu))
    u, n, nu = pairs.test["512"][0][0, 0].astype(float), 512, 0.01
    k = 2j * np.pi * np.fft.rfftfreq(n, 1 / n)
    integral = np.fft.irfft(np.divide(np.fft.rfft(u), k, out=0 * k, where=k != 0), n)
    phi = np.fft.rfft(np.exp(-integral / (2 * nu))) * np.exp(nu * k**2)
    np.testing.assert_allclose(
        pairs.test["512"][1][0, 0], -2 * nu * np.fft.irfft(k * phi) / np.fft.irfft(phi), atol=1e-6
    )


def test_a_seed_decides_the_bytes_and_sizes_do_not_change_the_numbers(tmp_path):
    recipe = dataclasses.replace(SMALL["d5"], draw=lambda key, grid: (BENCH["d5"].draw(key, grid)[0], Diffusion(0.01)))
    one, again = (generate(recipe, tmp_path / name) for name in ("one", "again"))
    assert one.read_bytes() == again.read_bytes()
    assert generate(recipe, tmp_path / "other", seed=1).read_bytes() != one.read_bytes()
    longer = generate(dataclasses.replace(recipe, train=5, test=1), tmp_path / "longer")
    first = np.concatenate([read_trajectories(one, part).states for part in ("train", "test")])
    np.testing.assert_array_equal(first, read_trajectories(longer).states)


def test_what_blows_up_is_named_and_leaves_nothing(tmp_path):
    def draw(key, grid):
        u, equation = BENCH["d5"].draw(key, grid)
        return 1e6 * u, equation

    recipe = dataclasses.replace(SMALL["d5"], name="wild", draw=draw)
    with pytest.raises(
        BlowUpError, match=r"`recipe` 'wild', seed 0: trajectories \[0.* have NaN or infinity from step"
    ):
        generate(recipe, tmp_path / "wild.h5")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_that_leaves_the_old_file(tmp_path):
    path = tmp_path / "d5.h5"
    path.write_bytes(b"old")
    script = (
        "import dataclasses, resource, signal, sys\n"
        "from opkit.data import BENCH, generate\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "generate(dataclasses.replace(BENCH['d5'], train=20, test=1, batch=21, frames=2, every=1), sys.argv[1])\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"OSError: {path} could not be written" in done.stderr
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.plain
def test_wrong_recipes_and_files_are_errors(tmp_path):
    with pytest.raises(ValueError, match=r"`recipe` is 'd6'; expected a Recipe or one of \['d1', 'd2', 'd3', 'd4'"):
        generate("d6", tmp_path / "d6.h5")
    with pytest.raises(FileNotFoundError, match=r"no/such"):
        generate("d1", tmp_path / "no/such/folder.h5")
    with pytest.raises(ValueError, match=r"`grid` has \(1024,\) points, of which 100 are no regular part"):
        dataclasses.replace(BENCH["d1"], points=100)
    with pytest.raises(ValueError, match=r"`frames` is 1; expected 2 or more"):
        dataclasses.replace(BENCH["d1"], frames=1)
    with pytest.raises(ValueError, match=r"`test` is 0; expected 1 or more"):
        dataclasses.replace(BENCH["d1"], test=0)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["v"] = np.zeros(3)
    with pytest.raises(ValueError, match=r"other\.h5 has no array 'u_test'; it has \['v'\]"):
        read_trajectories(tmp_path / "other.h5", "test")
    with pytest.raises(ValueError, match=r"`states` has shape \(3, 4\); expected \(samples, time, channels"):
        WindowSource(np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"`every` is 0, `steps` None; expected 1 or more"):
        WindowSource(np.zeros((3, 4, 1, 8)), every=0)
    with pytest.raises(ValueError, match=r"`states` has 4 frames; 2 steps of 2 frames need 5"):
        WindowSource(np.zeros((3, 4, 1, 8)), every=2, steps=2)


def test_windows_are_all_pairs_of_frames(tmp_path):
    states = np.random.default_rng(0).normal(size=(3, 5, 2, 4))
    x, y = WindowSource(states).take(np.arange(12))
    np.testing.assert_array_equal(x, states[:, :-1].reshape(12, 2, 4))
    np.testing.assert_array_equal(y, states[:, 1:].reshape(12, 2, 4))
    with h5py.File(tmp_path / "u.h5", "w") as file:
        file["u"] = states
    with h5py.File(tmp_path / "u.h5") as file:
        source = WindowSource(file["u"], every=2, steps=2)
        assert len(source) == 3
        x, y = source.take(np.array([2, 0, 2]))
    np.testing.assert_array_equal(x, states[[2, 0, 2], 0])
    np.testing.assert_array_equal(y, states[[2, 0, 2]][:, 2::2])


@pytest.mark.slow
@pytest.mark.smoke
def test_the_command_line_writes_the_sets_asked_for(tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    command = [sys.executable, str(ROOT / "experiments/generate_bench.py"), "--smoke", "--quiet", "--sets", "d1", "d5"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [
        str(tmp_path / f"{n}.h5") for n in ("d1", "d5")
    ]
