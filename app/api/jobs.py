"""The job routes: make, list, watch, cancel, retry, delete; and the series of metrics.

Reading a job costs one indexed read. Polls are answered 304 while nothing has changed, and may wait for a change.
"""

from __future__ import annotations

import asyncio
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from app.api import conditions
from app.api.access import needs
from app.api.deps import CallerDep, Services, ServicesDep
from app.api.paging import link_to_next
from app.api.schemas import JobPage, JobSummary, JobView, MetricPage, MetricView, NewJob
from app.domain.errors import BadRequest
from app.domain.identity import Scope
from app.domain.ids import parse_id
from app.domain.job import JobStatus
from app.jobs import cancel as ending
from app.jobs import submit as submitting
from app.store import event_rows, job_rows
from app.store.changes import wait

router = APIRouter(tags=["jobs"])

READERS = needs(Scope.JOBS_READ)
WRITERS = needs(Scope.JOBS_WRITE)
VIEW_EDITION = 1  # raise it when the same job is shown in another way: it is a part of every ETag
LONGEST_KEY = 255
CACHE = {"Cache-Control": "private, no-cache"}
RETRY_AFTER_SECONDS = 2


@router.post("/jobs", status_code=202, response_model=JobView, dependencies=[WRITERS])
def create_job(
    new: NewJob,
    caller: CallerDep,
    services: ServicesDep,
    idempotency_key: Annotated[str | None, Header(description="the same key makes one job, not two")] = None,
) -> Response:
    """Make a job. It is queued when this returns; follow it at Location."""
    asked, key = new.request(), _checked_key(idempotency_key)
    job = submitting.submit(
        services.database,
        services.vault,
        services.dispatcher,
        caller,
        asked,
        quota=services.quota,
        sizes=services.settings.queue_sizes,
        key=key,
    )
    answer = _shown(services, job.tenant, job.id, status_code=202)
    answer.headers["Location"] = f"/v1/jobs/{job.id}"
    answer.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return answer


