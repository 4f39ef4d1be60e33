"""The workers that are there, and what waits for them: for operators, dashboards and scalers."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter
from pydantic import BaseModel

from app.api.access import needs
from app.api.deps import CallerDep, ServicesDep
from app.domain.identity import Scope
from app.domain.worker import Waiting, Worker
from app.store import worker_rows

router = APIRouter(tags=["workers"], dependencies=[needs(Scope.ADMIN)])


class WorkerView(BaseModel):
    """`busy` of its `slots` run a job. `sandbox`: whether it does untrusted work, and by which layers it is confined.
    `seen_at`: when it last spoke."""

    name: str
    version: str
    queues: list[str]
    slots: int
    busy: int
    draining: bool
    devices: list[str]
    sandbox: bool
    layers: list[str]
    seen_at: datetime

    @classmethod
    def of(cls, worker: Worker) -> WorkerView:
        assert worker.seen_at is not None
        return cls(
            name=worker.name, version=worker.version, queues=list(worker.queues), slots=worker.slots,
            busy=worker.busy, draining=worker.draining, devices=list(worker.devices), sandbox=worker.sandbox.holds,
            layers=list(worker.sandbox.in_force), seen_at=worker.seen_at,
        )  # fmt: skip


class QueueView(BaseModel):
    """`served`: whether a worker is there that takes its jobs. What is queued and not served waits."""

    queue: str
    queued: int
    running: int
    oldest_seconds: float | None
    served: bool

    @classmethod
    def of(cls, waiting: Waiting, workers: list[Worker]) -> QueueView:
        served = any(
            waiting.queue in worker.queues and not worker.draining and worker.sandbox.holds for worker in workers
        )
        return cls(
            queue=waiting.queue, queued=waiting.queued, running=waiting.running,
            oldest_seconds=waiting.oldest_seconds, served=served,
        )  # fmt: skip


class WorkersView(BaseModel):
    workers: list[WorkerView]
    queues: list[QueueView]


@router.get("/workers")
def show_workers(caller: CallerDep, services: ServicesDep) -> WorkersView:
    """Workers that spoke within the last half a minute, and the tenant's jobs in every queue."""
    with services.database.connect() as connection:
        workers, waiting = worker_rows.alive(connection), worker_rows.waiting(connection, caller.tenant)
    return WorkersView(
        workers=[WorkerView.of(each) for each in workers], queues=[QueueView.of(each, workers) for each in waiting]
    )
