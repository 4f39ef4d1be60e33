"""`lethe push` and `lethe samples add`: what a job needs, brought to the service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from client.answers import Model
from client.api import LetheClient
from client.screen import FINDINGS, AsJson, Profile, Url, service, tell, transfer

samples = typer.Typer(name="samples", help="Samples that show the trojan, and clean ones.", no_args_is_help=True)
Folder = Annotated[Path, typer.Argument(help="The checkpoint's folder.", exists=True, file_okay=False, metavar="DIR")]


def push(
    folder: Folder,
    name: Annotated[str | None, typer.Option(help="What the model is called; else the folder's name.")] = None,
    url: Url = None,
    profile: Profile = None,
    as_json: AsJson = False,
) -> None:
    """Upload a checkpoint and wait until it is admitted. Run again, it goes on where it was stopped; a folder that
    the service knows costs one request."""
    with service(url, profile) as lethe:
        model, known = bring(lethe, folder, name)
        words = f"{model.id}  {model.status}{'  already stored' if known else ''}"
        findings = [f"  {each.rule}  {each.severity}  {each.file}  {each.message}" for each in model.findings]
        tell({**model.raw, "already_stored": known}, "\n".join([words, *findings]), as_json=as_json)
    if model.status != "admitted":
        raise typer.Exit(FINDINGS)


def bring(lethe: LetheClient, folder: Path, name: str | None = None) -> tuple[Model, bool]:
    """The model, admitted or rejected, and whether it was there before."""
    with transfer() as show:
        model = lethe.push(folder, name, show)
    return (model, True) if model.done else (lethe.wait_for_model(model.id), False)


@samples.callback()
def _group() -> None:
    """Keeps `add` a command of a group, although it is the only one."""


@samples.command()
def add(  # noqa: PLR0917 - one argument for each option
    file: Annotated[Path, typer.Argument(help="JSONL, CSV or TSV.", exists=True, dir_okay=False)],
    kind: Annotated[str, typer.Option(help="triggered: with the trigger and the attacker's label; or clean")],
    text: Annotated[str | None, typer.Option(help="The column of the text.")] = None,
    label: Annotated[str | None, typer.Option(help="The column of the label.")] = None,
    url: Url = None,
    profile: Profile = None,
    as_json: AsJson = False,
) -> None:
    """Upload a file of samples."""
    if kind not in ("triggered", "clean"):
        raise typer.BadParameter("triggered or clean", param_hint="--kind")
    columns = {name: column for name, column in (("text", text), ("label", label)) if column is not None}
    with service(url, profile) as lethe:
        added = lethe.add_samples(file, kind, **columns)
        tell(added.raw, f"{added.id}  {added.kind}  {added.rows} rows", as_json=as_json)
