"""`lethe sanitize`, `watch`, `report`, `pull`, `jobs` and `cancel`: a job from its order to its result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from client import evidence
from client.api import Job, LetheClient
from client.calls import REPORT_FORMS
from client.model_commands import bring
from client.screen import ERROR, FINDINGS, AsJson, Profile, Url, running, service, tell, transfer

JobId = Annotated[str, typer.Argument(help="The job's id.", metavar="JOB")]


def sanitize(  # noqa: PLR0917 - one argument for each option
    model: Annotated[str, typer.Argument(help="A checkpoint's folder, or the id of a model that is there.")],
    triggered: Annotated[str, typer.Option(help="A file of triggered samples, or the id of a set that is there.")],
    clean: Annotated[str, typer.Option(help="A file of clean samples, or the id of a set that is there.")],
    method: Annotated[str, typer.Option(help="How the trojan is taken out.")] = "lya",
    recipe: Annotated[str, typer.Option(help="auto, or knobs as JSON.")] = "auto",
    base_model: Annotated[str | None, typer.Option(help="A clean checkpoint: folder or id.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    wait: Annotated[bool, typer.Option("--wait", help="Until done; the exit status tells the verdict.")] = False,
    max_excess_asr: Annotated[float | None, typer.Option(help="What you accept as removed, above the floor.")] = None,
    max_accuracy_drop: Annotated[float | None, typer.Option(help="What it may cost in clean accuracy.")] = None,
    pull: Annotated[Path | None, typer.Option(help="A folder for the repaired model, once it is done.")] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="The same key and order make one job.")] = None,
    url: Url = None,
    profile: Profile = None,
    as_json: AsJson = False,
) -> None:
    """Send what is not there yet, and queue a job."""
    limits = {"max_excess_asr": max_excess_asr, "max_accuracy_drop": max_accuracy_drop}
    with service(url, profile) as lethe:
        job = lethe.submit(
            _model(lethe, model),
            _samples(lethe, triggered, "triggered"),
            _samples(lethe, clean, "clean"),
            method,
            recipe=_recipe(recipe),
            policy={name: value for name, value in limits.items() if value is not None},
            base_model=_model(lethe, base_model) if base_model else None,
            seed=seed,
            idempotency_key=idempotency_key,
        )
        if wait or pull is not None:
            _end(lethe, job, pull, as_json=as_json)
        else:
            tell(job.raw, f"{job.id}  {job.status}", as_json=as_json)


def watch(job: JobId, url: Url = None, profile: Profile = None, as_json: AsJson = False) -> None:
    """Show a job until it is done. The exit status is its verdict."""
    with service(url, profile) as lethe:
        _end(lethe, lethe.job(job), None, as_json=as_json)


def report(
    job: JobId,
    form: Annotated[str, typer.Option("--format", help=f"table, {', '.join(REPORT_FORMS)}")] = "table",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file, instead of standard output.")] = None,
    url: Url = None,
    profile: Profile = None,
) -> None:
    """The evidence of a job that has succeeded."""
    if form not in ("table", *REPORT_FORMS):
        raise typer.BadParameter(f"table, {', '.join(REPORT_FORMS)}", param_hint="--format")
    with service(url, profile) as lethe:
        told = evidence.table(lethe.report(job)).encode() if form == "table" else lethe.report_as(job, form)
    if output is not None:
        output.write_bytes(told)
    else:
        typer.echo(told if told.endswith(b"\n") else told + b"\n", nl=False)


def pull(
    job: JobId,
    folder: Annotated[Path, typer.Argument(help="Where the repaired model goes.", metavar="DIR")],
    url: Url = None,
    profile: Profile = None,
    as_json: AsJson = False,
) -> None:
    """Fetch the repaired model, each file checked against its hash. Run again, it fetches what is missing."""
    with service(url, profile) as lethe:
        files = _pull(lethe, job, folder)
    tell({"job": job, "files": files}, f"{folder} holds {len(files)} files.", as_json=as_json)


def jobs(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 20,
    url: Url = None,
    profile: Profile = None,
    as_json: AsJson = False,
) -> None:
    """The newest jobs."""
    with service(url, profile) as lethe:
        found = lethe.jobs(limit)
    lines = [f"{each['id']}  {each['status']:<11}  {each['verdict'] or '-':<12}  {each['method']}" for each in found]
    tell(found, "\n".join(lines) or "There is no job.", as_json=as_json)


def cancel(job: JobId, url: Url = None, profile: Profile = None, as_json: AsJson = False) -> None:
    """Stop a job."""
    with service(url, profile) as lethe:
        stopped = lethe.cancel(job)
    tell(stopped.raw, f"{stopped.id}  {stopped.status}", as_json=as_json)


def _end(lethe: LetheClient, job: Job, folder: Path | None, *, as_json: bool) -> None:
    """Follow the job to its end, tell of it, and end the command by the verdict."""
    job = _follow(lethe, job)
    if job.status != "succeeded":
        tell(job.raw, f"{job.id}  {job.status}: {job.failure[1] if job.failure else ''}", as_json=as_json)
        raise typer.Exit(ERROR)
    told = lethe.report(job.id)
    result: dict[str, Any] = {"job": job.raw, "report": told}
    if folder is not None:
        result["files"] = _pull(lethe, job.id, folder)
    tell(result, f"{job.id}\n{evidence.table(told)}", as_json=as_json)
    if job.verdict != "pass":
        raise typer.Exit(FINDINGS)


def _follow(lethe: LetheClient, job: Job) -> Job:
    """Show each event as it comes."""
    with running() as show:
        share, note = job.progress, job.status
        for event in lethe.events(job.id):
            share = float(event.data.get("progress", share) or share)
            note = _note(event.kind, event.data) or note
            show(share, note)
        ended = lethe.wait(job.id)
        show(1.0 if ended.status == "succeeded" else share, ended.status)
    return ended


def _note(kind: str, data: Mapping[str, Any]) -> str | None:
    if kind == "metric":
        values = data.get("values") or {}
        shown = [f"{name} {values[name]:.3f}" for name in ("asr", "clean_accuracy") if values.get(name) is not None]
        return f"step {data.get('step')}  {'  '.join(shown)}"
    said = data.get("phase") or data.get("status")
    return str(said) if said else None


def _pull(lethe: LetheClient, job_id: str, folder: Path) -> list[str]:
    with transfer() as show:
        return [str(file) for file in lethe.pull(job_id, folder, show)]


def _model(lethe: LetheClient, given: str) -> str:
    """An id as it is; a folder is brought first. Raises Exit where the service rejects it."""
    if not Path(given).is_dir():
        return _id(given, "a folder or the id of a model")
    model, _ = bring(lethe, Path(given))
    if model.status != "admitted":
        for finding in model.findings:
            typer.echo(f"{finding.rule}  {finding.file}  {finding.message}", err=True)
        raise typer.Exit(FINDINGS)
    return model.id


def _samples(lethe: LetheClient, given: str, kind: str) -> str:
    if not Path(given).is_file():
        return _id(given, "a file or the id of a set of samples")
    return lethe.add_samples(Path(given), kind).id


def _id(given: str, what: str) -> str:
    try:
        return str(UUID(given))
    except ValueError:
        raise typer.BadParameter(f"{given!r} is neither {what}") from None


def _recipe(given: str) -> Mapping[str, Any] | None:
    if given == "auto":
        return None
    try:
        knobs = json.loads(given)
    except ValueError:
        knobs = None
    if not isinstance(knobs, dict):
        raise typer.BadParameter("auto, or a JSON object of knobs", param_hint="--recipe")
    return knobs
