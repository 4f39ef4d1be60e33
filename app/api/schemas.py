"""What the job routes read and write, as pydantic models: the OpenAPI document is made from them.

The views are built from the domain's dataclasses by `of`. A view depends on nothing but the job's latest version, so
that the version can serve as a strong ETag.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from app.domain.job import Job, JobEvent, JobStatus, Phase
from app.domain.manifest import Manifest
from app.domain.methods import METHODS, METHODS_WITH_BASE
from app.domain.progress import estimated_finish
from app.domain.report import StepMetric
from app.jobs.submit import JobRequest

MAX_SEED = 2**63 - 1
_TEXT = r"^[^\x00]*$"  # PostgreSQL keeps no NUL
MetadataKey = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=_TEXT)]
KnobName = Annotated[str, StringConstraints(max_length=64, pattern=r"^[a-z0-9_]*$")]
MetadataValue = Annotated[str, StringConstraints(max_length=512, pattern=_TEXT)]


class NewJob(BaseModel):
    """A job to be made."""

    model_config = ConfigDict(extra="forbid")

    model: UUID = Field(description="the admitted model to be treated")
    triggered: UUID = Field(description="samples of kind `triggered`")
    clean: UUID = Field(description="samples of kind `clean`")
    base_model: UUID | None = Field(None, description=f"{' and '.join(METHODS_WITH_BASE)}: the clean checkpoint")
    method: str = Field("lya", description=f"one of {', '.join(METHODS)}")
    recipe: Literal["auto"] | dict[KnobName, JsonValue] = Field(
        "auto",
        description="knobs by name, the others at the method's defaults, run as given; `auto`, like no knob at all, "
        "searches from the defaults (method lya) or takes them",
    )
    policy: dict[KnobName, JsonValue] = Field(default_factory=dict, description="what you accept as removed")
    seed: int = Field(0, ge=0, le=MAX_SEED)
    metadata: dict[MetadataKey, MetadataValue] = Field(default_factory=dict, max_length=16)

    def request(self) -> JobRequest:
        return JobRequest(
            model_id=self.model,
            triggered_id=self.triggered,
            clean_id=self.clean,
            base_model_id=self.base_model,
            method=self.method,
            recipe={} if isinstance(self.recipe, str) else self.recipe,
            policy=self.policy,
            seed=self.seed,
            metadata=self.metadata,
        )


class FailureView(BaseModel):
    code: str
    message: str


class TransitionView(BaseModel):
    """A change of status or of phase, and when."""

    at: datetime
    status: JobStatus | None = None
    phase: Phase | None = None
    reason: str | None = None
    attempt: int | None = None

    @classmethod
    def of(cls, event: JobEvent) -> TransitionView:
        named = {name: event.data.get(name) for name in ("status", "phase", "reason", "attempt")}
        return cls.model_validate({"at": event.at, **named})


class JobSummary(BaseModel):
    """A job in a list."""

    id: UUID
    status: JobStatus
    done: bool = Field(description="nothing more will happen unless it is retried")
    phase: Phase | None
    progress: float = Field(description="share of the run that is done, 0 to 1")
    estimated_finish: datetime | None
    verdict: str | None = Field(description="pass, fail or inconclusive; also a `fail` is a job that succeeded")
    failure: FailureView | None
    model: UUID
    triggered: UUID
    clean: UUID
    base_model: UUID | None
    method: str
    seed: int
    metadata: dict[str, str]
    attempts: int
    version: int
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None = Field(description="of the latest attempt")
    finished_at: datetime | None

    @classmethod
    def of(cls, job: Job) -> JobSummary:
        return cls(**_facts(job))


class JobView(JobSummary):
    """A job on its own."""

    recipe: dict[str, Any]
    policy: dict[str, Any]
    transitions: list[TransitionView]
    links: dict[str, str]

    @classmethod
    def whole(cls, job: Job, transitions: Sequence[JobEvent]) -> JobView:
        return cls(
            **_facts(job),
            recipe=dict(job.order.recipe),
            policy=dict(job.order.policy),
            transitions=[TransitionView.of(event) for event in transitions],
            links=_links(job),
        )


class JobPage(BaseModel):
    data: list[JobSummary]
    has_more: bool


class MetricView(BaseModel):
    step: int
    phase: str
    loss: float | None
    values: dict[str, float | None]

    @classmethod
    def of(cls, metric: StepMetric) -> MetricView:
        return cls.model_validate(metric.to_dict())


class MetricPage(BaseModel):
    data: list[MetricView]
    has_more: bool


class ArtifactFile(BaseModel):
    path: str
    size: int
    sha256: str
    href: str


class ArtifactList(BaseModel):
    """The manifest of the repaired model. `digest` names the whole; `tar` is the link to all files in one stream."""

    digest: str
    size: int
    files: list[ArtifactFile]
    tar: str

    @classmethod
    def of(cls, job_id: UUID, manifest: Manifest) -> ArtifactList:
        here = f"/v1/jobs/{job_id}/artifacts"
        files = [
            ArtifactFile(path=entry.path, size=entry.size, sha256=entry.sha256, href=f"{here}/{entry.path}")
            for entry in manifest
        ]
        return cls(digest=manifest.digest, size=manifest.size, files=files, tar=f"{here}?format=tar")


def _facts(job: Job) -> dict[str, Any]:
    order = job.order
    return {
        "id": job.id,
        "status": job.status,
        "done": job.status.done,
        "phase": job.phase,
        "progress": round(job.progress, 4),
        "estimated_finish": estimated_finish(job),
        "verdict": job.verdict,
        "failure": FailureView(code=job.failure.code, message=job.failure.message) if job.failure else None,
        "model": order.model_id,
        "triggered": order.triggered_id,
        "clean": order.clean_id,
        "base_model": order.base_model_id,
        "method": order.method,
        "seed": order.seed,
        "metadata": dict(order.metadata),
        "attempts": job.attempts,
        "version": job.version,
        "created_at": job.created_at,
        "updated_at": job.updated_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
    }


def _links(job: Job) -> dict[str, str]:
    here = f"/v1/jobs/{job.id}"
    links = {"self": here, "events": f"{here}/events", "metrics": f"{here}/metrics"}
    if job.status is JobStatus.SUCCEEDED:
        links |= {"report": f"{here}/report", "artifacts": f"{here}/artifacts"}
    elif job.status.done:
        links["retry"] = f"{here}/retry"
    else:
        links["cancel"] = f"{here}/cancel"
    return links
