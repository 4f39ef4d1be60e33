"""A repaired model as a version in MLflow's model registry, with its evidence as metrics, tags and files.

Guarantees: what is registered are the bytes that were delivered, each checked against its hash; the same job is
registered once under one name, however often this is asked for. MLflow's own telemetry stays off unless the caller
has said otherwise: a repair is nobody else's business, and its thread changes the environment under other threads.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when it is imported

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException, RestException

from client import evidence
from client.api import Job, LetheClient
from client.calls import REPORT_FORMS
from client.errors import LetheError

JOB_TAG = "lethe.job"
EXPERIMENT = "lethe"
KEPT_FORMS = tuple(form for form in REPORT_FORMS if form != "ocsf")  # those that are one document


class RegistryDown(LetheError):
    """MLflow did not take it; its own words say why."""

    def __init__(self, message: str) -> None:
        super().__init__("registry", message)


@dataclass(frozen=True)
class Registered:
    """`version` of `name` in the registry, and the run that holds its files. `already`: it was there before."""

    name: str
    version: str
    run: str
    source: str
    already: bool


def register(lethe: LetheClient, job: Job, name: str, tracking_uri: str | None = None) -> Registered:
    """Raises RegistryDown, and what `LetheClient.report` raises for a job without one."""
    report = lethe.report(job.id)
    try:
        registry = MlflowClient(tracking_uri, tracking_uri)
        if (known := _known(registry, name, job.id)) is not None:
            return _told(known, already=True)
        run = _run(registry, job, report)
        _send_files(registry, run, lethe, job)
        registry.set_terminated(run)
        return _told(_version(registry, run, name, job, report), already=False)
    except MlflowException as error:
        raise RegistryDown(f"MLflow: {error}") from error


def _known(registry: MlflowClient, name: str, job_id: str) -> ModelVersion | None:
    found = registry.search_model_versions(f"name = '{name}' and tags.`{JOB_TAG}` = '{job_id}'")
    return next(iter(found), None)


def _run(registry: MlflowClient, job: Job, report: Mapping[str, Any]) -> str:
    """A run with the recipe as parameters and the scorecard as metrics, before and after."""
    experiment = registry.get_experiment_by_name(EXPERIMENT)
    where = experiment.experiment_id if experiment else registry.create_experiment(EXPERIMENT)
    run = registry.create_run(where, run_name=f"sanitize-{job.id}", tags=_tags(job, report)).info.run_id
    for knob, value in {**report["recipe"], "seed": report["seed"]}.items():
        registry.log_param(run, knob, value)
    for figure, value in _figures(report).items():
        registry.log_metric(run, figure, value)
    return str(run)


def _send_files(registry: MlflowClient, run: str, lethe: LetheClient, job: Job) -> None:
    with tempfile.TemporaryDirectory(prefix="lethe-") as name:
        model, reports = Path(name) / "model", Path(name) / "report"
        reports.mkdir()
        lethe.pull(job.id, model)
        for form in KEPT_FORMS:
            (reports / f"report.{form}").write_bytes(lethe.report_as(job.id, form))
        registry.log_artifacts(run, name)


def _version(registry: MlflowClient, run: str, name: str, job: Job, report: Mapping[str, Any]) -> ModelVersion:
    try:
        registry.create_registered_model(name)
    except RestException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"{registry.get_run(run).info.artifact_uri}/model"
    words = f"```\n{evidence.table(report)}\n```"
    return registry.create_model_version(name, source, run, tags=_tags(job, report), description=words)


def _tags(job: Job, report: Mapping[str, Any]) -> dict[str, str]:
    after = _figures(report)
    return {
        JOB_TAG: job.id,
        "lethe.verdict": report["verdict"]["outcome"],
        "lethe.method": report["method"],
        "lethe.recipe_fingerprint": report["recipe_fingerprint"],
        **{f"lethe.{figure}": f"{value:.4f}" for figure, value in after.items() if figure.startswith("after.")},
    }


def _figures(report: Mapping[str, Any]) -> dict[str, float]:
    found = {
        f"{when}.{key}": (report[when].get(key) or {}).get("rate", (report[when].get(key) or {}).get("value"))
        for when in ("before", "after")
        for key, _ in evidence.FIGURES
    } | {"fidelity": report.get("fidelity"), "accuracy_drop": (report.get("accuracy_drop") or {}).get("value")}
    return {name: float(value) for name, value in found.items() if value is not None}


def _told(version: ModelVersion, *, already: bool) -> Registered:
    return Registered(version.name, str(version.version), version.run_id, version.source, already)
