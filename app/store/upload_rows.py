"""Rows of `uploads`. An unfinished upload lives `ttl` seconds from its last progress, a finished one from its end;
what its bytes became (an object in the vault) outlives the row.

An id that a caller names is looked for in the caller's tenant, and is absent elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, RowMapping, delete, func, insert, literal, select, update
from sqlalchemy.sql import ColumnElement

from app.domain.errors import Gone, NotFound
from app.domain.upload import Upload
from app.store import references
from app.store.tables import uploads

EXPIRE_AT_ONCE = 1000

_COLUMNS = tuple(uploads.c[name] for name in Upload.__dataclass_fields__)


def create(
    connection: Connection,
    tenant: str,
    upload_id: UUID,
    *,
    name: str,
    length: int,
    ttl: float,
    metadata: str = "",
    concat: str = "",
    sha256: str | None = None,
) -> Upload:
    """A new upload; with `sha256` one that is finished already. An empty one is finished from the start."""
    values = {
        "id": upload_id,
        "tenant": tenant,
        "name": name,
        "length": length,
        "received": length if sha256 else 0,
        "sha256": sha256,
        "metadata": metadata,
        "concat": concat,
        "expires_at": _after(ttl),
    }
    return _upload(connection.execute(insert(uploads).values(values).returning(*_COLUMNS)).mappings().one())


def get(connection: Connection, tenant: str, upload_id: UUID) -> Upload:
    """Raises NotFound, and Gone for one whose time is over though nobody has swept it yet."""
    expired = (uploads.c.expires_at <= func.clock_timestamp()).label("expired")
    query = select(*_COLUMNS, expired).where(uploads.c.id == upload_id, uploads.c.tenant == tenant)
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise missing(upload_id)
    if row["expired"]:
        raise Gone(f"The upload {upload_id} has expired. Start a new one.")
    return _upload(row)


def missing(upload_id: UUID) -> NotFound:
    return NotFound(f"There is no upload {upload_id}: it was never made, was deleted, or has expired.")


def set_received(connection: Connection, upload_id: UUID, received: int, ttl: float) -> Upload:
    """Say that the first `received` bytes are on disk, and give the upload its full time again. Raises NotFound."""
    return _change(connection, upload_id, received=received, expires_at=_after(ttl))


def finish(connection: Connection, upload_id: UUID, sha256: str, ttl: float) -> Upload:
    """Say that every byte is in the vault as `sha256`. Raises NotFound."""
    references.hold(connection)
    return _change(connection, upload_id, received=uploads.c.length, sha256=sha256, expires_at=_after(ttl))


def remove(connection: Connection, upload_id: UUID) -> None:
    connection.execute(delete(uploads).where(uploads.c.id == upload_id))


def expire(connection: Connection) -> list[UUID]:
    """Delete the rows whose time is over, the oldest first and at most EXPIRE_AT_ONCE; returns their ids."""
    over = (
        select(uploads.c.id)
        .where(uploads.c.expires_at <= func.clock_timestamp())
        .order_by(uploads.c.expires_at)
        .limit(EXPIRE_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    found = connection.execute(delete(uploads).where(uploads.c.id.in_(over)).returning(uploads.c.id))
    return list(found.scalars())


def existing(connection: Connection, upload_ids: Iterable[UUID]) -> set[UUID]:
    """Those of the ids that have a row."""
    return set(connection.execute(select(uploads.c.id).where(uploads.c.id.in_(list(upload_ids)))).scalars())


def _change(connection: Connection, upload_id: UUID, **values: Any) -> Upload:
    statement = update(uploads).where(uploads.c.id == upload_id).values(**values).returning(*_COLUMNS)
    row = connection.execute(statement).mappings().one_or_none()
    if row is None:
        raise missing(upload_id)
    return _upload(row)


def _after(seconds: float) -> ColumnElement[Any]:
    return func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, literal(seconds))


def _upload(row: RowMapping) -> Upload:
    return Upload(**{name: row[name] for name in Upload.__dataclass_fields__})
