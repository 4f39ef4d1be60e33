"""An orderly end of a worker process: no new work, and what is under way ends by itself or goes back to the queue.

The first request to stop gives what runs some seconds to end; a second one, or one that is in a hurry, gives it none.
"""

from __future__ import annotations

import logging
import threading

log = logging.getLogger(__name__)


class Stopped(Exception):
    """The worker ends: the run goes back to the queue, and no attempt is used up."""


class Drain:
    def __init__(self) -> None:
        self._begun, self._over = threading.Event(), threading.Event()

    @property
    def begun(self) -> bool:
        """Nothing new is begun any more."""
        return self._begun.is_set()

    def begin(self, seconds: float) -> None:
        """What runs may go on for so long; for none when this was asked before. May be called in a signal handler."""
        if self._begun.is_set() or seconds <= 0:
            self._over.set()
        self._begun.set()
        timer = threading.Timer(seconds, self._over.set)
        timer.daemon = True
        timer.start()

    def check(self) -> None:
        """Raises Stopped once the time is over."""
        if self._over.is_set():
            raise Stopped
