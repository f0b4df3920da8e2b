"""A killed run, run again, is the unbroken run: final arrays, `metrics.jsonl` and figures, bit for bit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("killed_run.py")


def outcomes(out: Path, *runs: str) -> list[dict]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    command = [sys.executable, str(SCRIPT), str(out), *runs]
    environment |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(SCRIPT.parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(row: dict) -> None:
    assert row["last"] == [0, []], row  # run to its end, nothing unfinished left over
    assert row["same"] == {"arrays": True, "metrics": True, "values": True}, row


def test_a_run_killed_before_its_first_checkpoint_and_again_in_the_middle_of_a_save_is_the_unbroken_run(tmp_path):
    (row,) = outcomes(tmp_path, "chunk 1,saving 10")
    check(row)
    assert row["status"] == [-9, -9]
    assert row["unfinished"][1] == ["10.orbax-checkpoint-tmp"]


@pytest.mark.slow
def test_a_run_killed_at_any_of_ten_moments_or_interrupted_or_terminated_is_the_unbroken_run(tmp_path):
    before, saving = ("start", "chunk 1"), ("saving 5", "saving 20", "saving 25", "saving 40")
    later = ("chunk 4", "line 5", "chunk 8", "fitted")
    asked = ("interrupt 3", "terminate 3")
    rows = outcomes(tmp_path, *before, *saving, *later, *asked, "saving 5,saving 15,line 6,fitted")
    for row in rows:
        print(row)
        check(row)
        for moment, status, unfinished in zip(row["moments"].split(","), row["status"], row["unfinished"], strict=True):
            kind, _, step = moment.partition(" ")
            assert status == {"interrupt": 130, "terminate": 143}.get(kind, -9)
            assert kind != "saving" or unfinished == [f"{step}.orbax-checkpoint-tmp"]
            assert kind not in ("interrupt", "terminate") or not unfinished
