"""Many processes on loopback: the numbers of one, files from the first, and an end of all where one ends."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest

from opkit.training import ProcessError, initialise_processes, run_processes

from .test_sharding import distance, trained

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("process_run.py")


def launched(out: Path, *flags: str, processes: int = 2, devices: int = 2, **environment: str) -> subprocess.Popen:
    """The experiment, on so many processes of so many devices; as `python SCRIPT` if it is one."""
    number = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    launcher = ["-m", "opkit.training.parallel", "--processes", str(processes)] if processes > 1 else []
    command = [sys.executable, *launcher, str(SCRIPT), "--out", str(out), "--quiet", "--changed-code", *flags]
    environment = os.environ | {"XLA_FLAGS": number, "PYTHONPATH": str(ROOT)} | environment
    return subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def finished(out: Path, *flags: str, **settings) -> dict[str, bytes]:
    """Run to the end: what must come out the same, of files and arrays."""
    process = launched(out, *flags, **settings)
    _, errors = process.communicate()
    assert process.returncode == 0, errors[-4000:]
    return outcome(out)


def outcome(out: Path) -> dict[str, bytes]:
    (folder,) = out.glob("process_run/*/seed3")
    return {path.name: path.read_bytes() for path in [*folder.glob("final*.npz"), folder / "metrics.jsonl"]}


def leaves(out: Path) -> list:
    (file,) = out.glob("process_run/*/seed3/final0.npz")
    return [*np.load(file).values()]


@pytest.fixture(scope="module")
def on_one():
    state, _ = trained()
    return [np.asarray(leaf) for leaf in jax.tree.leaves(eqx.filter(state, eqx.is_array))]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken")
    return out, finished(out)


@pytest.mark.slow
def test_two_processes_with_a_stream_and_an_optimiser_in_pieces_train_as_one_device(unbroken, on_one):
    out, files = unbroken
    assert distance(leaves(out), on_one) < 1e-6
    assert files["final0.npz"] == files["final1.npz"]
    assert len(files["metrics.jsonl"].splitlines()) == 4  # one process wrote, a line a chunk


@pytest.mark.slow
def test_four_processes_with_all_data_train_as_one_device(tmp_path, on_one):
    finished(tmp_path, "--no-stream", processes=4, devices=1)
    assert distance(leaves(tmp_path), on_one) < 1e-6


@pytest.mark.slow
def test_one_of_two_processes_killed_is_named_within_a_minute_and_the_run_resumes_to_the_same_bytes(tmp_path, unbroken):
    process = launched(tmp_path, MOMENT="kill 1 4")
    while not list(tmp_path.glob("process_run/*/seed3/metrics.jsonl")) and process.poll() is None:
        time.sleep(0.1)
    began = time.monotonic()
    _, errors = process.communicate()
    assert time.monotonic() - began < 60
    assert process.returncode == 128 + signal.SIGKILL, errors[-4000:]
    assert errors.splitlines()[-1] == "Process 1 of 2 was killed by SIGKILL; the others were ended."
    assert list(tmp_path.glob("process_run/*/seed3/checkpoint/train/5"))
    assert finished(tmp_path) == unbroken[1]


@pytest.mark.slow
def test_sigterm_to_one_of_two_processes_ends_both_after_a_save_and_the_run_resumes(tmp_path, unbroken):
    process = launched(tmp_path, MOMENT="end 1 2")
    _, errors = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, errors[-4000:]
    for number in (0, 1):
        assert f"[{number}] Seed 3, train: ended by SIGTERM after step " in errors
    assert errors.splitlines()[-1].endswith("ended on SIGTERM (exit code 143), and so did the others.")
    assert finished(tmp_path) == unbroken[1]


@pytest.mark.slow
def test_sigterm_to_the_launcher_saves_and_one_process_resumes_what_two_had_in_pieces(tmp_path, on_one):
    process = launched(tmp_path)
    while not list(tmp_path.glob("process_run/*/seed3/metrics.jsonl")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, errors[-4000:]
    assert "[0] Seed 3, train: ended by SIGTERM after step " in errors
    finished(tmp_path, processes=1, devices=1)
    assert distance(leaves(tmp_path), on_one) < 1e-6


@pytest.mark.slow
def test_all_processes_raise_the_same_where_the_loss_is_not_finite(tmp_path):
    process = launched(tmp_path, "--no-stream", devices=1, MOMENT="sick")
    _, errors = process.communicate()
    assert process.returncode == 1
    told = [re.findall(rf"^\[{number}\] (Diverged: .*)$", errors, re.MULTILINE) for number in (0, 1)]
    assert told[0] == told[1], errors[-4000:]
    assert "is not finite at step" in told[0][0]


def test_the_launcher_names_who_was_killed_passes_output_on_and_ends_the_others(capfd):
    program = """
import os, signal, sys, time
print(*(os.environ["JAX_" + name] for name in ("PROCESS_ID", "NUM_PROCESSES")), *sys.argv[1:])
if os.environ["JAX_PROCESS_ID"] == "2": os.kill(os.getpid(), signal.SIGKILL)
time.sleep(60)
"""
    began = time.monotonic()
    with pytest.raises(ProcessError) as caught:
        run_processes(["-c", program, "an argument"], 3)
    assert time.monotonic() - began < 60
    assert (str(caught.value), caught.value.code) == (
        "Process 2 of 3 was killed by SIGKILL; the others were ended.",
        137,
    )
    assert "[2] 2 3 an argument\n" in capfd.readouterr().out


@pytest.mark.plain
def test_what_does_not_fit_together_is_told(monkeypatch):
    with pytest.raises(ValueError, match="`processes` is 0; expected 1 or more"):
        run_processes(["-c", ""], 0)
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.setenv("JAX_PROCESS_ID", "2")
    with pytest.raises(ValueError, match="`JAX_NUM_PROCESSES` is '2' with `JAX_PROCESS_ID` '2' and"):
        initialise_processes()
