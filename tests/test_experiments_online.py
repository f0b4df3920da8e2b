"""The comparison of online and offline training runs, shrunk, and is read again when it is finished."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.smoke
def test_both_ways_of_training_are_compared_at_numbers_of_steps_that_their_seconds_give(tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    script = str(ROOT / "experiments" / "online_vs_offline.py")
    command = [sys.executable, script, "--smoke", "--quiet", "--out", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = json.loads(next((tmp_path / "online_vs_offline").glob("*/result.json")).read_text())["metrics"]
    for name in ("mlp", "fno"):
        assert metrics[f"trajectories/{name}/offline"] == 24
        assert metrics[f"trajectories/{name}/online"] > 2
        assert 0 < metrics[f"ratio/{name}/online"] < 100
        assert metrics[f"steps/{name}/offline"] > 0
    assert 0 < metrics["relative_l2/persistence"] < 100
    cells = list((tmp_path / "online_vs_offline" / "cells").iterdir())
    assert len(cells) == 2 * (1 + 3)
