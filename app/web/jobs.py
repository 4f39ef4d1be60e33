"""The pages of jobs: all of them, one as it runs and when it is done, two side by side, the form for a new one."""

from __future__ import annotations

from functools import partial
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response
from sqlalchemy import Connection

from app.api.deps import ServicesDep
from app.domain.identity import Scope
from app.domain.ids import parse_id
from app.domain.job import JobStatus
from app.domain.methods import METHODS, METHODS_WITH_BASE
from app.domain.model import ModelStatus
from app.domain.progress import estimated_finish
from app.domain.recipe import KNOBS, POLICY_KNOBS
from app.domain.samples import SampleKind
from app.reports import compare
from app.reports.drawings import WIDTH, curve_plot
from app.reports.page import drawn
from app.reports.subject import Subject, subject_of
from app.store import event_rows, job_rows, model_rows, sample_rows
from app.web.screen import PageRoute, Visitor, VisitorDep, listed, show

router = APIRouter(route_class=PageRoute, include_in_schema=False)

LAST_EVENTS = 40
CHOICES = 100  # the newest of each kind that a form offers


@router.get("/jobs")
def every_job(
    visitor: VisitorDep, services: ServicesDep, after: str | None = None, status: JobStatus | None = None
) -> Response:
    visitor.must(Scope.JOBS_READ)
    rows, more = listed(visitor, services, partial(job_rows.page, status=status), after, "job")
    with services.database.connect() as connection:
        names = model_rows.names(connection, visitor.caller.tenant, {job.order.model_id for job in rows})
    return show("jobs", visitor, jobs=rows, names=names, more=more, status=status, statuses=list(JobStatus))


@router.get("/jobs/new")
def new_job(visitor: VisitorDep, services: ServicesDep) -> Response:
    visitor.must(Scope.JOBS_WRITE)
    tenant = visitor.caller.tenant
    with services.database.connect() as connection:
        models = [
            each for each in model_rows.page(connection, tenant, CHOICES) if each.status is ModelStatus.ADMITTED
        ]
        samples = sample_rows.page(connection, tenant, CHOICES)
    return show(
        "new_job", visitor, models=models, methods=METHODS, with_base=METHODS_WITH_BASE, knobs=KNOBS,
        limits=[knob for knob in POLICY_KNOBS if knob.name.startswith("max_")],
        triggered=[each for each in samples if each.kind is SampleKind.TRIGGERED],
        clean=[each for each in samples if each.kind is SampleKind.CLEAN],
    )  # fmt: skip


@router.get("/jobs/{job_id}")
def one_job(job_id: str, visitor: VisitorDep, services: ServicesDep) -> Response:
    """What the database says now; its script then follows the job until it is done."""
    visitor.must(Scope.JOBS_READ)
    tenant, found = visitor.caller.tenant, parse_id(job_id, "job")
    with services.database.connect() as connection:
        job = job_rows.get(connection, tenant, found)
        model = model_rows.get(connection, tenant, job.order.model_id)
        subject = subject_of(connection, job) if job.status is JobStatus.SUCCEEDED else None
        series = event_rows.metrics(connection, found) if subject is None else ()
        moves = event_rows.transitions(connection, found)
        events = event_rows.after(connection, found, max(0, job.version - LAST_EVENTS))
    return show(
        "job", visitor, job=job, model=model, moves=moves, events=events, subject=subject, width=WIDTH,
        drawn=drawn(subject) if subject else None, curves=curve_plot(series), finish=estimated_finish(job),
    )  # fmt: skip


@router.get("/compare")
def two_jobs(
    visitor: VisitorDep,
    services: ServicesDep,
    job: Annotated[list[str], Query(min_length=2, max_length=2, description="two jobs that have succeeded")],
) -> Response:
    visitor.must(Scope.JOBS_READ)
    with services.database.connect() as connection:
        a, b = (_subject(connection, visitor, parse_id(each, "job")) for each in job)
    found = compare.compare(a, b)
    return show("compare", visitor, a=a, b=b, found=found, marks=compare.drawn(found), width=WIDTH)


def _subject(connection: Connection, visitor: Visitor, job_id: UUID) -> Subject:
    return subject_of(connection, job_rows.get(connection, visitor.caller.tenant, job_id))
