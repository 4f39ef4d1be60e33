"""The Celery tasks: each reads its one id and calls its use case."""

from __future__ import annotations

from uuid import UUID

from celery.signals import worker_ready

from app.domain.messages import INSPECT_MODEL, RUN_JOB, SWEEP
from app.settings import settings
from workers import beacon, slots, sweep
from workers.celery_app import app
from workers.inspect_model import inspect_model
from workers.run_job import run_job
from workers.services import services

JOBS = slots.Slots(settings().worker_slots)
INSPECTIONS = slots.Slots(slots.INSPECTIONS)


@worker_ready.connect
def light_the_beacon(**_: object) -> None:
    beacon.light(services())


@app.task(name=INSPECT_MODEL)
def inspect_model_task(model_id: str) -> None:
    with INSPECTIONS.one() as free:
        if free:
            inspect_model(services(), UUID(model_id))


@app.task(name=RUN_JOB)
def run_job_task(job_id: str) -> None:
    with JOBS.one() as free:
        if not free:
            return
        run_job(services(), UUID(job_id))
    sweep.wake_next(services(), _send)


@app.task(name=SWEEP)
def sweep_task() -> None:
    sweep.sweep(services(), _send)


def _send(task: str, row_id: UUID) -> None:
    app.send_task(task, args=[str(row_id)], retry=False)
