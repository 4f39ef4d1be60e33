"""The audit trail in PostgreSQL: appended in the transaction of the change that it tells of, never changed.

Guarantees: an entry is there if, and only if, its change is; the chain's order is the order of commits, since the
right to append is held from the append to the end of the transaction. So append last, when the transaction waits for
no other lock: then it cannot be part of a deadlock. A trigger refuses UPDATE, DELETE and TRUNCATE; whoever removes it
is found by the chain (`app.domain.audit`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, RowMapping, func, insert, select, text

from app.domain.audit import NO_HASH, Action, Entry, Head
from app.domain.identity import Caller
from app.domain.job import Job
from app.store.tables import audit as t

LOCK = 7_163_403  # any fixed number: names the advisory lock
BATCH = 1_000


def append(
    connection: Connection,
    *,
    tenant: str,
    actor: str,
    action: Action,
    subject: str,
    details: Mapping[str, Any],
) -> Entry:
    """The next entry. Holds every other append back until the transaction ends."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
    # A statement of its own: it must see what was committed while we waited.
    at = connection.scalars(select(func.clock_timestamp())).one()
    said = {"tenant": tenant, "actor": actor, "action": action, "subject": subject, "details": details}
    entry = Entry.after(head(connection), at=at, **said)
    connection.execute(insert(t).values({name: getattr(entry, name) for name in Entry.__slots__}))
    return entry


def by_caller(connection: Connection, caller: Caller, action: Action, subject: str, **details: Any) -> None:
    """What a caller did in their tenant. See `append`."""
    append(connection, tenant=caller.tenant, actor=caller.name, action=action, subject=subject, details=details)


def job_ended(connection: Connection, job: Job, actor: str) -> None:
    """The entry of a job that has just come to a terminal status; nothing for one that goes on."""
    if not job.status.done:
        return
    details = {"status": job.status, "verdict": job.verdict, "failure": job.failure.code if job.failure else None}
    append(
        connection,
        tenant=job.tenant,
        actor=actor,
        action=Action.JOB_ENDED,
        subject=subject("job", job.id),
        details={name: value for name, value in details.items() if value is not None},
    )


def subject(kind: str, row_id: UUID) -> str:
    return f"{kind}/{row_id}"


def head(connection: Connection) -> Head:
    """The end of the chain."""
    row = connection.execute(select(t.c.seq, t.c.hash).order_by(t.c.seq.desc()).limit(1)).one_or_none()
    return Head(row.seq, row.hash) if row is not None else Head(0, NO_HASH)


def read(connection: Connection, after: int = 0, tenant: str | None = None) -> Iterator[Entry]:
    """The entries beyond number `after` by seq, of one tenant or of all; in batches, so that memory stays flat."""
    query = select(t).order_by(t.c.seq).limit(BATCH)
    if tenant is not None:
        query = query.where(t.c.tenant == tenant)
    while rows := connection.execute(query.where(t.c.seq > after)).mappings().all():
        yield from map(_entry, rows)
        after = rows[-1]["seq"]


def _entry(row: RowMapping) -> Entry:
    return Entry(**{name: row[name] for name in Entry.__slots__})
