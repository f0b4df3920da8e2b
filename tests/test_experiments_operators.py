"""The comparison of operators and its kin run on every kind of problem, shrunk, and leave their tables."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "experiments"))


def run(script: str, *flags: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # it is compiled once and hardly runs
    command = [sys.executable, str(ROOT / "experiments" / script), "--smoke", "--quiet", *flags]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def compare(tmp_path: Path, *flags: str) -> dict:
    done = run("compare_operators.py", "--out", str(tmp_path), *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(next((tmp_path / "compare_operators").glob("*/result.json")).read_text())["metrics"]


@pytest.mark.slow
@pytest.mark.smoke
def test_operators_are_compared_and_their_table_is_written(tmp_path):
    metrics = compare(tmp_path, "--problem", "d1", "--operators", "fno")
    for name in ("fno", "resnet", "constant", "persistence"):
        assert all(0 < metrics[f"relative_l2/d1/{name}@{n}"] < 100 for n in (16, 32))
    for name in ("fno", "resnet"):
        assert 0 < metrics[f"gflops/d1/{name}"] < 1
    (folder,) = (path for path in (tmp_path / "compare_operators").iterdir() if path.name != "cells")
    assert "| d1: resnet |" in (folder / "table.md").read_text()
    assert (folder / "seed0" / "figure.png").exists()
    assert len(list((tmp_path / "compare_operators" / "cells").iterdir())) == 2


@pytest.mark.slow
@pytest.mark.smoke
@pytest.mark.parametrize(
    ("problems", "operators"),
    [
        (["d1-rollout"], ["sinenet", "sinenet-zero", "unet"]),
        (["d2"], ["mgno", "t1", "local-fno", "deeponet", "multionet"]),
        (["d3"], ["fd-fno", "lsm", "pod-deeponet"]),
        (["d4"], ["fno", "tfno"]),
        (["d5", "d5-irregular"], ["mp", "gno", "phys-gto"]),
        (["darcy16", "burgers16"], ["best", "coral"]),
        (["d7"], ["nio", "fcnn"]),
        (["d8"], ["adafnn", "mlp", "fpca", "fpca-10"]),
    ],
)
def test_every_kind_of_problem_is_learnt(tmp_path, problems, operators):
    metrics = compare(tmp_path, "--problem", *problems, "--operators", *operators)
    for problem in problems:
        for operator in set(operators) - {"best"}:
            values = [v for k, v in metrics.items() if k.startswith(f"relative_l2/{problem}/{operator}@")]
            assert values
            assert all(0 < value < 1000 for value in values)
    if problems[0] in ("d1-rollout", "d3", "d4"):
        assert metrics[f"rollout/{problems[0]}/persistence"] > 0


@pytest.mark.slow
@pytest.mark.smoke
def test_steps_are_calibrated_to_seconds_and_the_learning_rate_is_tried(tmp_path):
    flags = ["--steps", "0", "--seconds", "0.2", "--budget", "seconds", "--learning-rates", "1e-3", "1e-2"]
    metrics = compare(tmp_path, "--problem", "d1", "--operators", "resnet", *flags)
    (path,) = (tmp_path / "compare_operators").glob("*/steps-d1.json")
    assert json.loads(path.read_text()) == {"resnet": metrics["steps/d1/resnet"]}
    assert metrics["learning_rate/d1/resnet"] in (1e-3, 1e-2)


@pytest.mark.slow
@pytest.mark.smoke
@pytest.mark.parametrize("script", ["nio_calderon.py", "adafnn_regression.py", "coral_sampling.py"])
def test_the_scripts_of_single_claims_run(tmp_path, script):
    done = run(script, "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    (folder,) = (tmp_path / script.removesuffix(".py")).iterdir()
    metrics = json.loads((folder / "result.json").read_text())["metrics"]
    assert all(np.isfinite(value) for value in metrics.values())
    if script.startswith("nio"):
        assert metrics["permutation/nio"] < 1e-5
    elif script.startswith("ada"):
        assert 0 <= metrics["overlap/adafnn"] <= 1
    else:
        assert {"new_over_seen/coral-50", "fno_over_coral@new"} <= metrics.keys()


def test_a_missing_file_is_named_with_the_command_that_makes_it(tmp_path):
    from problems.bench import read_problem

    with pytest.raises(ValueError, match=r"d2\.h5 is missing: make it by `python experiments/generate_bench\.py"):
        read_problem("d2", tmp_path)
    with pytest.raises(ValueError, match=r"darcy16\.npz is missing: it is example data that neuraloperator ships"):
        read_problem("darcy16", tmp_path)
    with pytest.raises(ValueError, match=r"`problem` has 'd6'"):
        read_problem("d6", tmp_path)
