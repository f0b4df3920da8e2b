"""The experiments on physics-informed learning run, shrunk to seconds."""

import json
import math

import pytest

from ..test_experiments import run

FIGURES = {
    "pinn_helmholtz": {"relative_l2", "seconds"},
    "pinn_burgers": {"relative_l2", "seconds"},
    "pinn_allen_cahn": {"relative_l2", "seconds"},
    "pinn_cavity": {"relative_l2", "seconds"},
    "pinn_kovasznay": {"relative_l2", "relative_l2/u", "relative_l2/p"},
    "pinn_convection": {"relative_l2/eulerian", "relative_l2/lagrangian@broyden"},
    "pinn_inverse_burgers": {"speed_error/noise0.01", "viscosity_error/noise0.01"},
    "adaptive_sampling": {"relative_l2/uniform", "relative_l2/rad", "gain/rar-d"},
    "operator_with_physics": {"relative_l2/parseval", "relative_l2/few", "seconds/differences"},
}


@pytest.mark.slow
@pytest.mark.smoke
@pytest.mark.parametrize("name", FIGURES)
def test_the_experiment_trains_and_measures(name, tmp_path):
    done = run(f"{name}.py", "--smoke", "--quiet", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    (folder,) = (tmp_path / name).iterdir()
    metrics = json.loads((folder / "result.json").read_text())["metrics"]
    assert FIGURES[name] <= set(metrics)
    assert all(math.isfinite(value) for value in metrics.values())
    assert (folder / "seed0" / "figure.png").exists()
