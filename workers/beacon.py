"""Tries the sandbox when a worker starts, says in its log what it found, and keeps telling what the worker does.

A thread of its own, which ends with the process. That the database is away only delays the news.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from app.domain.confinement import Confinement
from app.domain.errors import SandboxUnavailable
from app.domain.worker import Worker
from app.store import worker_rows
from app.store.worker_rows import SPOKEN_FOR_SECONDS
from workers import sandbox
from workers.pulse import DATABASE_DOWN
from workers.services import Services

log = logging.getLogger(__name__)

_MODEL = re.compile(r"^Model:\s*(.+)$", re.MULTILINE)


def light(services: Services, busy: Callable[[], int], end: threading.Event | None = None) -> threading.Thread:
    """Until `end`. `busy` says how many jobs run here now."""
    over = end or threading.Event()
    thread = threading.Thread(target=_shine, args=(services, busy, over), daemon=True, name="beacon")
    thread.start()
    return thread


def _shine(services: Services, busy: Callable[[], int], end: threading.Event) -> None:
    _write_down(_look(services))
    while True:
        try:
            with services.database.begin() as connection:
                worker_rows.say(connection, _facts(services, busy()))
        except DATABASE_DOWN as error:
            log.warning("the state of the worker could not be told: %s", type(error).__name__)
        if end.wait(SPOKEN_FOR_SECONDS / 10):
            return


def put_out(services: Services) -> None:
    """The worker ends: nobody counts on it any more."""
    try:
        with services.database.begin() as connection:
            worker_rows.leave(connection, services.worker)
    except DATABASE_DOWN as error:
        log.warning("the end of the worker could not be told: %s", type(error).__name__)


def _facts(services: Services, busy: int) -> Worker:
    known = services.settings
    return Worker(
        services.worker, version("lethe"), known.served_queues, known.worker_slots, busy, services.drain.begun,
        devices(known.device), _look(services),
    )  # fmt: skip


def devices(asked: str, root: Path = Path("/proc/driver/nvidia/gpus")) -> tuple[str, ...]:
    """The accelerators by name as the driver tells them, without torch; the CPU where there is none, or it was asked
    for."""
    found = [] if asked == "cpu" else sorted(root.glob("*/information"))
    names = [match[1].strip() for file in found if (match := _MODEL.search(file.read_text(errors="replace")))]
    return tuple(names) or ("cpu",)


def _look(services: Services) -> Confinement:
    try:
        return sandbox.probe(services.settings.sandbox_gone_without)
    except SandboxUnavailable as error:
        return Confinement(fault=error.message)


def _write_down(found: Confinement) -> None:
    if not found.holds:
        log.error(found.lack())
    elif found.without:
        log.warning("the sandbox goes without %s, as LETHE_SANDBOX_WITHOUT says", ", ".join(found.without))
    else:
        log.info("the sandbox has every layer: %s", ", ".join(found.in_force))
