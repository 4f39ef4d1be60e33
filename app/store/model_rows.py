"""Models in PostgreSQL: what was uploaded, who inspects it, and what came of it.

Guarantees: at most one inspection of a model holds a good claim at any time; its writes go through only with the
token of the latest claim and before its lease has ended, else they raise LeaseLost and change nothing; a model leaves
`inspecting` once and for all; an id that a caller names is looked for in the caller's tenant, and is absent
elsewhere. All times are the database's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, and_, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql import ColumnElement

from app.domain.errors import Conflict, LeaseLost, NotFound
from app.domain.manifest import Manifest
from app.domain.model import Finding, Model, ModelFacts, ModelStatus, Severity
from app.store import references
from app.store.tables import models as t

NOW = func.clock_timestamp()
SEND_AT_ONCE = 100
_UNSEEN = {"lease_until", "sent_at", "digest"}
_COLUMNS = tuple(column for column in t.c if column.name not in _UNSEEN)
_INSPECTING = t.c.status == ModelStatus.INSPECTING
_LEASE_ENDED = or_(t.c.lease_until.is_(None), t.c.lease_until <= NOW)
AnyRow = Row[*tuple[Any, ...]]

GIVEN_UP = Finding(
    "SB-ATTEMPTS",
    Severity.REFUSAL,
    "",
    "Its inspection was begun several times and never finished. Try once more; then ask the operator for the log.",
)


def create(
    connection: Connection, tenant: str, model_id: UUID, name: str, *, source: Manifest, metadata: Mapping[str, str]
) -> Model:
    """A new model that waits for its inspection; its message counts as sent."""
    values = {"id": model_id, "tenant": tenant, "name": name, "status": ModelStatus.INSPECTING}
    values |= {"source": source.to_dict(), "metadata": dict(metadata), "sent_at": NOW}
    references.hold(connection)
    statement = insert(t).values(**values).returning(*_COLUMNS)
    return _model(connection.execute(statement).one())


def get(connection: Connection, tenant: str, model_id: UUID) -> Model:
    """Raises NotFound."""
    row = connection.execute(select(*_COLUMNS).where(t.c.id == model_id, t.c.tenant == tenant)).one_or_none()
    if row is None:
        raise _missing(model_id)
    return _model(row)


def by_digest(connection: Connection, tenant: str, digest: str) -> Model:
    """The newest admitted model with these files, as they were uploaded or rewritten. Raises NotFound."""
    these = or_(t.c.digest == digest, t.c.source["digest"].astext == digest)
    known = these & (t.c.tenant == tenant) & (t.c.status == ModelStatus.ADMITTED)
    row = connection.execute(select(*_COLUMNS).where(known).order_by(t.c.id.desc()).limit(1)).one_or_none()
    if row is None:
        raise NotFound(f"There is no admitted model with the digest {digest}.")
    return _model(row)


def page(connection: Connection, tenant: str, limit: int, after: UUID | None = None) -> list[Model]:
    """The newest first (ids sort by time), those older than `after`."""
    query = select(*_COLUMNS).where(t.c.tenant == tenant).order_by(t.c.id.desc()).limit(limit)
    if after is not None:
        query = query.where(t.c.id < after)
    return [_model(row) for row in connection.execute(query)]


def names(connection: Connection, tenant: str, ids: Iterable[UUID]) -> dict[UUID, str]:
    """The names of those of the models that are there."""
    query = select(t.c.id, t.c.name).where(t.c.tenant == tenant, t.c.id.in_(list(ids)))
    return {row.id: row.name for row in connection.execute(query)}


def remove(connection: Connection, tenant: str, model_id: UUID) -> None:
    """Raises NotFound, and Conflict while a job names the model: the transaction is then only good to be ended."""
    try:
        statement = delete(t).where(t.c.id == model_id, t.c.tenant == tenant).returning(t.c.id)
        gone = connection.execute(statement).one_or_none()
    except IntegrityError:
        raise Conflict(f"Jobs name the model {model_id}. Delete these jobs first.") from None
    if gone is None:
        raise _missing(model_id)


def claim(connection: Connection, model_id: UUID, lease_seconds: float, max_attempts: int) -> Model | None:
    """The right to inspect the model (the row carries the token), if nobody has it; else None, without waiting."""
    free = (
        select(t.c.id)
        .where(t.c.id == model_id, _INSPECTING, _LEASE_ENDED, t.c.attempts < max_attempts)
        .with_for_update(skip_locked=True)
        .cte("free")
    )
    statement = (
        update(t)
        .where(t.c.id == free.c.id)
        .values(token=t.c.token + 1, attempts=t.c.attempts + 1, lease_until=_after(lease_seconds))
        .returning(*_COLUMNS)
    )
    row = connection.execute(statement).one_or_none()
    return _model(row) if row is not None else None


def heartbeat(connection: Connection, claimed: Model, lease_seconds: float) -> None:
    """Lengthen the lease. Raises LeaseLost."""
    _write(connection, claimed, lease_until=_after(lease_seconds))


def finish_admitted(
    connection: Connection, claimed: Model, manifest: Manifest, facts: ModelFacts, notes: Iterable[Finding]
) -> None:
    """Raises LeaseLost."""
    references.hold(connection)
    _write(
        connection,
        claimed,
        status=ModelStatus.ADMITTED,
        manifest=manifest.to_dict(),
        digest=manifest.digest,
        facts=asdict(facts),
        findings=[asdict(finding) for finding in notes],
        inspected_at=NOW,
        lease_until=None,
    )


def finish_rejected(connection: Connection, claimed: Model, findings: Iterable[Finding]) -> None:
    """Raises LeaseLost."""
    rows = [asdict(finding) for finding in findings]
    _write(connection, claimed, status=ModelStatus.REJECTED, findings=rows, inspected_at=NOW, lease_until=None)


def give_back(connection: Connection, claimed: Model, wait_seconds: float, *, counts: bool = True) -> None:
    """The inspection came to nothing through no fault of the model: another may begin after a pause.

    One that could not even begin does not count among its attempts. Raises LeaseLost.
    """
    attempts = t.c.attempts if counts else t.c.attempts - 1
    _write(connection, claimed, lease_until=_after(wait_seconds), sent_at=None, attempts=attempts)


def to_send(connection: Connection, resend_seconds: float) -> list[UUID]:
    """Models that wait for an inspection nobody has begun, the oldest first; they count as sent from now on."""
    due = (
        select(t.c.id)
        .where(_INSPECTING, _LEASE_ENDED)
        .where(or_(t.c.sent_at.is_(None), t.c.sent_at <= NOW - timedelta(seconds=resend_seconds)))
        .order_by(t.c.id)
        .limit(SEND_AT_ONCE)
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    sent = update(t).where(t.c.id == due.c.id).values(sent_at=NOW).returning(t.c.id)
    return sorted(connection.scalars(sent))


def holds(connection: Connection, model_id: UUID, token: int) -> bool:
    """Whether that claim is still the model's latest, and good."""
    held = select(t.c.id).where(t.c.id == model_id, t.c.token == token, _INSPECTING, t.c.lease_until > NOW)
    return connection.execute(held).one_or_none() is not None


