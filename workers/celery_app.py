"""Celery, set up so that nothing depends on it: PostgreSQL is the queue, a message is a wake-up that carries one id.

Guarantees: JSON only; no result backend; a message is acknowledged before its task begins, so it is never run again
by the broker (a claim decides who runs a job, and the sweeper sends again what was lost). No torch is imported here:
model work is done by a fresh child of each task.

    celery -A workers.celery_app worker      one process, a thread for each slot in use, and one that sweeps
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from celery import Celery, signals

from app import logs, traces
from app.settings import settings


@signals.setup_logging.connect  # and Celery sets up nothing of its own
def _set_up_logs(**_how: Any) -> None:
    logs.configure(settings().secrets())


if "celery" in Path(sys.argv[0]).parts[-2:]:
    _set_up_logs()  # before Celery's own first words, where this process is a worker

if "celery" in Path(sys.argv[0]).parts[-2:]:
    traces.begin("lethe-worker")

app = Celery("lethe", broker=settings().redis_url, include=["workers.tasks"])
app.conf.update(
    accept_content=["json"],
    task_serializer="json",
    task_ignore_result=True,
    task_acks_late=False,
    worker_pool="solo",  # a message only begins a thread: see workers.tasks
    worker_prefetch_multiplier=1,
    worker_send_task_events=False,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
)
