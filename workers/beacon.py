"""Tries the sandbox when a worker starts, says in its log what it found, and keeps telling /readyz.

A thread of its own, which ends with the process. That Redis is away only delays the news.
"""

from __future__ import annotations

import logging
import threading

import redis

from app.domain.confinement import Confinement
from app.domain.errors import SandboxUnavailable
from app.store.sandbox_board import SPOKEN_FOR_SECONDS, SandboxBoard
from workers import sandbox
from workers.services import Services

log = logging.getLogger(__name__)


def light(services: Services, end: threading.Event | None = None) -> threading.Thread:
    """Until `end`."""
    thread = threading.Thread(target=_shine, args=(services, end or threading.Event()), daemon=True, name="beacon")
    thread.start()
    return thread


def _shine(services: Services, end: threading.Event) -> None:
    board = SandboxBoard(services.settings.redis_url)
    _write_down(_look(services))
    while True:
        try:
            board.say(services.worker, _look(services))
        except redis.RedisError as error:
            log.warning("the state of the sandbox could not be told: %s", type(error).__name__)
        if end.wait(SPOKEN_FOR_SECONDS / 3):
            return


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
