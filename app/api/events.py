"""The history of a job as Server-Sent Events (WHATWG HTML, section 9.2), read from the database.

Each event has its number as id, so a client that comes back with Last-Event-ID misses nothing and gets nothing twice,
whichever process it meets. The stream ends with an event `end` when the job is done; who comes back after it is told
by 204 that there is nothing more.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from sqlalchemy.exc import DBAPIError

from app.api.access import needs
from app.api.deps import CallerDep, Services, ServicesDep
from app.domain.errors import BadRequest, NotFound
from app.domain.identity import Scope
from app.domain.ids import parse_id
from app.domain.job import JobEvent, JobStatus
from app.store import event_rows, job_rows
from app.store.changes import wait

router = APIRouter(tags=["jobs"])
log = logging.getLogger(__name__)

BATCH = 500
KEEP_ALIVE_SECONDS = 15.0
RECONNECT_MILLISECONDS = 2000
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


@dataclass(frozen=True, slots=True)
class _News:
    """What follows an event: `finished` says that nothing will come after it."""

    events: list[JobEvent]
    status: JobStatus

    @property
    def finished(self) -> bool:
        return self.status.done and len(self.events) < BATCH


@router.get("/jobs/{job_id}/events", response_class=StreamingResponse, dependencies=[needs(Scope.JOBS_READ)])
async def stream_events(  # noqa: PLR0917 - one argument for each header
    request: Request,
    job_id: str,
    caller: CallerDep,
    services: ServicesDep,
    last_event_id: Annotated[str | None, Header()] = None,
    since: Annotated[str | None, Query(alias="last_event_id")] = None,
) -> Response:
    """Status, phase and metric events, from the first or from the one after Last-Event-ID."""
    found, last = parse_id(job_id, "job"), _number(last_event_id if last_event_id is not None else since)
    news = await run_in_threadpool(_read, services, caller.tenant, found, last)
    if last and news.finished and not news.events:
        return Response(status_code=204)
    return StreamingResponse(
        _stream(services, caller.tenant, found, last), media_type="text/event-stream", headers=HEADERS
    )


async def _stream(services: Services, tenant: str, job_id: UUID, last: int) -> AsyncIterator[str]:
    # Neither this line nor the comment below ends a block: some clients take a blank line for an (empty) event.
    yield f"retry: {RECONNECT_MILLISECONDS}\n"
    try:
        async for text in _live(services, tenant, job_id, last):
            yield text
    except NotFound:
        yield _event("end", {"status": "deleted"})
    except DBAPIError as error:  # the client comes back with the last id
        log.warning("cut the event stream of job %s: %s", job_id, type(error).__name__)


async def _live(services: Services, tenant: str, job_id: UUID, last: int) -> AsyncIterator[str]:
    clock = asyncio.get_running_loop().time
    with services.changes.watch(job_id) as changed:
        quiet_since = clock()
        while True:
            news = await run_in_threadpool(_read, services, tenant, job_id, last)
            for event in news.events:
                yield _event(event.kind, {"at": event.at.isoformat(), **event.data}, event.seq)
                last, quiet_since = event.seq, clock()
            if news.finished:
                yield _event("end", {"status": news.status})
                return
            if len(news.events) == BATCH:
                continue
            if clock() - quiet_since >= KEEP_ALIVE_SECONDS:
                yield ": still here\n"
                quiet_since = clock()
            await wait(changed)


def _read(services: Services, tenant: str, job_id: UUID, last: int) -> _News:
    """The status first: what is done by then has all its events written."""
    with services.database.connect() as connection:
        _, status = job_rows.version(connection, tenant, job_id)
        return _News(event_rows.after(connection, job_id, last, BATCH), status)


def _event(kind: str, data: dict[str, Any], number: int | None = None) -> str:
    name = f"id: {number}\n" if number is not None else ""
    return f"{name}event: {kind}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"


def _number(text: str | None) -> int:
    if text is None or text == "":
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise BadRequest("Last-Event-ID must be the id of an event of this job: a whole number.")
    return int(text)
