"""`lethe backup`, `lethe restore` and `lethe vault`: the operator's care of what is stored.

They work on the database and the vault of DATABASE_URL and LETHE_VAULT, else on those of the service that runs on
this machine (LETHE_DATA). Exit status: 0 done, 1 something is damaged, 2 it could not be done.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import Engine

from app.domain.errors import OperatorError
from app.operator_database import data_folder, database_url, operator_database
from app.settings import vault_address
from app.store import backup as backups
from app.store import vault_care
from app.store.bucket_vault import open_vault
from app.store.vault import Vault

vault = typer.Typer(name="vault", help="What is stored.", no_args_is_help=True, pretty_exceptions_enable=False)

ACTOR = "operator:command-line"
Folder = Annotated[Path, typer.Argument(help="The folder of the backup.", metavar="DIR")]


def backup(folder: Folder) -> None:
    """Copy the database and every file that it names to a folder; run again, it copies what is new."""
    with operator_database() as database:
        count = backups.back_up(database, database_url(), _vault(), folder, _show)
    typer.echo(f"{folder} holds the database and {count} files.")


def restore(folder: Folder) -> None:
    """Put a backup into an empty database and an empty vault."""
    with operator_database() as database:
        count = backups.restore(database, database_url(), _vault(), folder, _show)
    typer.echo(f"The database is back, and {count} files.")


@vault.command()
def scrub() -> None:
    """Read every stored file against its hash now; set aside what is damaged."""
    with operator_database() as database:
        files = _vault()
        damaged = [each for each in _all(files) if _is_set_aside(database, files, each)]
    for each in damaged:
        typer.echo(f"damaged: {each}", err=True)
    if damaged:
        raise typer.Exit(1)
    typer.echo("Every stored file is what its name says.")


@vault.command()
def collect(
    older_than: Annotated[float, typer.Option(help="Seconds since it was put in.", min=60)] = 24 * 3600.0,
) -> None:
    """Remove the files that nothing speaks of any more now, and not only when the sweeper comes to them."""
    with operator_database() as database:
        files = _vault()
        names = _all(files)
        gone = sum(
            vault_care.collect(database, files, names[place : place + vault_care.PORTION], older_than)
            for place in range(0, len(names), vault_care.PORTION)
        )
    typer.echo(f"{gone} of {len(names)} stored files were removed.")


def _all(files: Vault) -> list[str]:
    return files.after("", sys.maxsize)


def _is_set_aside(database: Engine, files: Vault, sha256: str) -> bool:
    if files.is_whole(sha256):
        return False
    vault_care.set_aside(database, files, sha256, ACTOR)
    return True


def _vault() -> Vault:
    """Raises OperatorError for an address that is none."""
    address = os.environ.get("LETHE_VAULT")
    if not address:
        try:
            address = str(json.loads((data_folder() / "service.json").read_text())["vault"])
        except (OSError, ValueError, KeyError):
            address = str(data_folder() / "vault")
    scratch = os.environ.get("LETHE_SCRATCH")
    try:
        return open_vault(vault_address(address), Path(scratch) if scratch else None)
    except ValueError as error:
        raise OperatorError(f"LETHE_VAULT: {error}") from None


def _show(done: int, count: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{done} of {count} files" + ("\n" if done == count else ""))


if __name__ == "__main__":
    sys.exit(vault())
