"""The workers that spoke lately, by the database's clock, and how much waits for them.

It is news and nothing else: whether untrusted work is done is decided by the worker alone.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Connection, delete, func, select, true
from sqlalchemy.dialects.postgresql import insert as pg_insert

from app.domain.confinement import Confinement
from app.domain.job import JobStatus
from app.domain.worker import Queue, Waiting, Worker
from app.store.job_rows import NOW
from app.store.tables import jobs
from app.store.tables import workers as t

SPOKEN_FOR_SECONDS = 30.0


def say(connection: Connection, worker: Worker) -> None:
    """Write down what the worker says now; who has been silent for long is forgotten."""
    said = {"said": worker.to_dict(), "seen_at": NOW}
    row = pg_insert(t).values(name=worker.name, **said)
    connection.execute(row.on_conflict_do_update(index_elements=[t.c.name], set_=said))
    connection.execute(delete(t).where(t.c.seen_at < NOW - timedelta(seconds=SPOKEN_FOR_SECONDS)))


def leave(connection: Connection, name: str) -> None:
    connection.execute(delete(t).where(t.c.name == name))


def alive(connection: Connection) -> list[Worker]:
    """Those that spoke lately, by name."""
    recent = t.c.seen_at > NOW - timedelta(seconds=SPOKEN_FOR_SECONDS)
    rows = connection.execute(select(t).where(recent).order_by(t.c.name))
    return [Worker.from_dict(row.name, row.said, row.seen_at) for row in rows]


def sandboxes(connection: Connection) -> list[Confinement]:
    """What they are confined by, the same once."""
    found: list[Confinement] = []
    for worker in alive(connection):
        if worker.sandbox not in found:
            found.append(worker.sandbox)
    return found


def jobs_by_status(connection: Connection) -> dict[str, int]:
    """Of all tenants; every status."""
    query = select(jobs.c.status, func.count()).group_by(jobs.c.status)
    found: dict[str, int] = dict(connection.execute(query).tuples().all())
    return {status: found.get(status, 0) for status in JobStatus}


def waiting(connection: Connection, tenant: str | None = None) -> list[Waiting]:
    """Every queue, and the tenant's jobs in it; without a tenant those of all."""
    queued, running = (
        jobs.c.status == JobStatus.QUEUED,
        jobs.c.status.in_((JobStatus.RUNNING, JobStatus.CANCELLING)),
    )
    whose = true() if tenant is None else jobs.c.tenant == tenant
    oldest = func.extract("epoch", NOW - func.min(jobs.c.created_at).filter(queued))
    query = select(
        jobs.c.queue, func.count().filter(queued).label("queued"), func.count().filter(running).label("running"),
        oldest.label("oldest"),
    ).where(whose, queued | running).group_by(jobs.c.queue)  # fmt: skip
    found = {row.queue: row for row in connection.execute(query)}
    return [
        Waiting(queue, row.queued, row.running, float(row.oldest) if row.oldest is not None else None)
        if (row := found.get(queue)) is not None
        else Waiting(queue, 0, 0, None)
        for queue in Queue
    ]
