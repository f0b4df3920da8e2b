"""Devices are compared, reported on and computed on in sixteen bits, shrunk to seconds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "experiments" / "benchmarks"))


def run(script: str, *flags: str) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # it is compiled once and hardly runs
    command = [sys.executable, str(ROOT / "experiments" / script), "--smoke", *flags]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def metrics_of(folder: Path) -> dict:
    return json.loads(next(folder.glob("*/result.json")).read_text())["metrics"]


@pytest.mark.slow
@pytest.mark.smoke
def test_devices_and_processes_gather_nothing_where_a_plain_jit_does_and_take_its_step(tmp_path):
    run("benchmarks/scaling.py", "--quiet", "--out", str(tmp_path))
    metrics = metrics_of(tmp_path / "scaling")
    assert metrics["all_gathers"] == 0
    for case, sums in {"fno": 1, "solver": 0}.items():
        assert metrics[f"all_gathers/{case}/plain@2"] > 0
        assert metrics[f"all_reduces/{case}/ours@2"] == metrics[f"all_reduces/{case}/processes@2"] == sums
        assert metrics[f"apart/{case}@2"] < 1e-6
        for way in ("strong", "weak", "processes"):
            assert metrics[f"efficiency/{case}/{way}@2"] > 0


@pytest.mark.slow
@pytest.mark.smoke
def test_networks_in_sixteen_bits_train_beside_those_in_thirty_two(tmp_path):
    run("mixed_precision.py", "--quiet", "--out", str(tmp_path), "--arms", "fno", "resnet")
    metrics = metrics_of(tmp_path / "mixed_precision")
    for arm in ("fno", "resnet"):
        assert 0 < abs(metrics[f"error_ratio/{arm}"] - 1) < 0.02
        assert metrics[f"steps/{arm}/float32"] == metrics[f"steps/{arm}/bfloat16"] == 2
        assert 0 < metrics[f"memory_ratio/{arm}"] < 2
    assert metrics["rollout/persistence"] > 0
    assert len(list((tmp_path / "mixed_precision").glob("*/seed0/figure.png"))) == 1


@pytest.mark.slow
@pytest.mark.smoke
def test_benchmarks_are_run_into_one_table(tmp_path):
    run("benchmarks/device_report.py", "--out", str(tmp_path), "--only", "darcy_solver", "fno_step")
    found = json.loads((tmp_path / "report.json").read_text())
    assert {name: record["status"] for name, record in found["benchmarks"].items()} == {
        "fno_step": "done",
        "darcy_solver": "done",
    }
    assert found["about"]["versions"]["jax"]
    text = (tmp_path / "report.md").read_text()
    assert "| fno_step | 2-D 16: training step |" in text
    assert "| darcy_solver | 16 x 16: a solve in a batch |" in text


def test_a_benchmark_that_fails_or_runs_over_is_reported_and_does_not_stop_the_rest(tmp_path, monkeypatch):
    import device_report
    from device_report import Benchmark, Config, Row

    scripts = {
        "late": "import time; print('begun', flush=True); time.sleep(60)",
        "broken": "raise ValueError('no device')",
        "silent": "",
        "odd": "import pathlib, sys; pathlib.Path(sys.argv[-1]).write_text('{\"minutes\": 1}')",
        "good": "import pathlib, sys; pathlib.Path(sys.argv[-1]).write_text('{\"seconds\": 2.5}')",
    }
    for name, text in scripts.items():
        (tmp_path / f"{name}.py").write_text(text)
    rows = lambda result: iter([Row("a step", result["seconds"], "s", {"another": 0.5})])
    benchmarks = {name: Benchmark(1.0 if name == "late" else 1000.0, "", "", rows) for name in scripts}
    devices = [{"kind": "NVIDIA H200", "bytes": 139 * 2**30}]
    host = {"processor": "x", "cores": 2, "bytes": None}
    about = {"platform": "gpu", "devices": devices, "versions": {}, "commit": None, "host": host, "python": "3"}
    monkeypatch.setattr(device_report, "FOLDER", tmp_path)
    monkeypatch.setattr(device_report, "BENCHMARKS", benchmarks)
    monkeypatch.setattr(device_report, "machine", lambda: about)
    found = device_report.main(Config(out=tmp_path / "out"))
    assert {name: record["status"] for name, record in found.items()} == {
        "late": "ran over its 1 s",
        "broken": "failed with exit code 1",
        "silent": "wrote no result",
        "odd": "wrote a result without 'seconds'",
        "good": "done",
    }
    assert "begun" in found["late"]["printed"]
    text = (tmp_path / "out" / "report.md").read_text()
    assert "# opkit on 1 x NVIDIA H200, 139 GiB" in text
    assert "    ValueError: no device" in text
    assert "| good | a step | 2.5 s | 0.50 of another |" in text
