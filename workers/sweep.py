"""The sweeper: finds what was lost and sets it going again. It runs every few seconds, in one worker at a time.

    a job that is queued and that nobody claimed        its message is sent again
    a job whose worker went silent                      queued again, quarantined after its last attempt, or cancelled
    a model whose inspection nobody began or finished   its message is sent again, or it is given up
    an upload that expired, files of a dead run         removed
    a job that ended longer ago than is kept            deleted
    a stored file that no row speaks of, a damaged one  removed, set aside

Every step may be cut off at any point and come again: all of it is idempotent.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable
from uuid import UUID

from sqlalchemy import text

from app.domain.audit import Action
from app.domain.job import JobStatus
from app.domain.messages import INSPECT_MODEL, RUN_JOB
from app.intake.expire import remove_expired, remove_strays
from app.store import audit_rows, claim_rows, job_rows, model_rows, references, vault_care
from workers.inspect_model import clear_leftovers, note_verdict
from workers.services import Services

log = logging.getLogger(__name__)

LOCK = 7_163_402  # any fixed number: names the advisory lock
MOST_SENT = 100
MOST_FORGOTTEN = 50
COLLECT_SECONDS = 3600.0  # the vault is walked for files to collect this often
SCRUB_SECONDS = 0.5  # of one round at most go into reading stored files, one file aside
_RUN_FOLDER = re.compile(r"run-([0-9a-f-]{36})-(\d{1,18})")

Send = Callable[[str, UUID], None]


def sweep(services: Services, send: Send) -> None:
    """One round, but for this host's own scratch only where no other process is at it."""
    with services.database.begin() as guard:
        _take(services, send, _remove_strays, _remove_run_folders)
        if not guard.scalar(text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": LOCK}):
            return
        _take(
            services,
            send,
            _take_back_jobs,
            _send_jobs,
            _send_models,
            _remove_expired,
            _forget_old_jobs,
            _care_for_vault,
        )


def _take(services: Services, send: Send, *steps: Callable[[Services, Send], None]) -> None:
    """A step that fails does not keep the others from their turn."""
    for step in steps:
        try:
            step(services, send)
        except Exception:
            log.exception("a step of the sweep failed: %s", step.__name__)


def wake_next(services: Services, send: Send) -> None:
    """A slot is free: on to the job that has waited longest."""
    with services.database.begin() as connection:
        waiting = claim_rows.unclaimed(connection, 0.0, 1, services.settings.served_queues)
    for job_id in waiting:
        send(RUN_JOB, job_id)


def _take_back_jobs(services: Services, send: Send) -> None:
    with services.database.connect() as connection:
        silent = claim_rows.silent(connection)
    for job_id in silent:
        with services.database.begin() as connection:
            job = claim_rows.take_back(connection, job_id, services.settings.max_attempts)
            if job is not None:
                audit_rows.job_ended(connection, job, services.actor)
        if job is None:
            continue
        log.warning("job %s: its worker went silent; now %s", job_id, job.status)
        if job.status is JobStatus.QUEUED:
            send(RUN_JOB, job_id)


def _send_jobs(services: Services, send: Send) -> None:
    with services.database.begin() as connection:
        waiting = claim_rows.unclaimed(
            connection, services.settings.resend_seconds, MOST_SENT, services.settings.served_queues
        )
    for job_id in waiting:
        send(RUN_JOB, job_id)


def _send_models(services: Services, send: Send) -> None:
    known = services.settings
    with services.database.begin() as connection:
        for tenant, model_id in model_rows.give_up(connection, known.max_attempts):
            note_verdict(services, connection, tenant, model_id, [model_rows.GIVEN_UP])
    with services.database.begin() as connection:
        waiting = model_rows.to_send(connection, known.resend_seconds)
    for model_id in waiting:
        send(INSPECT_MODEL, model_id)


def _remove_expired(services: Services, _send: Send) -> None:
    remove_expired(services.database, services.vault)


def _remove_strays(services: Services, _send: Send) -> None:
    remove_strays(services.database, services.vault)


def _forget_old_jobs(services: Services, _send: Send) -> None:
    """As a caller's delete does, where the operator has set a time for it."""
    if not (seconds := services.settings.retain_jobs_seconds):
        return
    with services.database.begin() as connection:
        for job in job_rows.outlived(connection, seconds, MOST_FORGOTTEN):
            subject = audit_rows.subject("job", job.id)
            files = references.files_of(connection, subject)
            job_rows.delete(connection, job.tenant, job.id)
            audit_rows.append(
                connection, tenant=job.tenant, actor=services.actor, action=Action.JOB_DELETED, subject=subject,
                details={"files": files, "reason": "retention"},
            )  # fmt: skip


def _care_for_vault(services: Services, _send: Send) -> None:
    known = services.settings
    after = known.collect_after_seconds
    vault_care.collect_some(services.database, services.vault, after, period_seconds=min(after, COLLECT_SECONDS))
    vault_care.scrub_some(
        services.database, services.vault, services.actor, known.scrub_seconds, budget_seconds=SCRUB_SECONDS
    )


def _remove_run_folders(services: Services, _send: Send) -> None:
    """Files of runs whose process died before it could tidy up."""
    for folder in services.vault.incoming.glob("run-*"):
        found = _RUN_FOLDER.fullmatch(folder.name)
        if found is None:
            continue
        with services.database.connect() as connection:
            held = claim_rows.holds(connection, UUID(found[1]), int(found[2]))
        if not held:
            shutil.rmtree(folder, ignore_errors=True)
    clear_leftovers(services)
