"""Many processes, on one host or on several: who they are, and what they agree on."""

import json
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import numpy as np

T = TypeVar("T")

_SHUTDOWN_SECONDS = 30  # how long a process that ends waits for the others; JAX's own 300 hide that one has failed
_BLOCK = 4096  # bytes; what is told is filled up to a multiple, and compiled once a size


def initialise_processes() -> None:
    """Join the other processes that the environment tells of; do nothing where there are none, or a second time.

    To be called before anything is computed: `launch` does. Then `jax.devices()` has the devices of all processes, and
    all run the same program in step. Looked at, in this order:

    - `JAX_NUM_PROCESSES`, `JAX_PROCESS_ID` (from 0) and `JAX_COORDINATOR_ADDRESS` (process 0's host, and a free port
      there), as `python -m opkit.training.parallel` sets them. With `JAX_NUM_PROCESSES=auto` it is left to
      `jax.distributed.initialize` to find all three, as it does on the hosts of a TPU slice.
    - Slurm's variables, in a step (`srun`) of more than one task, which gets one GPU a task.

    The processes should end within half a minute of each other; those that `launch` runs do.

    **Raises:** `ValueError` for variables that do not fit together; `RuntimeError` where JAX has computed before.
    """
    if jax.distributed.is_initialized():
        return
    number = os.environ.get("JAX_NUM_PROCESSES", "")
    if number == "auto" or (not number and int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1):
        jax.distributed.initialize(shutdown_timeout_seconds=_SHUTDOWN_SECONDS)
        return
    if number in ("", "1"):
        return
    own, address = os.environ.get("JAX_PROCESS_ID", ""), os.environ.get("JAX_COORDINATOR_ADDRESS")
    if not (number.isdecimal() and own.isdecimal() and int(own) < int(number) and address):
        raise ValueError(
            f"`JAX_NUM_PROCESSES` is {number!r} with `JAX_PROCESS_ID` {own!r} and `JAX_COORDINATOR_ADDRESS` {address!r}"
            "; expected a number or 'auto', a number below it, and HOST:PORT."
        )
    # "deactivate": on a Slurm node too it is these variables that count
    jax.distributed.initialize(
        address,
        int(number),
        int(own),
        cluster_detection_method="deactivate",
        shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
    )


def many_processes() -> bool:
    """Whether this is one of several processes; asking does not start JAX."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
    """Whether this process is the one that writes files and prints."""
    return not many_processes() or jax.process_index() == 0


def from_first(make: Callable[[], T]) -> T:
    """What `make()` returns on process 0, where alone it is called: something that JSON can tell, and tells back as it
    was. All processes are to ask together. Where it raises, the others raise `RuntimeError` with what it said.

    Whatever depends on the clock or on files has to be settled so, lest the processes part ways and wait for each other
    for ever.
    """
    if not many_processes():
        return make()
    from jax.experimental import multihost_utils

    content, failed = b"", None
    if is_first():
        try:
            content = json.dumps({"value": make()}).encode()
        except Exception as error:
            content, failed = json.dumps({"error": f"{type(error).__name__}: {error}"}).encode(), error
    length = int(multihost_utils.broadcast_one_to_all(np.asarray(len(content), np.int32)))
    room = np.zeros(-(-length // _BLOCK) * _BLOCK, np.uint8)
    room[: len(content)] = np.frombuffer(content, np.uint8)
    told = json.loads(multihost_utils.broadcast_one_to_all(room)[:length].tobytes())
    if "error" in told:
        raise failed or RuntimeError(f"On process 0: {told['error']}")
    return told["value"]


def on_any(flag: bool) -> bool:
    """Whether `flag` is set on any process. All processes are to ask together."""
    if not many_processes():
        return flag
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.asarray(flag)).any())


def sum_over_processes(numbers: Sequence[int]) -> list[int]:
    """The sums of what the processes have, below 2^32 each. All processes are to ask together."""
    if not numbers or not many_processes():
        return list(numbers)
    from jax.experimental import multihost_utils

    gathered = multihost_utils.process_allgather(np.asarray(numbers, np.uint32))
    return [int(number) for number in gathered.sum(0, dtype=np.uint32)]
