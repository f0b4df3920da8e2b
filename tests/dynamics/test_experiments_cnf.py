"""The experiment on continuous normalising flows runs, shrunk to seconds; its densities are densities."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ..test_experiments import run

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.mark.parametrize("name", ["eight_gaussians", "ring", "funnel"])
def test_a_known_density_integrates_to_one_and_is_that_of_its_samples(name, monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    from problems.densities import DENSITIES

    density = DENSITIES[name]
    axis = np.linspace(-9.99, 10, 800)  # not through the ring's centre
    points = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    values = np.exp(jax.jit(jax.vmap(density.log_density))(points)) * (axis[1] - axis[0]) ** 2
    drawn = density.sample(jax.random.key(0), 20_000)
    assert drawn.shape == (20_000, 2)
    np.testing.assert_allclose(values.sum(), 1, atol=2e-3)  # the funnel's tail is cut
    for probe in (lambda x: jnp.cos(x[..., 0]), lambda x: jnp.sin(x[..., 1] + 1), lambda x: jnp.cos(2 * x).prod(-1)):
        assert abs(probe(drawn).mean() - (probe(points) * values).sum()) < 4 / 20_000**0.5


@pytest.mark.smoke
@pytest.mark.slow
def test_the_flows_are_learnt_and_measured(tmp_path):
    done = run("cnf_densities.py", "--smoke", "--quiet", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    (folder,) = (tmp_path / "cnf_densities").iterdir()
    metrics = json.loads((folder / "result.json").read_text())["metrics"]
    assert metrics["nfe_ratio"] == metrics["ring/global error/nfe_ratio"]
    assert 0 < metrics["ring/global error/gap"] < 5
    assert (folder / "seed0" / "figure.png").exists()
