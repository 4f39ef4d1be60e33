"""What a command shows: bars and words on standard error, its result on standard output and nothing else there, so
that a script can read the one while a person watches the other.

Exit status, as modelscan has it: 0 fine, 1 a finding or a gate not met, 2 an error, 3 nothing to look at, 4 wrong
use.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from client import config
from client.api import LetheClient
from client.errors import ApiError, LetheError
from client.places import Places

FINDINGS, ERROR = 1, 2
Url = Annotated[str | None, typer.Option("--url", help="The service. Else LETHE_URL, else the profile's.")]
Profile = Annotated[str | None, typer.Option("--profile", help="A table of the configuration file.")]
AsJson = Annotated[bool, typer.Option("--json", help="The result as one JSON document on standard output.")]

errors = Console(stderr=True, highlight=False)


@contextlib.contextmanager
def service(url: str | None, profile: str | None) -> Iterator[LetheClient]:
    """The client; a failure ends the command with its message and status 2."""
    with failing():
        found = config.load(url, profile)
        places = Places(config.cache() / "uploads.json", found.url)
        with LetheClient(found.url, found.key, places=places) as client:
            yield client


@contextlib.contextmanager
def failing() -> Iterator[None]:
    try:
        yield
    except (LetheError, TimeoutError, OSError) as error:
        code = error.code if isinstance(error, LetheError) else "failed"
        errors.print(Text.assemble((f"{code}: ", "bold red"), str(error)), soft_wrap=True)
        for row in _rows(error):
            errors.print(Text(f"  {row}"), soft_wrap=True)
        raise typer.Exit(ERROR) from None
    except KeyboardInterrupt:
        errors.print("Stopped. The same command goes on from here.")
        raise typer.Exit(ERROR) from None


def _rows(error: BaseException) -> list[str]:
    """What a refusal says of single rows or fields."""
    if not isinstance(error, ApiError):
        return []
    found = next((value for value in error.details.values() if isinstance(value, list)), [])
    return [
        ", ".join(f"{k} {v}" for k, v in row.items()) if isinstance(row, dict) else str(row) for row in found[:20]
    ]


def tell(value: Any, words: str, *, as_json: bool) -> None:
    """The result: `value` as JSON, or what people read."""
    typer.echo(json.dumps(value, indent=2) if as_json else words)


@contextlib.contextmanager
def transfer() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each file: called with its name, the bytes so far and the bytes in all."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=errors, disable=not sys.stderr.isatty(), transient=False) as bars:
        tasks: dict[str, TaskID] = {}

        def show(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done)

        yield show


@contextlib.contextmanager
def running() -> Iterator[Callable[[float, str], None]]:
    """One bar for a job: called with the share that is done and a note."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, console=errors, disable=not sys.stderr.isatty()) as bars:
        bar = bars.add_task("queued", total=1.0)
        yield lambda share, note: bars.update(bar, completed=share, description=note)
