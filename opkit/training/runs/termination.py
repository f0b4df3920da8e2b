"""What SIGTERM does to a run: it is asked to stop, saves and ends."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Terminated(BaseException):
    """The run ended on SIGTERM; the message says where, and that the same command resumes. (No `Exception`: like
    `KeyboardInterrupt` it goes past code that handles errors.)"""


class Termination:
    """Whether the end was asked for. In a `deferred` block that is for the block to see; elsewhere `Terminated` is
    raised at once."""

    def __init__(self):
        self.requested = False
        self._deferred = False

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Listen to SIGTERM, if this is the main thread, which alone can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        earlier = signal.signal(signal.SIGTERM, self._ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, earlier)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Let a block come to a good end first."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self.requested:
            self._end()

    def _ask(self, *_: object) -> None:
        again, self.requested = self.requested, True
        if not self._deferred and not again:
            self._end()

    def _end(self) -> None:
        raise Terminated("Ended by SIGTERM; the same command resumes, from the latest checkpoint.")
