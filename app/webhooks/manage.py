"""What an admin does with webhooks: each change with its line in the audit trail, in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Engine

from app.domain.audit import Action
from app.domain.errors import BadRequest, OperatorError, TooMany
from app.domain.identity import Caller
from app.domain.ids import new_id
from app.domain.outbound import Network, target
from app.domain.webhook import EVENTS, Notice, Webhook, new_secret
from app.store import audit_rows, webhook_rows
from app.store.sealed import Seal

MOST = 50
OVERLAP = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Desk:
    """What the use cases work with. `seal` None: the operator has set no LETHE_WEBHOOK_KEY."""

    database: Engine
    seal: Seal | None
    allowed: Sequence[Network]

    def sealed(self, secret: str, hook_id: UUID) -> bytes:
        if self.seal is None:
            raise OperatorError("Webhooks cannot be made here: the operator has not set LETHE_WEBHOOK_KEY.")
        return self.seal.close(secret, str(hook_id))


def make(desk: Desk, caller: Caller, url: str, events: Sequence[str]) -> tuple[Webhook, str]:
    """A webhook and its secret, which nobody can see again. Raises BadRequest, TooMany, OperatorError."""
    hook_id, secret = new_id(), new_secret()
    sealed = desk.sealed(secret, hook_id)
    _check(desk, url, events)
    with desk.database.begin() as connection:
        if len(webhook_rows.page(connection, caller.tenant, MOST)) >= MOST:
            raise TooMany(f"A tenant has at most {MOST} webhooks: delete one first.", limit=MOST)
        made = webhook_rows.create(connection, caller.tenant, hook_id, url=url, events=events, secret=sealed)
        _note(connection, caller, Action.WEBHOOK_CREATED, hook_id, url=url, events=sorted(events))
    return made, secret


def change(
    desk: Desk,
    caller: Caller,
    hook_id: UUID,
    *,
    url: str | None = None,
    events: Sequence[str] | None = None,
    enabled: bool | None = None,
) -> Webhook:
    """What is None stays. Raises NotFound, BadRequest."""
    _check(desk, url, events)
    values: dict[str, Any] = {"url": url, "events": list(events) if events is not None else None}
    values = {name: value for name, value in values.items() if value is not None}
    told = dict(values)
    if enabled is not None:
        values["disabled"], told["enabled"] = None if enabled else "by an admin", enabled
    with desk.database.begin() as connection:
        found = webhook_rows.get(connection, caller.tenant, hook_id)
        if values:
            found = webhook_rows.change(connection, caller.tenant, hook_id, **values)
            _note(connection, caller, Action.WEBHOOK_CHANGED, hook_id, **told)
    return found


def rotate(desk: Desk, caller: Caller, hook_id: UUID) -> tuple[Webhook, str]:
    """Another secret; the one before signs as well for OVERLAP. Raises NotFound, OperatorError."""
    secret = new_secret()
    with desk.database.begin() as connection:
        webhook_rows.get(connection, caller.tenant, hook_id)
        found = webhook_rows.rotate(connection, caller.tenant, hook_id, desk.sealed(secret, hook_id), OVERLAP)
        _note(connection, caller, Action.WEBHOOK_ROTATED, hook_id)
    return found, secret


def delete(desk: Desk, caller: Caller, hook_id: UUID) -> None:
    """Raises NotFound."""
    with desk.database.begin() as connection:
        webhook_rows.remove(connection, caller.tenant, hook_id)
        _note(connection, caller, Action.WEBHOOK_DELETED, hook_id)


def send_test(desk: Desk, caller: Caller, hook_id: UUID) -> Notice:
    """A notice that tells of nothing. Raises NotFound."""
    with desk.database.begin() as connection:
        return webhook_rows.test(connection, webhook_rows.get(connection, caller.tenant, hook_id))


def replay(
    desk: Desk, caller: Caller, hook_id: UUID, *, only: UUID | None = None, since: datetime | None = None
) -> int:
    """Send one delivery again, or all that failed since; how many. Raises NotFound."""
    with desk.database.begin() as connection:
        webhook_rows.get(connection, caller.tenant, hook_id)
        if only is not None:
            webhook_rows.notice(connection, hook_id, only)
        return webhook_rows.again(connection, hook_id, only=only, since=since)


def _check(desk: Desk, url: str | None, events: Sequence[str] | None) -> None:
    if url is not None:
        target(url, desk.allowed)
    if events is not None and (not events or set(events) - set(EVENTS)):
        raise BadRequest(f"A webhook is told of one or more of: {', '.join(EVENTS)}.")


def _note(connection: Any, caller: Caller, action: Action, hook_id: UUID, **details: Any) -> None:
    audit_rows.by_caller(connection, caller, action, audit_rows.subject("webhook", hook_id), **details)