@router.get("/jobs", response_model=JobPage, dependencies=[READERS])
def list_jobs(  # noqa: PLR0917 - one argument for each query parameter
    request: Request,
    caller: CallerDep,
    services: ServicesDep,
    after: Annotated[str | None, Query(description="the last id of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    status: JobStatus | None = None,
    model: str | None = None,
) -> Response:
    """Jobs, the newest first."""
    last = parse_id(after, "job") if after is not None else None
    model_id = parse_id(model, "model") if model is not None else None
    with services.database.connect() as connection:
        found = job_rows.page(connection, caller.tenant, limit + 1, last, status=status, model_id=model_id)
    page = JobPage(data=[JobSummary.of(job) for job in found[:limit]], has_more=len(found) > limit)
    headers = CACHE | link_to_next(request, page.data[-1].id if page.has_more else None)
    return JSONResponse(page.model_dump(mode="json"), headers=headers)


@router.get(
    "/jobs/{job_id}",
    response_model=JobView,
    responses={304: {"description": "not changed"}},
    dependencies=[READERS],
)
async def show_job(
    job_id: str,
    caller: CallerDep,
    services: ServicesDep,
    if_none_match: Annotated[str | None, Header()] = None,
    prefer: Annotated[str | None, Header(description="wait=30: answer once the job has changed")] = None,
) -> Response:
    """One job. With `Prefer: wait=N` the answer comes when the job changes, is done, or N seconds are over."""
    found, seconds = parse_id(job_id, "job"), conditions.wait_seconds(prefer)
    version = None
    if seconds is not None:
        version = await _until_changed(services, caller.tenant, found, if_none_match, seconds)
    if version is not None and conditions.matches(if_none_match, etag(version)):
        answer = Response(status_code=304, headers=headers_of(version))
    else:
        answer = await run_in_threadpool(_shown, services, caller.tenant, found, if_none_match)
    if seconds is not None:
        answer.headers["Preference-Applied"] = f"wait={seconds}"
    return answer


async def _until_changed(
    services: Services, tenant: str, job_id: UUID, if_none_match: str | None, seconds: float
) -> int:
    """Until the job has another version than the caller knows (by If-None-Match, else the present one), is done, or
    the time is over; the version that it has then. Holds no thread and no connection.
    """
    deadline = asyncio.get_running_loop().time() + seconds
    with services.changes.watch(job_id) as changed:
        version, status = await _version(services, tenant, job_id)
        if if_none_match is not None and not conditions.matches(if_none_match, etag(version)):
            return version
        now = version
        while now == version and not status.done:
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                break
            await wait(changed, left)
            now, status = await _version(services, tenant, job_id)
    return now


async def _version(services: Services, tenant: str, job_id: UUID) -> tuple[int, JobStatus]:
    """Raises NotFound, and what the database raises where it does not answer."""
    seen = await services.glance.version(tenant, job_id)
    return seen if seen is not None else await run_in_threadpool(_read_version, services, tenant, job_id)


def _read_version(services: Services, tenant: str, job_id: UUID) -> tuple[int, JobStatus]:
    with services.database.connect() as connection:
        return job_rows.version(connection, tenant, job_id)


@router.get("/jobs/{job_id}/metrics", response_model=MetricPage, dependencies=[READERS])
def show_metrics(
    job_id: str,
    caller: CallerDep,
    services: ServicesDep,
    after: Annotated[int, Query(ge=-1, le=2**31 - 1, description="the last step known")] = -1,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> Response:
    """The series, step by step."""
    with services.database.connect() as connection:
        job = job_rows.get(connection, caller.tenant, parse_id(job_id, "job"))
        found = event_rows.metrics(connection, job.id, after, limit + 1)
    page = MetricPage(data=[MetricView.of(metric) for metric in found[:limit]], has_more=len(found) > limit)
    return JSONResponse(page.model_dump(mode="json"), headers=CACHE)


@router.post("/jobs/{job_id}/cancel", status_code=202, response_model=JobView, dependencies=[WRITERS])
def cancel_job(job_id: str, caller: CallerDep, services: ServicesDep) -> Response:
    """A queued job is cancelled at once; a running one is `cancelling` until its worker confirms."""
    job = ending.cancel(services.database, caller, parse_id(job_id, "job"))
    return _shown(services, job.tenant, job.id, status_code=200 if job.status.done else 202)


@router.post("/jobs/{job_id}/retry", status_code=202, response_model=JobView, dependencies=[WRITERS])
def retry_job(job_id: str, caller: CallerDep, services: ServicesDep) -> Response:
    """Queue a job again that ended without a result, with the same order and seed."""
    job = ending.retry(services.database, services.dispatcher, caller, parse_id(job_id, "job"), services.quota)
    return _shown(services, job.tenant, job.id, status_code=202)


@router.delete("/jobs/{job_id}", status_code=204, dependencies=[WRITERS])
def delete_job(job_id: str, caller: CallerDep, services: ServicesDep) -> Response:
    """Forget a job that is done, with its history and its report."""
    ending.delete(services.database, caller, parse_id(job_id, "job"))
    return Response(status_code=204)


def _shown(
    services: Services, tenant: str, job_id: UUID, if_none_match: str | None = None, *, status_code: int = 200
) -> Response:
    """A poll that finds nothing new costs one indexed read."""
    with services.database.connect() as connection:
        job = job_rows.get(connection, tenant, job_id)
        if conditions.matches(if_none_match, etag(job.version)):
            return Response(status_code=304, headers=headers_of(job.version))
        events = event_rows.transitions(connection, job_id)
    # An event that was committed between the two reads belongs to the next version.
    view = JobView.whole(job, [event for event in events if event.seq <= job.version])
    return JSONResponse(view.model_dump(mode="json"), status_code, headers_of(job.version))


def headers_of(version: int) -> dict[str, str]:
    """Those of every answer that shows the job in this version."""
    return CACHE | {"ETag": etag(version), "Vary": "Prefer"}


def etag(version: int) -> str:
    """The strong validator of a job's view in this version."""
    return f'"{VIEW_EDITION}.{version}"'


def _checked_key(key: str | None) -> str | None:
    if key is not None and not (0 < len(key) <= LONGEST_KEY and key.isascii() and key.isprintable()):
        raise BadRequest(f"Idempotency-Key must be 1 to {LONGEST_KEY} printable ASCII characters.")
    return key
