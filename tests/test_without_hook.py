"""The tests that depend on the precision or on what a user sees, once more without x64 and without the type hook."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import AS_USERS


@pytest.mark.smoke
@pytest.mark.skipif(AS_USERS, reason="this is the outer run's part")
def test_the_suite_passes_as_users_run_it():
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_", "PYTEST_"))}
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(
        command,
        cwd=Path(__file__).parent.parent,
        env=environment | {"OPKIT_TEST_AS_USERS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
