"""Samples over HTTP: a raw JSONL, CSV or TSV file in, and what it holds out."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel

from app.api import bodies
from app.api.access import needs
from app.api.deps import CallerDep, ServicesDep
from app.api.paging import link_to_next
from app.domain.audit import Action
from app.domain.errors import BadRequest, TooLarge, UnsupportedMedia
from app.domain.identity import Scope
from app.domain.ids import parse_id
from app.domain.samples import SampleKind, SampleRow, SampleSet
from app.intake.admit_samples import SampleFile, SampleLimits, admit_samples
from app.intake.sample_files import Columns, SampleFormat
from app.store import audit_rows, references, sample_rows

router = APIRouter(tags=["samples"])

READERS = needs(Scope.SAMPLES_WRITE, Scope.JOBS_READ)
WRITERS = needs(Scope.SAMPLES_WRITE)
MEDIA_TYPES = {
    "application/jsonl": SampleFormat.JSONL,
    "application/x-jsonl": SampleFormat.JSONL,
    "application/jsonlines": SampleFormat.JSONL,
    "application/x-jsonlines": SampleFormat.JSONL,
    "application/x-ndjson": SampleFormat.JSONL,
    "application/ndjson": SampleFormat.JSONL,
    "text/csv": SampleFormat.CSV,
    "application/csv": SampleFormat.CSV,
    "text/tab-separated-values": SampleFormat.TSV,
    "text/tsv": SampleFormat.TSV,
}


class RowView(BaseModel):
    line: int
    text: str
    label: int | str
    clean_text: str | None
    true_label: int | str | None

    @classmethod
    def of(cls, row: SampleRow) -> RowView:
        return cls(
            line=row.line, text=row.text, label=row.label, clean_text=row.clean_text, true_label=row.true_label
        )


class SamplesView(BaseModel):
    """`labels` counts rows by label; `columns` names the optional columns; long texts of `preview` are cut."""

    id: UUID
    name: str
    kind: SampleKind
    rows: int
    size: int
    sha256: str
    labels: dict[str, int]
    columns: list[str]
    preview: list[RowView]
    created_at: datetime

    @classmethod
    def of(cls, found: SampleSet) -> SamplesView:
        return cls(
            id=found.id,
            name=found.name,
            kind=found.kind,
            rows=found.rows,
            size=found.size,
            sha256=found.sha256,
            labels=dict(found.summary.labels),
            columns=list(found.summary.columns),
            preview=[RowView.of(row) for row in found.summary.preview],
            created_at=found.created_at,
        )


class SamplesPage(BaseModel):
    data: list[SamplesView]
    has_more: bool


def _samples_id(samples_id: str) -> UUID:
    return parse_id(samples_id, "set of samples")


SamplesId = Annotated[UUID, Depends(_samples_id)]
ColumnName = Annotated[str | None, Query(min_length=1, max_length=200)]


def _columns(
    kind: SampleKind,
    text: ColumnName = None,
    label: ColumnName = None,
    clean_text: ColumnName = None,
    true_label: ColumnName = None,
) -> Columns:
    if kind is SampleKind.CLEAN and (clean_text or true_label):
        raise BadRequest("clean_text and true_label belong to triggered samples. Leave them out.")
    return Columns(text, label, clean_text, true_label)


@router.post("/samples", status_code=201, dependencies=[WRITERS])
async def add_samples(  # noqa: PLR0917 - FastAPI passes them by name
    request: Request,
    response: Response,
    caller: CallerDep,
    services: ServicesDep,
    kind: SampleKind,
    columns: Annotated[Columns, Depends(_columns)],
    form: Annotated[SampleFormat | None, Query(alias="format", description="instead of Content-Type")] = None,
    name: Annotated[str, Query(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")] = "",
) -> SamplesView:
    """Store samples: a text and a label in each row, the columns by name. For `triggered` the label is the class that
    the attacker wants; `clean_text` is the input without the trigger and `true_label` its true class. Any bad row
    refuses the file and is reported by its line."""
    limit = services.settings.samples_max_bytes
    if (bodies.declared_length(request) or 0) > limit:
        raise TooLarge(f"A file of samples has at most {limit:,} bytes. Send a part of the rows.", limit=limit)
    given = SampleFile(caller, name, kind, form or _format(request), columns)
    bodies.refuse_wrapped(request)
    chunks = bodies.stream(request, services.settings.body_grace_seconds)
    limits = SampleLimits(limit, services.settings.samples_max_rows, services.quota)
    found = await admit_samples(services.database, services.vault, given, chunks, limits)
    response.headers["Location"] = request.url_for("read_samples", samples_id=str(found.id)).path
    return SamplesView.of(found)


@router.get("/samples", dependencies=[READERS])
def list_samples(  # noqa: PLR0917 - one argument for each query parameter
    request: Request,
    response: Response,
    caller: CallerDep,
    services: ServicesDep,
    after: Annotated[str | None, Query(description="the last id of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> SamplesPage:
    """Sets of samples, the newest first."""
    last = parse_id(after, "set of samples") if after is not None else None
    with services.database.connect() as connection:
        found = sample_rows.page(connection, caller.tenant, limit + 1, last)
    page = SamplesPage(data=[SamplesView.of(each) for each in found[:limit]], has_more=len(found) > limit)
    response.headers.update(link_to_next(request, page.data[-1].id if page.has_more else None))
    return page


@router.get("/samples/{samples_id}", dependencies=[READERS])
def read_samples(samples_id: SamplesId, caller: CallerDep, services: ServicesDep) -> SamplesView:
    with services.database.connect() as connection:
        return SamplesView.of(sample_rows.get(connection, caller.tenant, samples_id))


@router.delete("/samples/{samples_id}", status_code=204, dependencies=[WRITERS])
def delete_samples(samples_id: SamplesId, caller: CallerDep, services: ServicesDep) -> Response:
    """Refused while a job names them."""
    with services.database.begin() as connection:
        subject = audit_rows.subject("samples", samples_id)
        files = references.files_of(connection, subject)
        sample_rows.remove(connection, caller.tenant, samples_id)
        audit_rows.by_caller(connection, caller, Action.SAMPLES_DELETED, subject, files=files)
    return Response(status_code=204)


def _format(request: Request) -> SampleFormat:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in MEDIA_TYPES:
        raise UnsupportedMedia(
            "Send samples as Content-Type: application/jsonl, text/csv or text/tab-separated-values, "
            "or say ?format=jsonl, csv or tsv."
        )
    return MEDIA_TYPES[kind]
