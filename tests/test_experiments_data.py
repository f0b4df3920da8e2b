"""The experiments on training data run, shrunk, and leave the figures of their claims."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent


def run(tmp_path: Path, script: str) -> dict:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # it is compiled once and hardly runs
    command = [sys.executable, str(ROOT / "experiments" / script), "--smoke", "--quiet", "--out", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = tmp_path.glob("*/*/result.json")
    assert (path.parent / "seed0" / "config.json").exists()
    metrics = json.loads(path.read_text())["metrics"]
    assert all(np.isfinite(value) for value in metrics.values())
    return metrics


@pytest.mark.slow
@pytest.mark.smoke
def test_difficulties_are_mixed_by_what_they_cost(tmp_path):
    metrics = run(tmp_path, "difficulty_mixture.py")
    assert metrics["steps/easy"] < metrics["steps/medium"] < metrics["steps/hard"]
    assert metrics["cost/all-hard@1"] == metrics["ratio/all-hard@1"] == 1
    for arm in ("all-hard", "tenth-easy", "quarter-easy", "quarter-medium", "all-medium"):
        assert 0.3 < metrics[f"cost/{arm}@0.5"] <= 0.5
        assert metrics[f"relative_l2/{arm}@0.5"] > 0
    assert metrics["hard/all-medium@0.5"] == 0 < metrics["hard/quarter-easy@0.5"] < metrics["hard/all-hard@0.5"] <= 8


@pytest.mark.slow
@pytest.mark.smoke
def test_networks_learn_from_problems_in_other_coordinates(tmp_path):
    metrics = run(tmp_path, "covariance_augmentation.py")
    assert 0 < metrics["defect/median"] <= metrics["defect/p95"] < 0.2
    for name in ("fno", "resnet", "perceptron"):
        found, other = metrics[f"relative_l2/{name}"], metrics[f"relative_l2/{name}-augmented"]
        assert metrics[f"ratio/{name}"] == pytest.approx(other / found)
        assert found != other
