"""The bench sets without time: what they hold solves their equations."""

import dataclasses

import h5py
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg

from opkit.data import (
    SAMPLE_BENCH,
    BlowUpError,
    SampleRecipe,
    dirichlet_to_neumann,
    generate,
    potentials,
    read_pairs,
    solve_darcy_on_nodes,
)
from solvers import Grid

RAMP = SampleRecipe(
    name="ramp",
    title="a ramp",
    solver="none",
    draw=lambda key: {"x_{}": jax.random.normal(key, (1, 3)), "y_{}": jnp.ones((1, 3))},
    constants=lambda: {"t": jnp.arange(3.0)},
    train=3,
    test=2,
    batch=4,
)


def test_darcy_on_nodes_is_the_five_point_system_solved_by_sparse_lu():
    n = 9
    a = np.where(np.random.default_rng(0).random((n, n)) > 0.5, 12.0, 3.0)
    inner, h = n - 2, 1 / (n - 1)
    number = np.arange(inner * inner).reshape(inner, inner)
    matrix = scipy.sparse.lil_matrix((inner * inner, inner * inner))
    for i in range(inner):
        for j in range(inner):
            here = a[i + 1, j + 1]
            for di, dj in ((1, 0), (-1, 0), (0, 1), (0, -1)):
                k, m = i + di, j + dj
                inside = 0 <= k < inner and 0 <= m < inner
                face = 2 * here * a[k + 1, m + 1] / (here + a[k + 1, m + 1]) if inside else here
                matrix[number[i, j], number[i, j]] += face / h**2
                if inside:
                    matrix[number[i, j], number[k, m]] -= face / h**2
    expected = scipy.sparse.linalg.spsolve(matrix.tocsc(), np.ones(inner * inner)).reshape(inner, inner)
    solution = jax.jit(lambda a: solve_darcy_on_nodes(a, Grid((n, n), placement="nodes")))(jnp.asarray(a))
    np.testing.assert_allclose(solution.value[1:-1, 1:-1], expected, rtol=1e-6)
    assert np.abs(solution.value[0]).max() == np.abs(solution.value[:, -1]).max() == 0


@pytest.mark.slow
def test_currents_of_exact_potentials_converge_at_first_order():
    """`a = exp(x + y)`, `u = exp(p x + q y)`: divergence-free where `p^2 + p + q^2 + q = 0`."""
    p = 0.1
    q = (-1 - (1 - 4 * (p**2 + p)) ** 0.5) / 2
    errors = []
    for n in (8, 16):
        along, zero = (np.arange(n) + 0.5) / n, np.zeros(n)
        x = np.concatenate([along, zero + 1, along[::-1], zero])
        y = np.concatenate([zero, along, zero + 1, along[::-1]])
        outward = np.repeat([[0, -1], [1, 0], [0, 1], [-1, 0]], n, 0)
        u, a = np.exp(p * x + q * y), np.exp(x + y)
        exact = a * u * (outward @ [p, q])
        grid = Grid((n, n), placement="cells")
        cx, cy = grid.coordinates()
        current, result = jax.jit(dirichlet_to_neumann, static_argnums=2)(jnp.exp(cx + cy), jnp.asarray(u), grid)
        assert result == lx.RESULTS.successful
        errors.append(np.abs(current - exact).max())
    assert errors[1] < 0.6 * errors[0]
    assert errors[1] < 0.05 * np.abs(exact).max()


def test_potentials_are_plane_waves_along_the_boundary():
    g = potentials(8)
    assert g.shape == (20, 32)
    s = (np.arange(8) + 0.5) / 8
    np.testing.assert_allclose(g[0, :8], np.cos(2 * np.pi * s), atol=1e-6)  # along x below
    np.testing.assert_allclose(g[10, 8:16], np.cos(2 * np.pi * s), atol=1e-6)  # along y at the right
    np.testing.assert_allclose(g[10, 24:], np.cos(2 * np.pi * s[::-1]), atol=1e-6)  # and back


