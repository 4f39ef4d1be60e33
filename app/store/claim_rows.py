"""The right to run a job: claim, lease and fencing token, and what the sweeper does when they end.

Guarantees: at most one claim of a job is good at any time; a worker's write goes through only with the token of the
latest claim and before its lease has ended, else it raises LeaseLost and changes nothing. All times are the
database's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select, update

from app.domain.errors import LeaseLost
from app.domain.job import Claim, Delivery, EventKind, Failure, Job, JobStatus, Phase
from app.domain.report import StepMetric
from app.domain.worker import Queue
from app.store import event_rows, job_rows, references
from app.store.event_rows import NewEvent
from app.store.job_rows import NOW
from app.store.tables import jobs as t

_HELD = (JobStatus.RUNNING, JobStatus.CANCELLING)
_LEASE_ENDED = or_(t.c.lease_until.is_(None), t.c.lease_until <= NOW)


def claim(
    connection: Connection,
    job_id: UUID,
    worker: str,
    lease_seconds: float,
    max_attempts: int,
    *,
    most_of_tenant: int = 0,
    queues: Sequence[str] = tuple(Queue),
) -> Claim | None:
    """The right to run the job, if it is queued or its last worker's lease has ended; else None. Of one tenant at
    most `most_of_tenant` jobs are held at a time; 0: as many as there are. A job of another queue is left alone.
    """
    if most_of_tenant and not _tenant_has_room(connection, job_id, most_of_tenant):
        return None
    free = (
        select(t.c.id, t.c.status)
        .where(t.c.id == job_id, t.c.status.in_([JobStatus.QUEUED, JobStatus.RUNNING]), t.c.queue.in_(queues))
        .where(_LEASE_ENDED, t.c.attempts < max_attempts)
        .with_for_update(skip_locked=True)
        .cte("free")
    )
    statement = (
        update(t)
        .where(t.c.id == free.c.id)
        .values(
            status=JobStatus.RUNNING,
            token=t.c.token + 1,
            attempts=t.c.attempts + 1,
            worker=worker,
            lease_until=NOW + timedelta(seconds=lease_seconds),
            **job_rows.ON_ENTRY[JobStatus.RUNNING],
        )
        .returning(free.c.status, t.c.token, t.c.attempts)
    )
    row = connection.execute(statement).one_or_none()
    if row is None:
        return None
    was = JobStatus(row.status)
    events = [job_rows.status_event(was, JobStatus.RUNNING, None, attempt=row.attempts)]
    if was is JobStatus.RUNNING:
        back = job_rows.status_event(was, JobStatus.QUEUED, "its worker went silent")
        events = [
            back,
            job_rows.status_event(JobStatus.QUEUED, JobStatus.RUNNING, None, attempt=row.attempts),
        ]
    return Claim(job_rows.change(connection, job_id, events), row.token)


def _tenant_has_room(connection: Connection, job_id: UUID, most: int) -> bool:
    """Whether fewer jobs of the tenant are held under a good lease. Nobody else may claim for it meanwhile."""
    tenant = connection.scalar(select(t.c.tenant).where(t.c.id == job_id))
    connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"running {tenant}", 0))))
    held = select(func.count()).where(
        t.c.tenant == tenant, t.c.id != job_id, t.c.status.in_(_HELD), t.c.lease_until > NOW
    )
    return int(connection.scalar(held) or 0) < most


def heartbeat(connection: Connection, claim: Claim, lease_seconds: float) -> JobStatus:
    """Lengthen the lease; the status says whether a cancel was asked. Raises LeaseLost."""
    statement = (
        update(t)
        .where(_held_by(claim))
        .values(lease_until=NOW + timedelta(seconds=lease_seconds))
        .returning(t.c.status)
    )
    status = connection.scalar(statement)
    if status is None:
        raise _lost(claim)
    return JobStatus(status)


def record_phase(connection: Connection, claim: Claim, phase: Phase, progress: float) -> None:
    """The run has come to a phase. Raises LeaseLost."""
    lock_held(connection, claim)
    event = NewEvent(EventKind.PHASE, {"phase": phase})
    job_rows.change(connection, claim.job.id, [event], phase=phase, progress=progress)


def record_metrics(connection: Connection, claim: Claim, batch: Sequence[StepMetric], progress: float) -> None:
    """Write the steps that are not written yet: a batch that comes again is not doubled. Raises LeaseLost."""
    lock_held(connection, claim)
    known = event_rows.known_steps(connection, claim.job.id, (metric.step for metric in batch))
    fresh = {metric.step: metric for metric in batch if metric.step not in known}
    events = [NewEvent(EventKind.METRIC, metric.to_dict(), step) for step, metric in sorted(fresh.items())]
    if events:
        job_rows.change(connection, claim.job.id, events, progress=progress)


def finish(connection: Connection, claim: Claim, outcome: Delivery | Failure) -> Job:
    """The claim's last word. A job that is being cancelled is cancelled, whatever came out. Raises LeaseLost."""
    if lock_held(connection, claim) is JobStatus.CANCELLING:
        return job_rows.move(connection, claim.job.id, JobStatus.CANCELLED, reason="confirmed by the worker")
    if isinstance(outcome, Delivery):
        references.hold(connection)
        return job_rows.move(connection, claim.job.id, JobStatus.SUCCEEDED, delivery=outcome)
    return job_rows.move(connection, claim.job.id, JobStatus.FAILED, failure=outcome)


