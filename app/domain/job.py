"""A job: one attempt to take a trojan out of one model, and the moves its status may make.

    queued ──────► running ──────► succeeded
      │  ▲          │ │ │
      │  └──────────┘ │ └────────► failed        (its own fault: bad data, no convergence to report, out of memory)
      │   lease lost  ▼
      │           cancelling ────► cancelled
      ├──────────────────────────► cancelled
      └──────────────────────────► quarantined   (its runner died `max_attempts` times; also from running)

    failed, cancelled, quarantined ──► queued    (retry)

A status is written by `app.store.job_rows.move`, under the row's lock and only along ALLOWED_MOVES; and by
`app.store.claim_rows.claim`, which takes queued -> running, or running -> queued -> running, in one statement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from app.domain.errors import Conflict
from app.domain.manifest import Manifest
from app.domain.report import SanitizationReport


class JobStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    QUARANTINED = "quarantined"

    @property
    def done(self) -> bool:
        """True in a state that no worker leaves (a caller's retry may)."""
        return self in TERMINAL


TERMINAL = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.QUARANTINED})

ALLOWED_MOVES: Mapping[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.CANCELLED, JobStatus.QUARANTINED}),
    JobStatus.RUNNING: frozenset(
        {
            JobStatus.SUCCEEDED,
            JobStatus.FAILED,
            JobStatus.CANCELLING,
            JobStatus.QUEUED,
            JobStatus.QUARANTINED,
        }
    ),
    JobStatus.CANCELLING: frozenset({JobStatus.CANCELLED}),
    JobStatus.SUCCEEDED: frozenset(),
    JobStatus.FAILED: frozenset({JobStatus.QUEUED}),
    JobStatus.CANCELLED: frozenset({JobStatus.QUEUED}),
    JobStatus.QUARANTINED: frozenset({JobStatus.QUEUED}),
}


class Phase(StrEnum):
    """What a running job is at; each change is a timed transition."""

    LOADING = "loading"
    FISHER = "fisher"
    ASCENT = "ascent"
    EVALUATING = "evaluating"
    PUBLISHING = "publishing"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job has no result: the error's stable code and its public message."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class JobOrder:
    """What the caller asked for; it never changes once the job exists."""

    model_id: UUID
    triggered_id: UUID
    clean_id: UUID
    base_model_id: UUID | None
    method: str
    recipe: Mapping[str, Any]
    policy: Mapping[str, Any]
    seed: int
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Job:
    """One row of `jobs`. `version` grows with every visible change (it is the ETag and the last event's id);
    `token` is the fencing token of the latest claim; `progress` is a share in [0, 1]; `updated_at` is the time of the
    latest version and `started_at` that of the latest claim."""

    id: UUID
    tenant: str
    order: JobOrder
    status: JobStatus
    phase: Phase | None
    progress: float
    version: int
    token: int
    attempts: int
    verdict: str | None
    failure: Failure | None
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class EventKind(StrEnum):
    STATUS = "status"
    PHASE = "phase"
    METRIC = "metric"


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One line of a job's history. `seq` counts from 1 within the job, in the order of commits."""

    seq: int
    at: datetime
    kind: EventKind
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to run a job until its lease ends; every write names the token."""

    job: Job
    token: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a job that succeeded leaves: its report, and the manifest of the repaired model's files in the vault."""

    report: SanitizationReport
    manifest: Manifest


def not_delivered(job: Job, what: str) -> Conflict:
    """Why there is no report or artifact of the job."""
    if job.status.done:
        return Conflict(
            f"The job is {job.status}: it has no {what}. See its failure, then retry it.", state=job.status
        )
    return Conflict(f"The job is {job.status}: its {what} is there once it has succeeded.", state=job.status)