def give_up(connection: Connection, max_attempts: int) -> list[tuple[str, UUID]]:
    """Reject those whose last attempt was never finished: the tenant and id of each."""
    lost = and_(_INSPECTING, _LEASE_ENDED, t.c.attempts >= max_attempts)
    values = {"status": ModelStatus.REJECTED, "findings": [asdict(GIVEN_UP)], "inspected_at": NOW}
    gone = connection.execute(update(t).where(lost).values(**values).returning(t.c.tenant, t.c.id))
    return [(row.tenant, row.id) for row in gone]


def _write(connection: Connection, claimed: Model, **values: Any) -> None:
    held = and_(t.c.id == claimed.id, t.c.token == claimed.token, _INSPECTING, t.c.lease_until > NOW)
    row = connection.execute(update(t).where(held).values(**values).returning(t.c.id)).one_or_none()
    if row is None:
        raise LeaseLost(f"The claim {claimed.token} on model {claimed.id} has ended.")


def _after(seconds: float) -> ColumnElement[Any]:
    return NOW + timedelta(seconds=seconds)


def _missing(model_id: UUID) -> NotFound:
    return NotFound(f"There is no model {model_id}.")


def _model(row: AnyRow) -> Model:
    facts = row.facts and ModelFacts(**{**row.facts, "labels": tuple(row.facts["labels"])})
    return Model(
        id=row.id,
        tenant=row.tenant,
        name=row.name,
        status=ModelStatus(row.status),
        source=Manifest.from_dict(row.source),
        manifest=Manifest.from_dict(row.manifest) if row.manifest else None,
        facts=facts or None,
        findings=tuple(Finding(**{**item, "severity": Severity(item["severity"])}) for item in row.findings),
        metadata=row.metadata,
        token=row.token,
        attempts=row.attempts,
        created_at=row.created_at,
        inspected_at=row.inspected_at,
    )
