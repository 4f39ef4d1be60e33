"""How a caller ends a job, tries it again, or has it forgotten. Each is one short transaction."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import Engine

from app.domain.audit import Action
from app.domain.identity import Caller
from app.domain.job import Job
from app.domain.quota import Quota
from app.jobs.dispatch import Dispatcher
from app.store import audit_rows, job_rows, quota_rows, references


def cancel(database: Engine, caller: Caller, job_id: UUID) -> Job:
    """Ask for the end of a job; asking twice changes nothing. Raises NotFound and IllegalMove."""
    with database.begin() as connection:
        before = job_rows.lock(connection, caller.tenant, job_id)
        job = job_rows.cancel(connection, caller.tenant, job_id)
        if job.status is not before:
            subject = audit_rows.subject("job", job_id)
            audit_rows.by_caller(connection, caller, Action.JOB_CANCELLED, subject, status=job.status)
            audit_rows.job_ended(connection, job, caller.name)
    return job


def retry(database: Engine, dispatcher: Dispatcher, caller: Caller, job_id: UUID, quota: Quota) -> Job:
    """Queue a job again that ended without a result. Raises NotFound, IllegalMove and TooMany."""
    with database.begin() as connection:
        used = quota_rows.hold(connection, caller.tenant)
        job = job_rows.retry(connection, caller.tenant, job_id)
        quota.check_jobs(used)
        audit_rows.by_caller(connection, caller, Action.JOB_RETRIED, audit_rows.subject("job", job_id))
    dispatcher.run_job(job.id)
    return job


def delete(database: Engine, caller: Caller, job_id: UUID) -> None:
    """Forget a job that is done; the audit trail keeps the hashes of its files. Raises NotFound and IllegalMove."""
    with database.begin() as connection:
        subject = audit_rows.subject("job", job_id)
        files = references.files_of(connection, subject)
        job_rows.delete(connection, caller.tenant, job_id)
        audit_rows.by_caller(connection, caller, Action.JOB_DELETED, subject, files=files)
