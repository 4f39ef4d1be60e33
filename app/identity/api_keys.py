"""API keys: made, shown once, rotated, revoked.

A key is `lethe_<keyid>_<secret>`: its id in 32 hex digits, and 256 random bits. What is kept of it is the HMAC-SHA256
of its whole text under a pepper that is not in the database. Guarantees: who reads the database can make no key, and
who writes to it cannot give one key's secret to another, since the text that is hashed names the key.
"""

from __future__ import annotations

import hmac
import re
import secrets
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine

from app.domain.audit import Action
from app.domain.identity import ApiKey, KeyOrder
from app.domain.ids import new_id
from app.store import audit_rows, key_rows

SECRET_BYTES = 32
OVERLAP = timedelta(hours=24)
_KEY = re.compile(r"lethe_([0-9a-f]{32})_[0-9a-f]{64}")


def make(database: Engine, pepper: str, order: KeyOrder, actor: str) -> tuple[ApiKey, str]:
    """A new key and its text, which nobody can see again. `actor` is who the audit trail names."""
    with database.begin() as connection:
        made, text = _make(connection, pepper, order)
        _note(connection, Action.KEY_CREATED, made, actor, scopes=sorted(made.scopes))
    return made, text


def rotate(
    database: Engine, pepper: str, tenant: str, key_id: UUID, actor: str, *, overlap: timedelta = OVERLAP
) -> tuple[ApiKey, str]:
    """A key with the same name, scopes and lifetime in the place of this one, which stays good for `overlap`.

    Raises NotFound, and Conflict for a key that is void or was rotated before.
    """
    with database.begin() as connection:
        old = key_rows.lock_rotatable(connection, tenant, key_id)
        made, text = _make(connection, pepper, KeyOrder(old.tenant, old.name, old.scopes, old.lifetime))
        key_rows.replace(connection, old, made.id, overlap)
        _note(connection, Action.KEY_ROTATED, old, actor, replaced_by=str(made.id))
    return made, text


def revoke(database: Engine, tenant: str, key_id: UUID, actor: str) -> ApiKey:
    """Void from now on; other API processes may take it for `gate.REMEMBER_SECONDS` more. Raises NotFound."""
    with database.begin() as connection:
        revoked = key_rows.revoke(connection, tenant, key_id)
        _note(connection, Action.KEY_REVOKED, revoked, actor)
    return revoked


def key_id_of(text: str) -> UUID | None:
    """The id that the text of a key claims; None for what is no key."""
    found = _KEY.fullmatch(text)
    return UUID(found[1]) if found else None


def digest(pepper: str, text: str) -> bytes:
    """What is kept of a key."""
    return hmac.digest(pepper.encode(), text.encode(), "sha256")


def _make(connection: Connection, pepper: str, order: KeyOrder) -> tuple[ApiKey, str]:
    key_id = new_id()
    text = f"lethe_{key_id.hex}_{secrets.token_hex(SECRET_BYTES)}"
    return key_rows.create(connection, key_id, order, digest(pepper, text)), text


def _note(connection: Connection, action: Action, key: ApiKey, actor: str, **details: Any) -> None:
    """In the audit trail: which key, and never its text."""
    audit_rows.append(
        connection,
        tenant=key.tenant,
        actor=actor,
        action=action,
        subject=audit_rows.subject("key", key.id),
        details={"name": key.name, **details},
    )
