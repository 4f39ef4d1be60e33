"""A worker's own clock: it sweeps, and it takes up what is due, whether or not there is a broker.

Every worker process has one; the sweep itself is done by one of them at a time. A message only makes things quicker:
when the broker is down, forgets, or a consumer hangs on a dead connection, queued work is found here by the database
alone, and run on this process's own free slots.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from workers.services import Services
from workers.sweep import Send, sweep

log = logging.getLogger(__name__)


def begin(services: Services, hand_on: Send, end: threading.Event | None = None) -> threading.Thread:
    """Until `end`. `hand_on` runs or sends what the sweep finds."""
    over = end or threading.Event()
    thread = threading.Thread(target=_keep, args=(services, hand_on, over.wait), daemon=True, name="watch")
    thread.start()
    return thread


def _keep(services: Services, hand_on: Send, wait: Callable[[float], bool]) -> None:
    while not wait(services.settings.sweep_seconds):
        if services.drain.begun:
            return
        try:
            sweep(services, hand_on)
        except Exception as error:
            log.warning("no sweep: %s", type(error).__name__)
