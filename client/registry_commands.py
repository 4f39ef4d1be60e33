"""`lethe register`: a repaired model into MLflow's registry."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from importlib.util import find_spec
from typing import Annotated

import typer

from client.job_commands import JobId
from client.screen import AsJson, Profile, Url, service, tell

if find_spec("mlflow") is None:
    raise ModuleNotFoundError("No module named 'mlflow'", name="mlflow")


def register(  # noqa: PLR0917 - one argument for each option
    job: JobId,
    name: Annotated[str, typer.Option(help="Of the registered model.")],
    tracking_uri: Annotated[
        str | None, typer.Option(help="The MLflow server.", envvar="MLFLOW_TRACKING_URI", show_default=False)
    ] = None,
    url: Url = None,
    profile: Profile = None,
    as_json: AsJson = False,
) -> None:
    """Register a repaired model in MLflow, with its evidence. The same job is registered once."""
    from client.registry import register as hand_over  # noqa: PLC0415 - it takes seconds to import

    with service(url, profile) as lethe, redirect_stdout(sys.stderr):  # MLflow speaks on standard output
        found = hand_over(lethe, lethe.job(job), name, tracking_uri)
    words = "is there already" if found.already else "is registered"
    tell(asdict(found), f"{found.name} version {found.version} {words}: {found.source}", as_json=as_json)
