"""The `lethe` command line. Also `python -m client.command_line`.

Further commands come from the entry-point group `lethe.commands` of what is installed: a name, and a function (one
command) or a `typer.Typer` (a group of them). A command whose own packages are missing (the worker's, the
service's) is simply not there, so that this room needs nothing of the others.

Exit status, as modelscan has it: 0 fine, 1 findings, 2 an error, 3 nothing to look at, 4 wrong usage.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

GROUP = "lethe.commands"
USAGE = 4


class _Commands(TyperGroup):
    """Our own commands, and those of the entry points; each is imported when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(
            {*super().list_commands(ctx), *(entry.name for entry in _offered() if _load(entry) is not None)}
        )

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        own = super().get_command(ctx, cmd_name)
        return own or next((_load(entry) for entry in _offered() if entry.name == cmd_name), None)

    def make_context(self, *args: Any, **more: Any) -> Any:
        with _usage():
            return super().make_context(*args, **more)

    def invoke(self, ctx: Any) -> Any:
        with _usage():
            return super().invoke(ctx)


@contextlib.contextmanager
def _usage() -> Iterator[None]:
    """Wrong arguments end with their own status: 2 says that something failed."""
    try:
        yield
    except typer.TyperException as error:
        error.exit_code = USAGE
        raise


def _offered() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=GROUP))


def _load(entry: EntryPoint) -> Any:
    """The command; None where a package that it needs is not installed."""
    try:
        found = entry.load()
    except ModuleNotFoundError as error:
        room, inside, _ = (error.name or "").partition(".")
        if inside and room in ("app", "workers", "client"):  # the room is there, and what it promised is not
            raise
        return None
    if not isinstance(found, typer.Typer):
        single = typer.Typer(add_completion=False)
        single.command(entry.name)(found)
        found = single
    command = typer.main.get_command(found)
    command.name = entry.name
    return command


app = typer.Typer(
    cls=_Commands,
    add_completion=True,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Take the trojan out of a text or code classifier.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lethe {_version()}")
        raise typer.Exit


def _version() -> str:
    """Of the whole, or of the client where that alone is installed."""
    try:
        return version("lethe")
    except PackageNotFoundError:
        return version("lethe-client")


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    """Options of the whole line."""


def main() -> None:
    """Entry of the console script: runs the command of `sys.argv` and ends the process with its status."""
    app(prog_name="lethe")


if __name__ == "__main__":
    main()
