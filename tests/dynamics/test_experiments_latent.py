"""The latent ODE's experiment runs, shrunk to seconds, and its series are what they claim."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from ..test_experiments import run

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))
from problems.irregular_series import draw_oscillators, read_co2


def test_oscillators_solve_their_equation():
    """Of `x'' + a x' + b x + c cos t`, by central differences and the best `a, b, c`, little is left."""
    times = np.linspace(0, 8, 1601)
    series = draw_oscillators(5, times, seen=0.5, noise=0.05, seed=0)
    h = times[1]
    for x in series.truth[..., 0].astype(float):
        velocity, acceleration = (x[2:] - x[:-2]) / (2 * h), (x[2:] - 2 * x[1:-1] + x[:-2]) / h**2
        columns = np.stack([velocity, x[1:-1], np.cos(times[1:-1])], 1)
        (damping, square, force), *_ = np.linalg.lstsq(columns, -acceleration)
        residual = acceleration + columns @ np.array([damping, square, force])
        assert np.sqrt(np.mean(residual**2)) < 0.02  # the rounding of float32, over h^2
        assert 0.69**2 < square < 1.41**2
        assert 0.09 * 0.7 < damping < 0.51 * 1.4
    assert abs((series.values - series.truth).std() - 0.05) < 0.005
    assert abs(series.seen.mean() - 0.5) < 0.02


def test_windows_before_1990_and_after_share_nothing_and_their_gaps_stay_unknown():
    pytest.importorskip("statsmodels")
    before, after = read_co2(52, seen=0.4, seed=0)
    assert before.values.shape[1:] == after.values.shape[1:] == (52, 1)
    assert 0.9 < before.known.mean() < 1  # weeks that were not measured
    assert not (before.seen & ~before.known).any()
    assert np.isfinite(before.values).all()
    assert abs(before.values[before.known].std() - 1) < 1e-3


@pytest.mark.smoke
@pytest.mark.slow
def test_the_variants_are_trained_and_measured(tmp_path):
    done = run("regularised_latent_ode.py", "--smoke", "--quiet", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    (folder,) = (tmp_path / "regularised_latent_ode").iterdir()
    metrics = json.loads((folder / "result.json").read_text())["metrics"]
    assert 0 < metrics["nfe_ratio"] == metrics["local uniform/nfe_ratio"] <= 1.5
    assert metrics["vanilla/nfe"] >= 7
    assert np.isfinite([metrics["vanilla/error"], metrics["local uniform/error"]]).all()
    assert (folder / "seed0/figure.png").exists()
