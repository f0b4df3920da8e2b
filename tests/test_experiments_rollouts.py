"""The comparison of rollout recipes and its kin run, shrunk."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "experiments"))


def run(tmp_path: Path, script: str, *flags: str) -> dict:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # it is compiled once and hardly runs
    command = [sys.executable, str(ROOT / "experiments" / script), "--smoke", "--quiet", "--out", str(tmp_path), *flags]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(next((tmp_path / script.removesuffix(".py")).glob("*/result.json")).read_text())["metrics"]


@pytest.mark.slow
@pytest.mark.smoke
def test_every_recipe_is_trained_and_followed(tmp_path):
    metrics = run(tmp_path, "rollout_recipes.py", "--preset", "burgers")
    arms = {name.split("/")[1] for name in metrics if name.startswith("time_over_one-step/")}
    assert {"one-step", "refiner", "boosted", "label-free", "persistence", "solver"} < arms
    assert all(0 < metrics[f"first/{arm}"] < 10 and metrics[f"finite/{arm}"] == 1 for arm in arms)
    assert metrics["unseen_over_single/leads-pairs"] > 0
    assert metrics["time_over_one-step/one-step"] == 1
    cells = list((tmp_path / "rollout_recipes" / "cells").iterdir())
    assert len(cells) == len(arms) + 1  # two baselines are none, three arms of lead times stand aside


@pytest.mark.slow
@pytest.mark.smoke
def test_seconds_are_calibrated_to_steps_and_recipes_run_in_two_dimensions(tmp_path):
    flags = ["--preset", "navier_stokes", "--arms", "one-step", "diverted", "--steps", "0", "--seconds", "0.3"]
    metrics = run(tmp_path, "rollout_recipes.py", *flags)
    assert metrics["steps/one-step"] >= metrics["steps/diverted"] >= 20  # whole chunks
    assert metrics["last_over_one-step/diverted"] > 0


@pytest.mark.slow
@pytest.mark.smoke
def test_the_refiner_is_compared_at_its_cost(tmp_path):
    metrics = run(tmp_path, "refiner_ks.py")
    assert metrics["gflops/refiner"] > 2.5 * metrics["gflops/one-step"]
    assert all(np.isfinite(value) for value in metrics.values())


@pytest.mark.slow
def test_the_classical_solver_of_a_case_makes_its_data_and_its_rate_is_their_slope(tmp_path, monkeypatch):
    """ETDRK4 in single precision on the coarser grid, in units of the case, against D5's truth on four times the
    points in double."""
    from problems import rollouts

    recipe = dataclasses.replace(rollouts.RECIPES["d5-fine"], frames=3, train=4, test=2, batch=2)
    monkeypatch.setitem(rollouts.RECIPES, "d5-fine", recipe)
    case = rollouts.read_case("burgers", tmp_path)
    assert case.train_args is not None
    norm = lambda error: float(np.sqrt(np.mean(np.asarray(error) ** 2)))
    for i in range(2):
        u, later, latest = (jnp.asarray(state) for state in case.train[i])
        args = jnp.asarray(case.train_args[i])
        assert norm(case.solve(u, args) - later) < 1e-2 * case.change
        slope = (latest - u) / (2 * case.dt)
        assert norm(case.rate(later, args) - slope) < 2e-2 * norm(slope)
