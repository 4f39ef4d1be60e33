"""API keys in PostgreSQL: what is left of them once they were shown. All times are the database's.

Rows are never deleted: the audit trail names keys by id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, and_, func, insert, or_, select, update

from app.domain.errors import Conflict, NotFound
from app.domain.identity import ApiKey, KeyOrder, Scope
from app.store.tables import api_keys as t

NOW = func.clock_timestamp()
USE_SECONDS = 60.0
_COLUMNS = tuple(column for column in t.c if column.name != "digest")
_ALIVE = and_(t.c.revoked_at.is_(None), or_(t.c.expires_at.is_(None), t.c.expires_at > NOW))
_UNSEEN = or_(t.c.last_used_at.is_(None), t.c.last_used_at < NOW - timedelta(seconds=USE_SECONDS))
AnyRow = Row[*tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class UsableKey:
    """A key that is neither revoked nor expired. `left`: seconds until it expires. `unseen`: its last use was written
    longer than USE_SECONDS ago."""

    key: ApiKey
    digest: bytes
    left: float | None
    unseen: bool


def create(connection: Connection, key_id: UUID, order: KeyOrder, digest: bytes) -> ApiKey:
    values = {
        "id": key_id,
        "tenant": order.tenant,
        "name": order.name,
        "digest": digest,
        "scopes": sorted(order.scopes),
        "expires_at": NOW + order.lifetime if order.lifetime is not None else None,
    }
    return _key(connection.execute(insert(t).values(**values).returning(*_COLUMNS)).one())


def usable(connection: Connection, key_id: UUID) -> UsableKey | None:
    """The key of whoever calls: the one query here that knows no tenant, since it tells which one it is."""
    left = func.extract("epoch", t.c.expires_at - NOW).label("left")
    query = select(*_COLUMNS, t.c.digest, left, _UNSEEN.label("unseen")).where(t.c.id == key_id, _ALIVE)
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    return UsableKey(_key(row), row.digest, None if row.left is None else float(row.left), row.unseen)


def note_use(connection: Connection, key_id: UUID) -> None:
    """Its secret was shown just now. One write a minute, however many processes see it."""
    connection.execute(update(t).where(t.c.id == key_id, _UNSEEN).values(last_used_at=NOW))


def page(connection: Connection, tenant: str, limit: int, after: UUID | None = None) -> list[ApiKey]:
    """The newest first (ids sort by time), those older than `after`."""
    query = select(*_COLUMNS).where(t.c.tenant == tenant).order_by(t.c.id.desc()).limit(limit)
    if after is not None:
        query = query.where(t.c.id < after)
    return [_key(row) for row in connection.execute(query)]


def every(connection: Connection) -> Sequence[ApiKey]:
    """Of all tenants: for the operator."""
    return [_key(row) for row in connection.execute(select(*_COLUMNS).order_by(t.c.tenant, t.c.id))]


def tenant_of(connection: Connection, key_id: UUID) -> str:
    """For the operator. Raises NotFound."""
    tenant = connection.scalar(select(t.c.tenant).where(t.c.id == key_id))
    if tenant is None:
        raise _missing(key_id)
    return str(tenant)


def revoke(connection: Connection, tenant: str, key_id: UUID) -> ApiKey:
    """Void from now on; once more changes nothing. Raises NotFound."""
    values = {"revoked_at": func.coalesce(t.c.revoked_at, NOW)}
    row = connection.execute(update(t).where(_of(tenant, key_id)).values(**values).returning(*_COLUMNS)).one_or_none()
    if row is None:
        raise _missing(key_id)
    return _key(row)


def lock_rotatable(connection: Connection, tenant: str, key_id: UUID) -> ApiKey:
    """Hold a key that may be rotated until the transaction ends. Raises NotFound and Conflict."""
    query = select(*_COLUMNS, _ALIVE.label("alive")).where(_of(tenant, key_id)).with_for_update()
    row = connection.execute(query).one_or_none()
    if row is None:
        raise _missing(key_id)
    if row.replaced_by is not None:
        raise Conflict(f"The key {key_id} was rotated before: rotate the key {row.replaced_by} that replaced it.")
    if not row.alive:
        raise Conflict(f"The key {key_id} is revoked or has expired: make a new one.")
    return _key(row)


def replace(connection: Connection, old: ApiKey, by: UUID, overlap: timedelta) -> None:
    """The old key ends after `overlap`, or when it would have ended anyway."""
    soon = NOW + overlap
    connection.execute(
        update(t)
        .where(_of(old.tenant, old.id))
        .values(replaced_by=by, expires_at=func.least(func.coalesce(t.c.expires_at, soon), soon))
    )


def _of(tenant: str, key_id: UUID) -> ColumnElement[bool]:
    return and_(t.c.id == key_id, t.c.tenant == tenant)


def _missing(key_id: UUID) -> NotFound:
    return NotFound(f"There is no key {key_id}.")


def _key(row: AnyRow) -> ApiKey:
    values = {name: row._mapping[name] for name in ApiKey.__dataclass_fields__}
    # A scope that a later version knew and this one does not allows nothing here.
    known = frozenset(Scope(name) for name in row.scopes if name in set(Scope))
    return ApiKey(**values | {"scopes": known})
