"""Simulations in other processes: in order, bounded in number, and through the death of a worker."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from opkit.data import SimulationError, WorkerSource


@pytest.fixture(scope="module")
def ray():
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # it would report home
    import ray

    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=80 * 2**20,
        log_to_driver=False,
        logging_level="error",
        _node_ip_address="127.0.0.1",
    )
    yield ray
    ray.shutdown()


def recorded(folder):
    """A simulation that notes when it runs. (A closure: it reaches the workers by value.)"""

    def simulate(number):
        note = Path(folder) / str(number)
        note.write_text(str(os.getpid()))
        if number == 3 and not (Path(folder) / "killed").exists():
            time.sleep(120)
        time.sleep(0.02 * (number % 3))
        return {"x": np.full(2, np.sqrt(number)), "n": np.int32(number)}

    return simulate


@pytest.mark.slow
def test_samples_come_in_the_order_asked_whichever_was_first(ray, tmp_path):
    (tmp_path / "killed").touch()
    source = WorkerSource(recorded(tmp_path), 100, at_once=3)
    wanted = np.array([2, 0, 1, 2, 5, 4, 3])
    found = source.take(wanted)
    np.testing.assert_array_equal(found["n"], wanted)
    np.testing.assert_array_equal(found["x"][:, 1], np.sqrt(wanted))
    assert len(source) == 100


@pytest.mark.slow
def test_a_worker_is_killed_and_every_sample_still_comes(ray, tmp_path):
    killed = []

    def kill():
        note, deadline = tmp_path / "3", time.monotonic() + 60
        while not (note.exists() and note.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
        (tmp_path / "killed").touch()
        killed.append(int(note.read_text()))
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    found = WorkerSource(recorded(tmp_path), 8).take(np.arange(8))
    thread.join()
    np.testing.assert_array_equal(found["n"], np.arange(8))
    assert int((tmp_path / "3").read_text()) != killed[0]  # another process computed it


@pytest.mark.slow
def test_no_more_run_than_are_allowed(ray, tmp_path):
    folder = str(tmp_path)

    def simulate(number):
        own = Path(folder) / f"{number}"
        own.touch()
        running = len(list(Path(folder).iterdir()))
        time.sleep(0.2)
        own.unlink()
        return np.int32(running)

    assert WorkerSource(simulate, 6, at_once=1, cpus=0.5).take(np.arange(6)).max() == 1
    assert WorkerSource(simulate, 6, at_once=4, cpus=0.5).take(np.arange(6)).max() > 1


@pytest.mark.slow
def test_an_error_of_the_solver_is_ours_with_the_number_and_so_is_a_process_that_always_dies(ray):
    def overflow(number):
        raise ArithmeticError("negative depth")

    def die(number):
        os._exit(3)

    with pytest.raises(SimulationError, match=r"simulation of sample 5 failed: ArithmeticError: negative depth"):
        WorkerSource(overflow, 8).take(np.array([5]))
    with pytest.raises(SimulationError, match=r"simulation of sample 2 failed: WorkerCrashedError"):
        WorkerSource(die, 8, retries=0).take(np.array([2]))
    with pytest.raises(ValueError, match=r"`samples` is 0, `at_once` 4, `retries` 3; expected 1, 1 and 0 or more"):
        WorkerSource(die, 0)


@pytest.mark.slow
def test_a_model_is_trained_from_workers_by_the_same_numbers_as_from_arrays(ray):
    import equinox as eqx
    import jax
    import optax

    from opkit.data import ArraySource, Reservoir
    from opkit.training import Online, fit, mse, supervised

    def simulate(number):
        x = np.random.default_rng(number).normal(size=3)
        return x, np.cumsum(x)

    workers = WorkerSource(simulate, 24)
    arrays = ArraySource(tuple(np.stack(a) for a in zip(*map(simulate, range(24)), strict=True)))
    objective = Online(supervised(mse, None), batch_size=4)
    carry = objective.start(Reservoir(arrays.take(np.arange(1)), 16))
    model = eqx.nn.Linear(3, 3, key=jax.random.key(0))
    trained = [
        fit(objective, model, source, optax.adam(1e-2), carry=carry, steps=12, batch_size=2, seed=0, chunk=4)
        for source in (workers, arrays)
    ]
    assert eqx.tree_equal(*trained)


@pytest.mark.plain
def test_without_ray_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r'need Ray: pip install "opkit\[online\]"'):
        WorkerSource(abs, 3)


@pytest.mark.slow
def test_before_ray_runs_the_error_says_how_to_start_it(monkeypatch):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(RuntimeError, match=r"Ray is not running; call `ray.init\(\)` first"):
        WorkerSource(abs, 3)