def test_regression_has_the_variances_of_its_generator(tmp_path):
    path = generate(dataclasses.replace(SAMPLE_BENCH["d8"], train=1500, test=500, batch=500), tmp_path / "d8.h5")
    with h5py.File(path) as file:
        x = np.concatenate([file["x_train"], file["x_test"]])[:, 0].astype(float)
        y = np.concatenate([file["y_train"], file["y_test"]])[:, 0].astype(float)
        t = np.asarray(file["t"])
    weights = np.full(51, 0.02)
    weights[[0, -1]] = 0.01
    scores = {k: x @ (weights * np.cos(k * np.pi * t)) * (2**0.5 if k else 1) for k in (0, 2, 4, 9, 7)}
    for k, z in ((0, 5), (2, 5), (4, 3), (9, 3), (7, 1)):
        assert abs(scores[k].var() / (z**2 + 0.02) - 1) < 0.1
    noise = 4 * 9 * 0.02 + 0.04  # of 2 c_5 times the score's noise, and of Y
    assert abs(np.var(y - scores[4] ** 2) / noise - 1) < 0.15


def test_samples_do_not_depend_on_sizes_and_a_failed_solve_is_named(tmp_path):
    one, more = (generate(dataclasses.replace(RAMP, train=n), tmp_path / f"{n}.h5", seed=3) for n in (3, 6))
    with h5py.File(one) as first, h5py.File(more) as second:
        assert first["x_train"].dtype == np.float32
        np.testing.assert_array_equal(first["t"], np.arange(3.0))
        np.testing.assert_array_equal(first["x_train"], second["x_train"][:3])
        np.testing.assert_array_equal(first["x_test"], second["x_train"][3:5])
        assert first.attrs["solver"] == "none"
    bad = dataclasses.replace(RAMP, draw=lambda key: {"x_{}": jnp.full(2, jnp.nan)})
    with pytest.raises(BlowUpError, match=r"'ramp', seed 0: samples \[0, 1, 2, 3\] have NaN or infinity: their solve"):
        generate(bad, tmp_path / "bad.h5")
    assert not (tmp_path / "bad.h5").exists()


@pytest.mark.plain
def test_a_recipe_of_no_sample_is_an_error():
    with pytest.raises(ValueError, match=r"`train` is 0; expected 1 or more"):
        dataclasses.replace(RAMP, train=0)


@pytest.mark.slow
def test_d2_is_read_as_pairs_of_a_thresholded_field(tmp_path):
    path = generate(dataclasses.replace(SAMPLE_BENCH["d2"], train=3, test=1, batch=4), tmp_path / "d2.h5")
    pairs = read_pairs(path, ndim=2)
    assert pairs.train[0].shape == (3, 1, 33, 33)
    assert set(pairs.test) == {"33", "65"}
    assert set(np.unique(pairs.train[0])) == {3.0, 12.0}
    for fine, coarse in zip(pairs.test["65"], pairs.test["33"], strict=True):
        np.testing.assert_array_equal(fine[..., ::2, ::2], coarse)
    u = pairs.test["65"][1][0, 0]
    assert np.abs(u[0]).max() == 0 < u[1:-1, 1:-1].min()
    # between the solutions for a = 12 and a = 3 throughout, whose maxima are 0.0737 over a
    assert 0.0737 / 12 < u.max() < 0.0737 / 3


@pytest.mark.slow
def test_d7_currents_flow_out_as_they_flow_in(tmp_path):
    path = generate(dataclasses.replace(SAMPLE_BENCH["d7"], train=2, test=2, batch=4), tmp_path / "d7.h5")
    with h5py.File(path) as file:
        currents, a = np.asarray(file["currents_train"]), np.asarray(file["conductivity_train"])
        assert file["potentials"].shape == (20, 128)
    assert currents.shape == (2, 20, 128)
    assert a.shape == (2, 1, 32, 32)
    assert a.min() > 0
    assert np.abs(currents.sum(-1)).max() < 0.02 * np.abs(currents).sum(-1).min()
    assert np.abs(currents[0] - currents[1]).max() > 0.01
