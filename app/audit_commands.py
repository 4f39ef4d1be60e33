"""`lethe audit`: is the audit trail whole, how far does it go, and all of it as JSON lines.

Works on the database itself. Keep what `lethe audit head` prints in a place that the database's owner cannot write
to: only against it can `verify` find that the end of the trail was cut off, or all of it made anew.

Exit status: 0 whole, 1 it was changed, 2 it could not be read. Also: `python -m app.audit_commands`.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import Connection

from app.domain.audit import Head, canonical, faults, written
from app.domain.errors import BadRequest
from app.operator_database import operator_database
from app.store import audit_rows

audit = typer.Typer(name="audit", help="The audit trail.", no_args_is_help=True, pretty_exceptions_enable=False)

MOST_FAULTS = 20


@audit.command()
def verify(
    head: Annotated[Path | None, typer.Option(help="What `lethe audit head` said earlier.", metavar="FILE")] = None,
) -> None:
    """Find any edit, deletion, insertion or reorder; with an exported head also a cut at the end."""
    with _trail() as connection:
        known = _read_head(head) if head is not None else None
        found = list(islice(faults(audit_rows.read(connection), known), MOST_FAULTS))
        end = audit_rows.head(connection)
    for fault in found:
        typer.echo(fault, err=True)
    if found:
        typer.echo("The audit trail was changed.", err=True)
        raise typer.Exit(1)
    beside = f", and goes through the exported head at {known.seq}" if known else "; no head was given"
    typer.echo(f"The audit trail is whole: {end.seq} entries{beside}.")


@audit.command("head")
def show_head() -> None:
    """Say how far the trail goes, as one line of JSON for `verify --head`."""
    with _trail() as connection:
        end = audit_rows.head(connection)
    typer.echo(json.dumps({"seq": end.seq, "hash": end.hash, "at": written(datetime.now(UTC))}))


@audit.command()
def export(
    tenant: Annotated[str | None, typer.Option(help="Only what concerns this tenant.")] = None,
    after: Annotated[int, typer.Option(min=0, help="Only what follows this number.")] = 0,
) -> None:
    """Say the trail as JSON lines, each the canonical form of its entry with the hash beside it."""
    with _trail() as connection:
        for entry in audit_rows.read(connection, after, tenant):
            typer.echo(canonical(entry.to_dict()))


@contextlib.contextmanager
def _trail() -> Iterator[Connection]:
    """One consistent view of it."""
    with (
        operator_database() as database,
        database.connect().execution_options(isolation_level="REPEATABLE READ") as connection,
    ):
        yield connection


def _read_head(file: Path) -> Head:
    """Raises BadRequest."""
    try:
        match json.loads(file.read_text()):
            case {"seq": int(seq), "hash": str(digest)} if seq >= 0 and len(digest) == 64:
                return Head(seq, digest)
    except (OSError, ValueError):
        pass
    raise BadRequest(f"{file} does not hold what `lethe audit head` prints.")


if __name__ == "__main__":
    sys.exit(audit())
