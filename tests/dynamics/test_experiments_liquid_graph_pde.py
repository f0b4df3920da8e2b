"""The experiments on liquid networks, graph diffusion and the neural Burgers equation run, shrunk to seconds."""

import json

import pytest

from ..test_experiments import run


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("script", "names"),
    [
        pytest.param(
            "liquid.py",
            [f"error/{arm}" for arm in ("ltc", "synaptic", "ct_rnn", "gru", "kept")],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "graph_diffusion.py",
            [f"accuracy/{arm}@{depth}" for arm in ("gcn", "linear", "nonlinear") for depth in (1, 2)],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "neural_pde_burgers.py",
            [f"relative_l2/{arm}@{when}" for arm in ("closure", "equation", "kept") for when in ("inside", "beyond")],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_every_arm_is_trained_and_measured(script, names, tmp_path):
    done = run(script, "--smoke", "--quiet", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    (folder,) = (tmp_path / script.removesuffix(".py")).iterdir()
    metrics = json.loads((folder / "result.json").read_text())["metrics"]
    assert all(0 <= metrics[name] < 3 for name in names)
    assert (folder / "seed0" / "figure.png").exists()
    if script == "liquid.py":
        sizes = [size for name, size in metrics.items() if name.startswith("parameters/")]
        assert max(sizes) <= 1.05 * min(sizes)
