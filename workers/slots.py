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

    def take(self) -> bool:
        """Whether a slot was free; it is the caller's until `give`."""
        return self._free.acquire(blocking=False)

    def give(self) -> None:
        self._free.release()
