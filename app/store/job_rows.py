"""Jobs in PostgreSQL: the truth of the queue. What a caller does with a job, and the one door of its status.

Guarantees: a status changes along ALLOWED_MOVES and no other way; every change that a caller can see appends its
events and raises `version` by their number, under the row's lock, and tells those who wait; a caller's id is looked
for in the caller's tenant, and is absent elsewhere. All times are the database's. What workers and the sweeper do is
in `claim_rows`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, RowMapping, and_, func, select, update
from sqlalchemy.dialects.postgresql import insert as pg_insert

from app.domain.errors import IllegalMove, NotFound
from app.domain.job import (
    ALLOWED_MOVES,
    TERMINAL,
    Delivery,
    EventKind,
    Failure,
    Job,
    JobOrder,
    JobStatus,
    Phase,
)
from app.domain.manifest import Manifest
from app.domain.report import SanitizationReport
from app.domain.worker import Queue
from app.store import event_rows
from app.store.changes import notify
from app.store.event_rows import NewEvent
from app.store.tables import jobs as t
from app.store.tables import resume_points

_UNSEEN = {"report", "artifact", "lease_until", "worker", "sent_at", "idempotency_key", "request_sha256", "queue"}
_COLUMNS = tuple(column for column in t.c if column.name not in _UNSEEN)
NOW = func.clock_timestamp()

# What a job takes on as it enters a status, beside the status itself.
ON_ENTRY: Mapping[JobStatus, Mapping[str, Any]] = {
    JobStatus.QUEUED: {
        "phase": None,
        "progress": 0.0,
        "started_at": None,
        "finished_at": None,
        "failure": None,
        "verdict": None,
        "worker": None,
        "sent_at": NOW,
    },
    JobStatus.RUNNING: {"phase": None, "progress": 0.0, "started_at": NOW},
    JobStatus.CANCELLING: {},
    **{end: {"phase": None, "finished_at": NOW, "lease_until": None, "worker": None} for end in TERMINAL},
}
AnyRow = Row[*tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class KnownRequest:
    """The job that an Idempotency-Key already made, and the SHA-256 of the request that made it."""

    job: Job
    request_sha256: str


def insert(
    connection: Connection,
    tenant: str,
    job_id: UUID,
    order: JobOrder,
    request_sha256: str,
    *,
    idempotency_key: str | None = None,
    queue: Queue = Queue.CPU,
) -> Job | None:
    """A new queued job; None when the key has made one already, also by a twin that commits while we wait."""
    values = asdict(order) | {
        "id": job_id,
        "tenant": tenant,
        "status": JobStatus.QUEUED,
        "request_sha256": request_sha256,
        "idempotency_key": idempotency_key,
        "queue": queue,
        "sent_at": NOW,
    }
    once = [t.c.tenant, t.c.idempotency_key]
    statement = pg_insert(t).values(**values).on_conflict_do_nothing(index_elements=once)
    if connection.execute(statement.returning(t.c.id)).one_or_none() is None:
        return None
    return change(connection, job_id, [status_event(None, JobStatus.QUEUED, None)])


def known_request(connection: Connection, tenant: str, idempotency_key: str) -> KnownRequest | None:
    """What the tenant used the key for before."""
    query = select(*_COLUMNS, t.c.request_sha256).where(t.c.tenant == tenant)
    row = connection.execute(query.where(t.c.idempotency_key == idempotency_key)).one_or_none()
    return KnownRequest(_job(row), row.request_sha256) if row is not None else None


def get(connection: Connection, tenant: str, job_id: UUID) -> Job:
    """Raises NotFound."""
    query = select(*_COLUMNS).where(_of(tenant, job_id))
    return _job(_found(connection.execute(query).one_or_none(), job_id))


def version(connection: Connection, tenant: str, job_id: UUID) -> tuple[int, JobStatus]:
    """The version and status alone: all that a poll needs to know. Raises NotFound."""
    query = select(t.c.version, t.c.status).where(_of(tenant, job_id))
    row = _found(connection.execute(query).one_or_none(), job_id)
    return row.version, JobStatus(row.status)


def page(
    connection: Connection,
    tenant: str,
    limit: int,
    after: UUID | None = None,
    *,
    status: JobStatus | None = None,
    model_id: UUID | None = None,
) -> list[Job]:
    """The newest first (ids sort by time), those older than `after`."""
    query = select(*_COLUMNS).where(t.c.tenant == tenant).order_by(t.c.id.desc()).limit(limit)
    if after is not None:
        query = query.where(t.c.id < after)
    if status is not None:
        query = query.where(t.c.status == status)
    if model_id is not None:
        query = query.where(t.c.model_id == model_id)
    return [_job(row) for row in connection.execute(query)]


def delivery(connection: Connection, tenant: str, job_id: UUID) -> Delivery | None:
    """What the job has delivered; None before it has succeeded. Raises NotFound."""
    query = select(t.c.report, t.c.artifact).where(_of(tenant, job_id))
    row = _found(connection.execute(query).one_or_none(), job_id)
    if row.report is None or row.artifact is None:
        return None
    return Delivery(SanitizationReport.from_dict(row.report), Manifest.from_dict(row.artifact))


def cancel(connection: Connection, tenant: str, job_id: UUID) -> Job:
    """Cancelled at once while queued; cancelling while a worker holds it; unchanged when that was asked before.

    Raises NotFound, and IllegalMove for a job that has ended in another way.
    """
    status = lock(connection, tenant, job_id)
    if status in (JobStatus.CANCELLING, JobStatus.CANCELLED):
        return get(connection, tenant, job_id)
    to = JobStatus.CANCELLED if status is JobStatus.QUEUED else JobStatus.CANCELLING
    return move(connection, job_id, to, reason="asked by the caller")


def lock(connection: Connection, tenant: str, job_id: UUID) -> JobStatus:
    """Its status, which nobody else changes before the transaction ends. Raises NotFound."""
    return _lock(connection, _of(tenant, job_id), job_id)


def retry(connection: Connection, tenant: str, job_id: UUID) -> Job:
    """Back into the queue with all its attempts.

    Raises NotFound, and IllegalMove unless it ended without a result."""
    status = lock(connection, tenant, job_id)
    if not status.done:
        raise IllegalMove(f"The job is {status}: only one that ended without a result can be tried again.")
    return move(connection, job_id, JobStatus.QUEUED, reason="retry asked by the caller", attempts=0)


def delete(connection: Connection, tenant: str, job_id: UUID) -> None:
    """Take a finished job and its history away. Raises NotFound, and IllegalMove before it is done."""
    status = lock(connection, tenant, job_id)
    if not status.done:
        raise IllegalMove(f"The job is {status}: cancel it and wait until it is cancelled, then delete it.")
    connection.execute(t.delete().where(t.c.id == job_id))
    notify(connection, job_id)


def outlived(connection: Connection, seconds: float, limit: int) -> list[Job]:
    """Jobs that ended longer ago than that, the oldest first."""
    query = select(*_COLUMNS).where(t.c.finished_at < NOW - timedelta(seconds=seconds)).order_by(t.c.finished_at)
    return [_job(row) for row in connection.execute(query.limit(limit))]


def move(
    connection: Connection,
    job_id: UUID,
    to: JobStatus,
    *,
    reason: str | None = None,
    failure: Failure | None = None,
    delivery: Delivery | None = None,
    attempts: int | None = None,
    wait_seconds: float = 0.0,
) -> Job:
    """Change the status under the row's lock. A job that goes back to the queue is not claimed before `wait_seconds`.

    Raises NotFound, and IllegalMove when ALLOWED_MOVES does not have it.
    """
    status = _lock(connection, t.c.id == job_id, job_id)
    if to not in ALLOWED_MOVES[status]:
        raise IllegalMove(f"The job is {status}: it cannot become {to}.", state=status)
    values: dict[str, Any] = {"status": to, **ON_ENTRY[to]}
    if to is JobStatus.QUEUED:
        values["lease_until"] = NOW + timedelta(seconds=wait_seconds)
    if failure is not None:
        values["failure"] = asdict(failure)
    if delivery is not None:
        values |= {
            "report": delivery.report.to_dict(),
            "artifact": delivery.manifest.to_dict(),
            "verdict": delivery.report.verdict.outcome,
            "progress": 1.0,
        }
    if attempts is not None:
        values["attempts"] = attempts
    if to in TERMINAL:
        connection.execute(resume_points.delete().where(resume_points.c.job_id == job_id))
    return change(connection, job_id, [status_event(status, to, reason, failure=failure)], **values)


def change(connection: Connection, job_id: UUID, events: Sequence[NewEvent], **values: Any) -> Job:
    """Write the values and the events under the next numbers. The caller holds the row's lock."""
    statement = (
        update(t)
        .where(t.c.id == job_id)
        .values(version=t.c.version + len(events), updated_at=NOW, **values)
        .returning(*_COLUMNS)
    )
    job = _job(connection.execute(statement).one())
    event_rows.append(connection, job_id, job.version, events)
    notify(connection, job_id)
    return job


