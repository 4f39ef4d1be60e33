"""Webhooks and their notices in PostgreSQL. All times are the database's; secrets come and go sealed.

Guarantees: each event of the audit trail becomes one notice of each webhook that asks for its kind, however often and
by however many processes it is planned; a notice is sent by one of them at a time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, and_, case, delete, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from app.domain.errors import NotFound
from app.domain.ids import new_id
from app.domain.webhook import TEST, Notice, Webhook, cloud_event
from app.store.tables import audit, webhooks
from app.store.tables import notices as t

NOW = func.clock_timestamp()
_HOOK = (
    webhooks.c.id,
    webhooks.c.tenant,
    webhooks.c.url,
    webhooks.c.events,
    webhooks.c.disabled,
    webhooks.c.created_at,
)
_NOTICE = tuple(column for column in t.c if column.name not in ("seq",))
AnyRow = Row[*tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Due:
    """A notice to be sent now, until its turn is over; `secrets` are sealed, the newest first."""

    notice: Notice
    hook: Webhook
    secrets: tuple[bytes, ...]


def create(
    connection: Connection, tenant: str, hook_id: UUID, *, url: str, events: Sequence[str], secret: bytes
) -> Webhook:
    """It hears of what happens from now on."""
    newest = select(func.coalesce(func.max(audit.c.seq), 0)).scalar_subquery()
    values = {"id": hook_id, "tenant": tenant, "url": url, "events": list(events), "secret": secret}
    return _hook(connection.execute(insert(webhooks).values(**values, position=newest).returning(*_HOOK)).one())


def get(connection: Connection, tenant: str, hook_id: UUID) -> Webhook:
    """Raises NotFound."""
    row = connection.execute(select(*_HOOK).where(_of(tenant, hook_id))).one_or_none()
    return _hook(_found(row, hook_id))


def page(connection: Connection, tenant: str, limit: int, after: UUID | None = None) -> list[Webhook]:
    """The newest first (ids sort by time), those older than `after`."""
    query = select(*_HOOK).where(webhooks.c.tenant == tenant).order_by(webhooks.c.id.desc()).limit(limit)
    if after is not None:
        query = query.where(webhooks.c.id < after)
    return [_hook(row) for row in connection.execute(query)]


def change(connection: Connection, tenant: str, hook_id: UUID, **values: Any) -> Webhook:
    """`url`, `events` or `disabled`. Raises NotFound."""
    statement = update(webhooks).where(_of(tenant, hook_id)).values(**values).returning(*_HOOK)
    return _hook(_found(connection.execute(statement).one_or_none(), hook_id))


def rotate(connection: Connection, tenant: str, hook_id: UUID, secret: bytes, overlap: timedelta) -> Webhook:
    """Another secret; the one before signs as well for `overlap`. Raises NotFound."""
    return change(
        connection, tenant, hook_id, secret=secret, old_secret=webhooks.c.secret, old_until=NOW + overlap
    )  # fmt: skip


def remove(connection: Connection, tenant: str, hook_id: UUID) -> None:
    """With its notices. Raises NotFound."""
    gone = connection.execute(delete(webhooks).where(_of(tenant, hook_id)).returning(webhooks.c.id)).one_or_none()
    _found(gone, hook_id)


def disable(connection: Connection, hook_id: UUID, why: str) -> bool:
    """By what its receiver answers; False if it was before. What waits is sent once it is enabled again."""
    hook = (webhooks.c.id == hook_id) & webhooks.c.disabled.is_(None)
    return connection.execute(update(webhooks).where(hook).values(disabled=why)).rowcount == 1


# Notices


def plan(connection: Connection, limit: int) -> int:
    """Notices of what the audit trail holds beyond the position of each webhook; how many entries were looked at."""
    hooks = select(*_HOOK, webhooks.c.position).where(webhooks.c.disabled.is_(None))
    newest = connection.scalar(select(func.coalesce(func.max(audit.c.seq), 0))) or 0
    behind = hooks.where(webhooks.c.position < newest).order_by(webhooks.c.id).with_for_update(skip_locked=True)
    seen = 0
    for row in connection.execute(behind).all():
        entries = connection.execute(
            select(audit).where(audit.c.seq > row.position).order_by(audit.c.seq).limit(limit)
        ).all()
        for entry in entries:
            if entry.tenant == row.tenant and entry.action in row.events:
                _note(
                    connection, row.id, entry.action, subject=entry.subject, at=entry.at, tenant=row.tenant,
                    data=entry.details, seq=entry.seq,
                )  # fmt: skip
        seen += len(entries)
        last = entries[-1].seq if entries else row.position
        connection.execute(update(webhooks).where(webhooks.c.id == row.id).values(position=last))
    return seen


def test(connection: Connection, hook: Webhook) -> Notice:
    """A notice that tells of nothing, to be sent at once."""
    at = connection.scalars(select(NOW)).one()
    notice_id = _note(
        connection, hook.id, TEST, subject=f"webhook/{hook.id}", at=at, tenant=hook.tenant, data={}, seq=None
    )
    return notice(connection, hook.id, notice_id)


def notice(connection: Connection, hook_id: UUID, notice_id: UUID) -> Notice:
    """Raises NotFound."""
    row = connection.execute(select(*_NOTICE).where(t.c.id == notice_id, t.c.webhook_id == hook_id)).one_or_none()
    if row is None:
        raise NotFound(f"The webhook has no delivery {notice_id}.")
    return _notice(row)


def notices(connection: Connection, hook_id: UUID, limit: int, after: UUID | None = None) -> list[Notice]:
    """The newest first."""
    query = select(*_NOTICE).where(t.c.webhook_id == hook_id).order_by(t.c.id.desc()).limit(limit)
    if after is not None:
        query = query.where(t.c.id < after)
    return [_notice(row) for row in connection.execute(query)]


def again(connection: Connection, hook_id: UUID, *, only: UUID | None = None, since: datetime | None = None) -> int:
    """Send one notice again, or all that failed since; how many. Their schedule begins anew, their id stays."""
    which = t.c.id == only if only is not None else and_(t.c.status == "failed", t.c.created_at >= since)
    values = {"status": "waiting", "attempts": 0, "next_at": NOW}
    return connection.execute(update(t).where(t.c.webhook_id == hook_id, which).values(**values)).rowcount


def take_due(connection: Connection, turn_seconds: float) -> Due | None:
    """The notice that has waited longest beyond its time; nobody else gets it before the turn is over."""
    query = (
        select(*_NOTICE, *(column.label(f"hook_{column.name}") for column in _HOOK), webhooks.c.secret,
               case((webhooks.c.old_until > NOW, webhooks.c.old_secret)).label("old"))
        .join(webhooks, webhooks.c.id == t.c.webhook_id)
        .where(t.c.status == "waiting", t.c.next_at <= NOW, webhooks.c.disabled.is_(None))
        .order_by(t.c.next_at)
        .limit(1)
        .with_for_update(of=t, skip_locked=True)
    )  # fmt: skip
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    turn = NOW + timedelta(seconds=turn_seconds)
    connection.execute(update(t).where(t.c.id == row.id).values(next_at=turn, attempts=t.c.attempts + 1))
    hook = Webhook(row.hook_id, row.hook_tenant, row.hook_url, tuple(row.hook_events), None, row.hook_created_at)
    return Due(_notice(row), hook, tuple(each for each in (row.secret, row.old) if each is not None))


def settle(
    connection: Connection,
    notice_id: UUID,
    attempts: int,
    *,
    answer: int | None,
    trouble: str | None,
    wait: float | None,
) -> None:
    """What came of a try: delivered without trouble; else it waits so many seconds, or has failed. A try whose turn
    was over, so that another began, changes nothing."""
    if trouble is None:
        values: Mapping[str, Any] = {"status": "delivered", "next_at": None}
    elif wait is None:
        values = {"status": "failed", "next_at": None}
    else:
        values = {"next_at": NOW + timedelta(seconds=wait)}
    mine = and_(t.c.id == notice_id, t.c.attempts == attempts, t.c.status == "waiting")
    connection.execute(update(t).where(mine).values(answer=answer, trouble=trouble, **values))


def forget(connection: Connection, older_than_seconds: float, limit: int) -> None:
    """Notices that ended longer ago than that."""
    old = select(t.c.id).where(t.c.status != "waiting", t.c.created_at < NOW - timedelta(seconds=older_than_seconds))
    connection.execute(delete(t).where(t.c.id.in_(old.limit(limit))))


def _note(
    connection: Connection,
    hook_id: UUID,
    kind: str,
    *,
    subject: str,
    at: datetime,
    tenant: str,
    data: Mapping[str, Any],
    seq: int | None,
) -> UUID:
    notice_id = new_id()
    body = json.dumps(
        cloud_event(notice_id, kind, subject=subject, at=at, tenant=tenant, data=data), separators=(",", ":")
    )
    values = {"id": notice_id, "webhook_id": hook_id, "seq": seq, "type": kind, "body": body, "next_at": NOW}
    connection.execute(upsert(t).values(**values).on_conflict_do_nothing())
    return notice_id


def _of(tenant: str, hook_id: UUID) -> ColumnElement[bool]:
    return and_(webhooks.c.id == hook_id, webhooks.c.tenant == tenant)


def _found(row: AnyRow | None, hook_id: UUID) -> AnyRow:
    if row is None:
        raise NotFound(f"There is no webhook {hook_id}.")
    return row


def _hook(row: AnyRow) -> Webhook:
    return Webhook(row.id, row.tenant, row.url, tuple(row.events), row.disabled, row.created_at)


def _notice(row: AnyRow) -> Notice:
    return Notice(
        row.id, row.webhook_id, row.type, row.body, row.status, row.attempts, row.answer, row.trouble, row.next_at,
        row.created_at,
    )  # fmt: skip
