"""`lethe keys`: the operator's way to make, list, rotate and revoke the keys of every tenant.

Works on the database itself: that of DATABASE_URL with LETHE_KEY_PEPPER, else that of the service which runs on this
machine (LETHE_DATA). A key goes to standard output and everything else to standard error, so that a script can keep
the one and show the other. Also: `python -m app.key_commands`.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated

import typer
from sqlalchemy import Engine

from app.domain.errors import BadRequest, OperatorError
from app.domain.identity import DEFAULT_TENANT, ApiKey, KeyOrder, Scope, check_tenant
from app.domain.ids import parse_id
from app.identity import api_keys
from app.operator_database import data_folder, operator_database
from app.settings import SHORTEST_PEPPER
from app.store import key_rows

keys = typer.Typer(
    name="keys", help="API keys of every tenant.", no_args_is_help=True, pretty_exceptions_enable=False
)

ACTOR = "command-line"  # in the audit trail: whoever can reach the database and has the pepper
LONGEST_NAME = 100
KeyId = Annotated[str, typer.Argument(help="the key's id, as `list` shows it")]


@dataclass(frozen=True, slots=True)
class _Desk:
    database: Engine
    pepper: str | None

    def needed_pepper(self) -> str:
        if self.pepper is None or len(self.pepper) < SHORTEST_PEPPER:
            raise OperatorError(f"Set LETHE_KEY_PEPPER as the API has it, with {SHORTEST_PEPPER} characters or more.")
        return self.pepper


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="whose key it is, or what for")],
    scope: Annotated[list[Scope], typer.Option(help="what it allows; may come several times")],
    tenant: Annotated[str, typer.Option(help="whose rows it sees")] = DEFAULT_TENANT,
    days: Annotated[int, typer.Option(min=0, max=3650, help="until it expires; 0: never")] = 90,
) -> None:
    """Make a key and print it. It cannot be shown again."""
    with _desk() as desk:
        if not (0 < len(name) <= LONGEST_NAME and name.isprintable()):
            raise BadRequest(f"A key's name has 1 to {LONGEST_NAME} printable characters.")
        order = KeyOrder(check_tenant(tenant), name, frozenset(scope), timedelta(days=days) if days else None)
        _show(*api_keys.make(desk.database, desk.needed_pepper(), order, ACTOR))


@keys.command("list")
def show_list(
    tenant: Annotated[str | None, typer.Option(help="of this tenant alone")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Every key, void ones too."""
    with _desk() as desk, desk.database.connect() as connection:
        found = [key for key in key_rows.every(connection) if tenant in (None, key.tenant)]
    if as_json:
        typer.echo(json.dumps([_facts(key) for key in found], indent=2))
        return
    for key in found:
        typer.echo(f"{key.id}  {key.tenant}  {key.name}  {','.join(sorted(key.scopes))}  {_state(key)}")


@keys.command()
def rotate(
    key: KeyId,
    overlap_hours: Annotated[float, typer.Option(min=0, max=720, help="how long the old key stays good")] = 24,
) -> None:
    """Make a key in the place of this one, and print it."""
    with _desk() as desk:
        key_id = parse_id(key, "key")
        with desk.database.connect() as connection:
            tenant = key_rows.tenant_of(connection, key_id)
        overlap = timedelta(hours=overlap_hours)
        _show(*api_keys.rotate(desk.database, desk.needed_pepper(), tenant, key_id, ACTOR, overlap=overlap))


@keys.command()
def revoke(key: KeyId) -> None:
    """Make a key void, in every API process within seconds."""
    with _desk() as desk:
        key_id = parse_id(key, "key")
        with desk.database.connect() as connection:
            tenant = key_rows.tenant_of(connection, key_id)
        api_keys.revoke(desk.database, tenant, key_id, ACTOR)
    typer.echo(f"The key {key_id} is void.", err=True)


@contextlib.contextmanager
def _desk() -> Iterator[_Desk]:
    with operator_database() as database:
        yield _Desk(database, _pepper())


def _pepper() -> str | None:
    """That of the variable; else, beside the database of the service on this machine, the one in its folder."""
    pepper = os.environ.get("LETHE_KEY_PEPPER") or None
    if pepper is None and not os.environ.get("DATABASE_URL"):
        with contextlib.suppress(FileNotFoundError):
            pepper = (data_folder() / "key-pepper").read_text().strip()
    return pepper


def _show(key: ApiKey, text: str) -> None:
    ends = f"until {key.expires_at:%Y-%m-%d %H:%M} UTC" if key.expires_at else "without an end"
    typer.echo(f"{key.id}: tenant {key.tenant}, {', '.join(sorted(key.scopes))}, {ends}.", err=True)
    typer.echo("Keep the key: it is not shown again.", err=True)
    typer.echo(text)


def _state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return f"revoked {key.revoked_at:%Y-%m-%d}"
    if key.expires_at is not None:
        expired = key.expires_at <= datetime.now(key.expires_at.tzinfo)
        return f"{'expired' if expired else 'until'} {key.expires_at:%Y-%m-%d %H:%M}"
    return "without an end"


def _facts(key: ApiKey) -> dict[str, object]:
    times = {name: getattr(key, name) for name in ("created_at", "expires_at", "revoked_at", "last_used_at")}
    return {
        "id": str(key.id),
        "tenant": key.tenant,
        "name": key.name,
        "scopes": sorted(key.scopes),
        **{name: at.isoformat() if at else None for name, at in times.items()},
        "replaced_by": str(key.replaced_by) if key.replaced_by else None,
    }


if __name__ == "__main__":
    sys.exit(keys())