def _of(tenant: str, job_id: UUID) -> ColumnElement[bool]:
    """What a caller of the tenant may mean by the id."""
    return and_(t.c.id == job_id, t.c.tenant == tenant)


def _lock(connection: Connection, which: ColumnElement[bool], job_id: UUID) -> JobStatus:
    """Hold the row until the transaction ends. Raises NotFound."""
    row = connection.execute(select(t.c.status).where(which).with_for_update()).one_or_none()
    return JobStatus(_found(row, job_id).status)


def _found(row: AnyRow | None, job_id: UUID) -> AnyRow:
    if row is None:
        raise NotFound(f"There is no job {job_id}.")
    return row


def status_event(
    was: JobStatus | None,
    to: JobStatus,
    reason: str | None,
    *,
    failure: Failure | None = None,
    attempt: int | None = None,
) -> NewEvent:
    """A change of status as an event; what does not apply is left out."""
    data = {
        "status": to,
        "from": was,
        "reason": reason,
        "code": failure.code if failure else None,
        "attempt": attempt,
    }
    return NewEvent(EventKind.STATUS, {name: value for name, value in data.items() if value is not None})


def _job(row: AnyRow) -> Job:
    values: RowMapping = row._mapping
    return Job(
        order=JobOrder(**{name: values[name] for name in JobOrder.__dataclass_fields__}),
        id=row.id,
        tenant=row.tenant,
        status=JobStatus(row.status),
        phase=Phase(row.phase) if row.phase else None,
        failure=Failure(**row.failure) if row.failure else None,
        **{
            name: values[name]
            for name in (
                "progress", "version", "token", "attempts", "verdict",
                "created_at", "updated_at", "started_at", "finished_at",
            )
        },
    )  # fmt: skip
