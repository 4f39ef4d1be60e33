"""Uploads whose time is over, and files that a crash left without a row: forgotten and removed."""

from __future__ import annotations

import time
from pathlib import Path
from uuid import UUID

from sqlalchemy import Engine

from app.store import upload_rows
from app.store.vault import Vault

# A file in incoming/ that no row speaks of and nobody has written to for so long was left by a crash.
STRAY_SECONDS = 24 * 3600


def remove_expired(database: Engine, vault: Vault) -> int:
    """Forget the uploads whose time is over, and remove their bytes and those that a crash left without a row.

    Objects in the vault stay. Returns how many rows and strays went.
    """
    with database.begin() as connection:
        expired = upload_rows.expire(connection)
    for upload_id in expired:
        (vault.incoming / str(upload_id)).unlink(missing_ok=True)
    return len(expired) + remove_strays(database, vault)


def remove_strays(database: Engine, vault: Vault) -> int:
    """What a crash left on this host: where hosts have a scratch each, each must see to its own. Returns how many."""
    strays = _strays(database, vault)
    for stray in strays:
        stray.unlink(missing_ok=True)
    return len(strays)


def _strays(database: Engine, vault: Vault) -> list[Path]:
    """Old files in incoming/ without a row."""
    before = time.time() - STRAY_SECONDS
    old = [file for file in vault.incoming.iterdir() if file.is_file() and _written(file) < before]
    with database.connect() as connection:
        known = {str(upload_id) for upload_id in upload_rows.existing(connection, filter(None, map(_id_of, old)))}
    return [file for file in old if file.name not in known]


def _written(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def _id_of(file: Path) -> UUID | None:
    try:
        return UUID(file.name)
    except ValueError:
        return None
