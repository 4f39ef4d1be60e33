"""The Celery tasks: each reads its one id and begins its use case on a thread, if this process has a slot for it.

What the watch of this process finds goes the same way without a message. When the process is told to end, it waits
for these threads; the drain sees to it that they end.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from celery import signals
from kombu.exceptions import OperationalError

from app.domain.messages import INSPECT_MODEL, RUN_JOB
from app.settings import settings
from workers import beacon, measures, post, sandbox, slots, sweep, watch
from workers.celery_app import app
from workers.inspect_model import inspect_model
from workers.run_job import run_job
from workers.services import Services, services

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Kind:
    use_case: Callable[[Services, UUID], None]
    slots: slots.Slots


KINDS = {
    INSPECT_MODEL: _Kind(inspect_model, slots.Slots(slots.INSPECTIONS)),
    RUN_JOB: _Kind(run_job, slots.Slots(settings().worker_slots)),
}


@signals.worker_init.connect
def begin_watch(**_: object) -> None:
    """Before there is a broker."""
    if (port := settings().metrics_port) is not None:
        measures.serve(port, settings().metrics_host)
    if settings().start_ahead:
        services().ahead.begin(sandbox.sees_gpu(settings().device))
    watch.begin(services(), hand_on)
    post.begin(services())
    beacon.light(services(), lambda: KINDS[RUN_JOB].slots.busy)


@signals.worker_shutting_down.connect
def begin_drain(how: str = "Warm", **_: Any) -> None:
    services().drain.begin(settings().drain_seconds if how == "Warm" else 0.0)
    if how != "Warm":
        wait_for_work()  # from a cold shutdown there is no further signal


@signals.worker_shutdown.connect
def wait_for_work(**_: Any) -> None:
    """Celery itself would leave without it."""
    for thread in threading.enumerate():
        if thread.name.startswith(tuple(KINDS)):
            thread.join()
    services().ahead.end()
    beacon.put_out(services())


@app.task(name=INSPECT_MODEL)
def inspect_model_task(model_id: str) -> None:
    _begin(INSPECT_MODEL, UUID(model_id))


@app.task(name=RUN_JOB)
def run_job_task(job_id: str) -> None:
    _begin(RUN_JOB, UUID(job_id))


def hand_on(task: str, row_id: UUID) -> None:
    """Begin it here if a slot is free; else wake another worker."""
    if not _begin(task, row_id):
        _send(task, row_id)


def _begin(task: str, row_id: UUID) -> bool:
    """Whether there was a slot."""
    taken = not services().drain.begun and KINDS[task].slots.take()
    if taken:
        here = contextvars.copy_context()  # of the trace that the message carried
        threading.Thread(target=here.run, args=(_work, task, row_id), name=f"{task} {row_id}").start()
    return taken


def _work(task: str, row_id: UUID) -> None:
    """On a slot that was taken."""
    try:
        KINDS[task].use_case(services(), row_id)
    finally:
        KINDS[task].slots.give()
    if task == RUN_JOB and not services().drain.begun:
        sweep.wake_next(services(), hand_on)


def _send(task: str, row_id: UUID) -> None:
    with contextlib.suppress(OperationalError, OSError):  # what is not sent is due again soon
        app.send_task(task, args=[str(row_id)], retry=False)
