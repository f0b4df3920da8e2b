"""Start a program as many processes of this machine, and see that none outlives another's failure."""

import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

_POLL = 0.1  # seconds
_SETTLE = 1.0  # seconds in which those that failed because another did end by themselves
_GRACE = 10.0  # seconds from SIGTERM to SIGKILL for those left over


class ProcessError(RuntimeError):
    """A process failed and the others were ended; the message names it and its signal. `code`: what a shell would
    report of it, 128 and the number of the signal, or its own exit code."""

    code: int

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


def run_processes(command: Sequence[str], processes: int) -> None:
    """Run `python COMMAND...` as so many processes, and return when all have ended well.

    Each finds in its environment what `initialise_processes` looks for, with a coordinator on the loopback interface.
    On GPUs each has the one of its number (one process for all of them is as good); CPUs are shared. Their output is
    passed on line by line, behind their number. SIGINT and SIGTERM are passed on to all; on a second one they are
    killed.

    **Raises:** `ProcessError` when one of them fails, within 15 seconds of it. `ValueError` for no processes.
    """
    if processes < 1:
        raise ValueError(f"`processes` is {processes}; expected 1 or more.")
    with socket.socket() as free:  # so that several launchers may run side by side
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    started: list[subprocess.Popen[bytes]] = []
    printing = threading.Lock()
    echoes: list[threading.Thread] = []
    with _passed_on(started) as heard:
        try:
            for number in range(processes):
                process = subprocess.Popen(
                    [sys.executable, "-u", *command],
                    env=os.environ
                    | {
                        "JAX_COORDINATOR_ADDRESS": address,
                        "JAX_COORDINATOR_BIND_ADDRESS": address,
                        "JAX_NUM_PROCESSES": str(processes),
                        "JAX_PROCESS_ID": str(number),
                        "JAX_LOCAL_DEVICE_IDS": str(number),
                    },
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    start_new_session=True,  # or a terminal's Ctrl-C would reach it twice
                )
                started.append(process)
                for pipe, sink in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
                    echo = threading.Thread(target=_echo, args=(pipe, sink, f"[{number}] ", printing), daemon=True)
                    echo.start()
                    echoes.append(echo)
            for signal_number in heard[:1]:  # some may have been started after it
                _send(started, signal_number)
            while any(p.poll() is None for p in started) and not any(p.poll() for p in started):
                time.sleep(_POLL)
            if any(p.poll() for p in started):
                _wait(started, _SETTLE)
                failed = min(range(processes), key=lambda n: _blame(started[n].poll()))
                code = started[failed].returncode
                raise ProcessError(_message(failed, processes, code), code if code > 0 else 128 - code)
        finally:
            _end(started)
            for echo in echoes:
                echo.join(1.0)


def _blame(code: int | None) -> int:
    """Who failed first, as far as codes tell: a process aborts where JAX finds that another is gone."""
    if not code:
        return 3
    return 2 if code == -signal.SIGABRT else 1 if code > 0 else 0


def _message(number: int, processes: int, code: int) -> str:
    which = f"Process {number} of {processes}"
    if code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        return f"{which} ended on {signal.Signals(code - 128).name} (exit code {code}), and so did the others."
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"
    return f"{which} {how}; the others were ended."


@contextmanager
def _passed_on(started: Sequence[subprocess.Popen[bytes]]) -> Iterator[list[int]]:
    """Pass signals on to those started; yields the ones heard."""
    heard: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # which alone hears signals
        yield heard
        return

    def pass_on(number: int, _: object) -> None:
        heard.append(number)
        _send(started, number if len(heard) == 1 else signal.SIGKILL)

    earlier = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield heard
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _end(started: Sequence[subprocess.Popen[bytes]]) -> None:
    _send(started, signal.SIGTERM)
    _wait(started, _GRACE)
    _send(started, signal.SIGKILL)
    for process in started:
        process.wait()


def _wait(started: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    end = time.monotonic() + seconds
    while any(p.poll() is None for p in started) and time.monotonic() < end:
        time.sleep(_POLL)


def _send(started: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for process in started:
        if process.poll() is None:
            process.send_signal(number)


def _echo(pipe: Any, sink: TextIO, prefix: str, printing: threading.Lock) -> None:
    # of a progress bar, each state is a line that ends with a carriage return
    with io.TextIOWrapper(pipe, errors="replace", newline="") as lines:
        for line in lines:
            if not line.startswith("[Gloo] Rank "):  # of which each process prints one
                with printing:
                    sink.write(prefix + line)
                    sink.flush()
