"""How many jobs and inspections one worker process runs at a time.

A message that finds no free slot is dropped: its row stays queued, and the oldest queued job is begun as soon as a
slot is free (`sweep.wake_next`), and by the sweeper in any case. So long jobs do not block inspections, and the order
of the queue is that of the database.
"""

from __future__ import annotations

import threading

INSPECTIONS = 2


class Slots:
    def __init__(self, count: int) -> None:
        self._free = threading.BoundedSemaphore(count)
        self.busy = 0
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Whether a slot was free; it is the caller's until `give`."""
        taken = self._free.acquire(blocking=False)
        with self._lock:
            self.busy += taken
        return taken

    def give(self) -> None:
        with self._lock:
            self.busy -= 1
        self._free.release()
