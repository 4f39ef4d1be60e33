"""What keeps the vault clean and whole: objects that no row speaks of are removed, damaged ones set aside.

Both go by the objects' names in small portions, so that neither holds up the sweeper that calls them; how far they
are is in the database. A walk that is over begins again from the first object once its period is over.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.dialects.postgresql import insert as pg_insert

from app.domain.audit import Action
from app.store import audit_rows, references
from app.store.job_rows import NOW
from app.store.tables import vault_walks as t
from app.store.vault import Vault

log = logging.getLogger(__name__)

COLLECT, SCRUB = "collect", "scrub"
PORTION = 500


def collect(database: Engine, vault: Vault, objects: Sequence[str], older_than_seconds: float) -> int:
    """Remove those of the objects that no row speaks of and that are old enough; how many went."""
    if not objects:
        return 0
    with database.begin() as connection:
        if not references.exclude(connection):
            return 0
        named = references.referenced(connection, objects)
        return sum(vault.collect(each, older_than_seconds) for each in objects if each not in named)


def collect_some(database: Engine, vault: Vault, older_than_seconds: float, period_seconds: float) -> int:
    """The next portion of the walk that collects. Returns how many objects went."""
    with database.begin() as connection:
        position = _position(connection, COLLECT, period_seconds)
        if position is None:
            return 0
        if not position:
            vault.put_back()
        portion = vault.after(position, PORTION)
        _note(connection, COLLECT, portion[-1] if portion else "")
    return collect(database, vault, portion, older_than_seconds)


def scrub_some(database: Engine, vault: Vault, actor: str, period_seconds: float, budget_seconds: float) -> list[str]:
    """Read the next objects against their names until the budget is spent. Returns the damaged ones, which are set
    aside and in the audit trail."""
    with database.begin() as connection:
        position = _position(connection, SCRUB, period_seconds)
    if position is None:
        return []
    damaged, end = list[str](), time.monotonic() + budget_seconds
    for each in vault.after(position, PORTION):
        if not vault.is_whole(each):
            set_aside(database, vault, each, actor)
            damaged.append(each)
        position = each
        if time.monotonic() >= end:
            break
    else:
        position = position if len(vault.after(position, 1)) else ""
    with database.begin() as connection:
        _note(connection, SCRUB, position)
    return damaged


def set_aside(database: Engine, vault: Vault, sha256: str, actor: str) -> None:
    """Take a damaged object out of reach, and say so in the audit trail of each tenant whose it is."""
    vault.set_aside(sha256)
    with database.begin() as connection:
        for tenant, subjects in references.owners(connection, sha256).items():
            audit_rows.append(
                connection, tenant=tenant, actor=actor, action=Action.FILE_DAMAGED, subject=f"file/{sha256}",
                details={"named_by": subjects},
            )  # fmt: skip
    log.error("the stored file %s is damaged: it was set aside. Restore it from a backup", sha256)


def _position(connection: Connection, walk: str, period_seconds: float) -> str | None:
    """Where the walk is; None: it is over, and the next one is not due."""
    over = t.c.began_at > NOW - timedelta(seconds=period_seconds)
    row = connection.execute(select(t.c.position, over.label("early")).where(t.c.name == walk)).one_or_none()
    if row is not None and row.position:
        return str(row.position)
    if row is not None and row.early:
        return None
    fresh = {"position": "", "began_at": func.clock_timestamp()}
    begun = pg_insert(t).values(name=walk, **fresh).on_conflict_do_update(index_elements=[t.c.name], set_=fresh)
    connection.execute(begun)
    return ""


def _note(connection: Connection, walk: str, position: str) -> None:
    connection.execute(t.update().where(t.c.name == walk).values(position=position))