def give_back(
    connection: Connection,
    claim: Claim,
    failure: Failure,
    max_attempts: int,
    wait_seconds: float,
    *,
    counts: bool = True,
) -> Job:
    """The run died without an answer: back into the queue for a pause, or quarantined after its last attempt.

    One that could not even begin does not count among its attempts. Raises LeaseLost."""
    status = lock_held(connection, claim)
    if not counts:
        fewer = func.greatest(t.c.attempts - 1, 0)
        connection.execute(update(t).where(t.c.id == claim.job.id).values(attempts=fewer))
    attempts = connection.scalar(select(t.c.attempts).where(t.c.id == claim.job.id)) or 0
    failures = _Failures(failure, counts and attempts >= max_attempts)
    return _release(connection, claim.job.id, status, failures, wait_seconds)


def unclaimed(
    connection: Connection, resend_seconds: float, limit: int, queues: Sequence[str] = tuple(Queue)
) -> list[UUID]:
    """Queued jobs of these queues, the oldest first, whose message is older than that; they count as sent now."""
    due = (
        select(t.c.id)
        .where(t.c.status == JobStatus.QUEUED, _LEASE_ENDED, t.c.queue.in_(queues))
        .where(or_(t.c.sent_at.is_(None), t.c.sent_at <= NOW - timedelta(seconds=resend_seconds)))
        .order_by(t.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    return sorted(connection.scalars(update(t).where(t.c.id == due.c.id).values(sent_at=NOW).returning(t.c.id)))


def silent(connection: Connection) -> list[UUID]:
    """Jobs that a worker held and whose lease has ended."""
    return list(connection.scalars(select(t.c.id).where(t.c.status.in_(_HELD), _LEASE_ENDED).order_by(t.c.id)))


def take_back(connection: Connection, job_id: UUID, max_attempts: int) -> Job | None:
    """Take a job from a worker that went silent: queued, quarantined, or cancelled if that was asked.

    None when the job is no longer in that state.
    """
    query = select(t.c.status, t.c.attempts).where(t.c.id == job_id, t.c.status.in_(_HELD), _LEASE_ENDED)
    row = connection.execute(query.with_for_update()).one_or_none()
    if row is None:
        return None
    failure = Failure("worker-lost", "Its worker went silent.")
    failures = _Failures(failure, row.attempts >= max_attempts)
    return _release(connection, job_id, JobStatus(row.status), failures, 0.0)


def holds(connection: Connection, job_id: UUID, token: int) -> bool:
    """Whether that claim is still the job's latest and the job is not done."""
    held = select(t.c.id).where(t.c.id == job_id, t.c.token == token, t.c.status.in_(_HELD))
    return connection.execute(held).one_or_none() is not None


@dataclass(frozen=True, slots=True)
class _Failures:
    """Why a run came to nothing, and whether that was the job's last attempt."""

    latest: Failure
    used_up: bool


def _release(
    connection: Connection, job_id: UUID, status: JobStatus, failures: _Failures, wait_seconds: float
) -> Job:
    latest = failures.latest
    if status is JobStatus.CANCELLING:
        return job_rows.move(connection, job_id, JobStatus.CANCELLED, reason=latest.message)
    if not failures.used_up:
        return job_rows.move(connection, job_id, JobStatus.QUEUED, reason=latest.message, wait_seconds=wait_seconds)
    last = Failure(latest.code, f"{latest.message} That was the last attempt: see the worker's log, then retry.")
    return job_rows.move(connection, job_id, JobStatus.QUARANTINED, reason=latest.message, failure=last)


def lock_held(connection: Connection, claim: Claim) -> JobStatus:
    """Hold the job's row for a write of this claim; its status. Raises LeaseLost."""
    status = connection.scalar(select(t.c.status).where(_held_by(claim)).with_for_update())
    if status is None:
        raise _lost(claim)
    return JobStatus(status)


def _held_by(claim: Claim) -> ColumnElement[bool]:
    return and_(t.c.id == claim.job.id, t.c.token == claim.token, t.c.status.in_(_HELD), t.c.lease_until > NOW)


def _lost(claim: Claim) -> LeaseLost:
    return LeaseLost(f"The claim {claim.token} on job {claim.job.id} has ended.")
