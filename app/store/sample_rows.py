"""Sets of samples in PostgreSQL. They never change once they are made.

An id is looked for in one tenant, and is absent elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, RowMapping, delete, insert, select
from sqlalchemy.exc import IntegrityError

from app.domain.errors import Conflict, NotFound
from app.domain.manifest import FileEntry
from app.domain.samples import SampleKind, SampleRow, SampleSet, SampleSummary
from app.store import references
from app.store.tables import samples as t


def create(
    connection: Connection,
    tenant: str,
    samples_id: UUID,
    *,
    name: str,
    kind: SampleKind,
    file: FileEntry,
    rows: int,
    summary: SampleSummary,
) -> SampleSet:
    values = {
        "id": samples_id,
        "tenant": tenant,
        "name": name,
        "kind": kind.value,
        "sha256": file.sha256,
        "size": file.size,
        "rows": rows,
        "summary": asdict(summary),
    }
    references.hold(connection)
    return _samples(connection.execute(insert(t).values(values).returning(t)).mappings().one())


def get(connection: Connection, tenant: str, samples_id: UUID) -> SampleSet:
    """Raises NotFound."""
    row = connection.execute(select(t).where(t.c.id == samples_id, t.c.tenant == tenant)).mappings().one_or_none()
    if row is None:
        raise NotFound(f"There are no samples {samples_id}.")
    return _samples(row)


def page(connection: Connection, tenant: str, limit: int, after: UUID | None = None) -> Sequence[SampleSet]:
    """Sets, the newest first, from the one made before `after` on."""
    statement = select(t).where(t.c.tenant == tenant).order_by(t.c.id.desc()).limit(limit)
    if after is not None:
        statement = statement.where(t.c.id < after)
    return [_samples(row) for row in connection.execute(statement).mappings()]


def remove(connection: Connection, tenant: str, samples_id: UUID) -> None:
    """Raises NotFound, and Conflict while a job names the set."""
    try:
        found = connection.execute(delete(t).where(t.c.id == samples_id, t.c.tenant == tenant))
    except IntegrityError:
        raise Conflict(f"A job names the samples {samples_id}. Delete the job first.") from None
    if not found.rowcount:
        raise NotFound(f"There are no samples {samples_id}.")


def _samples(row: RowMapping) -> SampleSet:
    return SampleSet(
        id=row["id"],
        tenant=row["tenant"],
        name=row["name"],
        kind=SampleKind(row["kind"]),
        sha256=row["sha256"],
        size=row["size"],
        rows=row["rows"],
        summary=_summary(row["summary"]),
        created_at=row["created_at"],
    )


def _summary(data: dict[str, Any]) -> SampleSummary:
    preview = tuple(SampleRow(**row) for row in data.get("preview", ()))
    return SampleSummary(data.get("labels", {}), tuple(data.get("columns", ())), preview)
