"""The experiments on regularised neural ODEs run, shrunk to seconds and to two variants."""

import json
from itertools import product

import pytest

from ..test_experiments import run

FIGURES = ("nfe_ratio", "prediction_ratio", "training_ratio", "error_ratio")


@pytest.mark.slow
@pytest.mark.smoke
@pytest.mark.parametrize(
    ("script", "variants"),
    [
        ("regularised_classifier.py", ("global error", "local uniform")),
        ("regularised_spiral.py", ("global error", "kinetic")),
    ],
)
def test_the_variants_are_trained_and_measured(script, variants, tmp_path):
    done = run(script, "--smoke", "--quiet", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    (folder,) = (tmp_path / script.removesuffix(".py")).iterdir()
    metrics = json.loads((folder / "result.json").read_text())["metrics"]
    assert {f"{name}/{figure}" for name, figure in product(variants, FIGURES)} | set(FIGURES) <= set(metrics)
    assert all(0.3 < metrics[f"{name}/nfe_ratio"] < 3 for name in variants)
    assert (folder / "seed0" / "figure.png").exists()
