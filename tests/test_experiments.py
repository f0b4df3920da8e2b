"""Every experiment runs, shrunk to seconds, as a user would start it, and leaves what it promises."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent


def run(script: str, *flags: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # it is compiled once and hardly runs
    command = [sys.executable, str(ROOT / "experiments" / script), *flags]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow  # `.ci/run` runs the first command
@pytest.mark.smoke
@pytest.mark.parametrize("flags", [(), ("--preset", "informed")])
def test_darcy_is_drawn_learnt_and_measured_at_three_resolutions(tmp_path, flags):
    done = run("fno_darcy.py", "--smoke", "--quiet", "--out", str(tmp_path), *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    (folder,) = (tmp_path / "fno_darcy").iterdir()
    result = json.loads((folder / "result.json").read_text())
    names = [f"relative_l2/{arm}@{n}" for arm in ("fno", "resnet", "mean", "nearest", "classical") for n in (4, 8, 16)]
    assert all(0 < result["metrics"][name] < 2 for name in names)
    # after seconds of training the classical solver is ahead of all, on every grid
    for n in (4, 8, 16) if not flags else ():
        errors = {arm: result["metrics"][f"relative_l2/{arm}@{n}"] for arm in ("fno", "resnet", "mean", "nearest")}
        assert result["metrics"][f"relative_l2/classical@{n}"] < min(errors.values())
    assert {"figure.png", "config.json", "metrics.jsonl", "fno.safetensors"} <= {
        p.name for p in (folder / "seed0").iterdir()
    }


def darcy_arrays():
    rng, arrays = np.random.default_rng(0), {}
    for name, samples, n in (("train", 32, 8), ("test", 6, 8), ("test16", 6, 16)):
        x = rng.random((samples, n, n)) > 0.5
        arrays |= {
            f"x_{name}": x,
            f"y_{name}": rng.random((samples, n, n)).astype(np.float32) + 3 * x.mean((1, 2), keepdims=True),
        }
    return arrays


@pytest.mark.slow
@pytest.mark.smoke
def test_darcy_learns_from_a_file(tmp_path):
    np.savez(tmp_path / "good.npz", **darcy_arrays())
    done = run("fno_darcy.py", "--smoke", "--data", str(tmp_path / "good.npz"), "--out", str(tmp_path / "runs"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "@8" in done.stdout
    assert "relative_l2/fno" in done.stdout


def test_darcy_refuses_a_damaged_file(tmp_path):
    arrays = darcy_arrays()
    arrays["y_train"][3, 2, 1] = np.nan
    np.savez(tmp_path / "bad.npz", **arrays)
    done = run("fno_darcy.py", "--smoke", "--data", str(tmp_path / "bad.npz"), "--out", str(tmp_path / "runs"))
    assert done.returncode != 0
    assert "'y_train' has NaN or infinity in 1 of 32 samples, the first at index 3" in done.stderr
