"""The database that the operator's commands work on: that of DATABASE_URL, else that of the service which runs on
this machine (LETHE_DATA)."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import typer
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from app.domain.errors import LetheError, OperatorError
from app.settings import StandaloneSettings, sqlalchemy_url
from app.store.database import open_database


def data_folder() -> Path:
    return Path(os.environ.get("LETHE_DATA") or StandaloneSettings.model_fields["data"].default)


def database_url() -> str:
    """Raises OperatorError where there is none."""
    if url := os.environ.get("DATABASE_URL"):
        return url
    data = data_folder()
    try:
        return str(json.loads((data / "service.json").read_text())["database_url"])
    except (OSError, ValueError, KeyError):
        raise OperatorError(f"Set DATABASE_URL, or start the service first: none runs on {data}.") from None


@contextlib.contextmanager
def operator_database() -> Iterator[Engine]:
    """The database for one command, which ends with status 2 and the reason when something is wrong."""
    try:
        database = open_database(sqlalchemy_url(database_url()), pool_size=1, idle_seconds=0)
        try:
            yield database
        finally:
            database.dispose()
    except LetheError as error:
        typer.echo(f"lethe: {error.message}", err=True)
        raise typer.Exit(2) from None
    except (SQLAlchemyError, ValueError) as error:
        typer.echo(f"lethe: the database cannot be used: {str(error).splitlines()[0]}", err=True)
        raise typer.Exit(2) from None
