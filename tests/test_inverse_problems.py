"""The inverse problems run as a user would start them, and what they share is what it says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

EXPERIMENTS = Path(__file__).parent.parent / "experiments"


@pytest.fixture
def inverse(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    from problems import inverse

    return inverse


def test_posterior_variance_is_that_of_the_inverse_hessian(inverse):
    rng = np.random.default_rng(0)
    jacobian, quantity = rng.standard_normal((3, 5)), rng.standard_normal((4, 5))
    covariance = np.linalg.inv(np.eye(5) + jacobian.T @ jacobian)
    variance = inverse.posterior_variance(lambda xi: jnp.asarray(quantity) @ xi, jnp.asarray(jacobian))
    np.testing.assert_allclose(variance, np.diag(quantity @ covariance @ quantity.T), rtol=1e-10)


@pytest.mark.slow
@pytest.mark.smoke
@pytest.mark.parametrize("name", ["inverse_diffusivity", "inverse_navier_stokes"])
def test_inverse_problem_improves_on_its_guess(name, tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # it is compiled once and hardly runs
    command = [sys.executable, str(EXPERIMENTS / f"{name}.py"), "--smoke", "--quiet", "--out", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (folder,) = (tmp_path / name).iterdir()
    metrics = json.loads((folder / "result.json").read_text())["metrics"]
    start = metrics["misfit/guess" if name == "inverse_navier_stokes" else "misfit/prior_mean"]
    assert metrics["misfit/levenberg_marquardt"] < start
    assert metrics["misfit/lbfgs"] < start
    assert (folder / "seed0" / "figure.png").exists()
