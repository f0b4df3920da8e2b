"""The experiments on neural SDEs run, shrunk to seconds, and report every arm."""

import json
from itertools import product

import pytest

from ..test_experiments import run


def metrics_of(script, folder, *flags):
    done = run(script, "--smoke", "--quiet", "--out", str(folder), *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    (inside,) = (folder / script.removesuffix(".py")).iterdir()
    assert (inside / "seed0" / "figure.png").exists()
    return json.loads((inside / "result.json").read_text())["metrics"]


@pytest.mark.smoke
@pytest.mark.slow
@pytest.mark.parametrize("data", ["spiral", "digits"])
def test_a_regularised_neural_sde_is_measured_against_the_plain_one(tmp_path, data):
    metrics = metrics_of("regularised_sde.py", tmp_path, "--data", data)
    assert {"nfe_ratio", "prediction_ratio", "training_ratio", "error_ratio"} <= set(metrics)
    assert 0.3 < metrics["nfe_ratio"] < 3
    assert metrics["vanilla/error"] > 0


@pytest.mark.smoke
@pytest.mark.slow
def test_a_stable_form_is_measured_against_the_free_one_at_every_missing_rate(tmp_path):
    metrics = metrics_of("stable_sde.py", tmp_path)
    arms, rates = ("free", "geometric"), ("0", "0.3", "0.5", "0.7")
    assert all(0 <= metrics[f"accuracy/{arm}@{rate}"] <= 1 for arm, rate in product(arms, rates))
    lost = metrics["accuracy/geometric@0"] - metrics["accuracy/geometric@0.5"]
    assert metrics["lost/geometric"] == pytest.approx(lost)
    assert "lost_ratio/geometric/free" in metrics
