"""The corrected solver and the staggered operator run, shrunk; the solver they are compared with is what it says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from solvers import ETDRK, repeat, spectral

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "experiments"))


def metrics_of(script: str, out: Path) -> dict[str, float]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # it is compiled once and hardly runs
    command = [sys.executable, str(ROOT / "experiments" / script), "--smoke", "--quiet", "--out", str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result = next((out / script.removesuffix(".py")).glob("*/result.json"))
    assert (result.parent / "seed0" / "figure.png").exists()
    return json.loads(result.read_text())["metrics"]


@pytest.mark.slow
@pytest.mark.smoke
def test_a_corrected_solver_is_held_against_the_solver_alone(tmp_path):
    metrics = metrics_of("hybrid_kolmogorov.py", tmp_path)
    assert all(np.isfinite(value) for value in metrics.values())
    for arm in ("differences+net", "spectral+net", "net"):
        assert metrics[f"milliseconds/{arm}"] > 0
        for kind in ("differences", "spectral"):
            assert {f"speedup/{arm}/{kind}@{at}" for at in ("0.4", "0.6", "0.95", "0.8")} <= metrics.keys()
    assert metrics["error/spectral-16-3@0.4"] < metrics["error/kept@0.4"]


@pytest.mark.slow
@pytest.mark.smoke
def test_staggered_operators_are_timed_beside_the_whole_one(tmp_path):
    metrics = metrics_of("neural_stagger.py", tmp_path)
    assert metrics["round_trip"] == 0
    assert metrics["parameters/narrow"] < metrics["parameters/full"] / 2
    for arm in ("space", "space-time"):
        assert abs(metrics[f"parameters/{arm}"] / metrics["parameters/full"] - 1) < 0.1
        assert metrics[f"device/{arm}"] < metrics[f"serial/{arm}"]
        assert metrics[f"error/{arm}@1"] > 0


def test_central_differences_conserve_energy_and_enstrophy():
    from problems.kolmogorov import Differences, Flow

    step = Differences(Flow(viscosity=0.0, drag=0.0), 16, 0.1)
    w = jnp.asarray(np.random.default_rng(0).normal(size=(16, 16)))
    w = w - w.mean()
    rate = jax.jit(lambda w: step.rate(w))(w) - step.force.value
    psi = np.fft.irfft2(np.asarray(step.inverse.value) * np.fft.rfft2(w), w.shape)
    size = np.sqrt(np.sum(np.square(rate)) * np.sum(np.square(w)))
    assert abs(np.sum(w * rate)) < 1e-13 * size
    assert abs(np.sum(psi * rate)) < 1e-13 * size


@pytest.mark.slow
def test_central_differences_converge_to_the_spectral_method_at_second_order():
    from problems.kolmogorov import Differences, Flow

    flow = Flow(viscosity=0.05, mode=2)
    exact = flow.grid(48)
    x, y = exact.coordinates()
    w = (jnp.sin(x) * jnp.cos(y) + jnp.cos(2 * x + y))[None]
    end = jax.jit(repeat(ETDRK(flow.equation, exact, 0.05), 20))(w)
    errors = []
    for n in (24, 48, 96):
        grid = flow.grid(n)
        there = jax.jit(repeat(Differences(flow, n, 0.02), 50))(spectral.resample(w, exact, grid))
        errors.append(float(jnp.abs(spectral.resample(there, grid, exact) - end).max()))
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert (orders > 1.8).all()
    assert (orders < 2.3).all()


def test_the_seconds_of_an_equal_error_are_read_off_the_front_of_a_curve():
    from hybrid_kolmogorov import as_good

    curve = [(1.0, 1.0), (0.1, 10.0), (0.5, 20.0), (0.01, 100.0)]  # the third is behind the front
    np.testing.assert_allclose([as_good(b, curve) for b in (0.1, 10**-1.5, 5.0, 1e-3)], [10, 10**1.5, 1, 100])
