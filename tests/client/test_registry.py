"""A repaired model in MLflow's registry, with a real MLflow server from its wheel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from transformers import AutoModelForSequenceClassification

from client.api import LetheClient
from client.registry import RegistryDown, register
from tests.conftest import ROOT, free_port
from tests.full_service import Taken
from tests.service import Service, until

QUICK = {"steps": 6, "eval_every": 3, "fisher_samples": 8, "rehearse": 0, "align": 0}


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    alone = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # else seven more processes
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(command + stores, stdout=log, stderr=log, env=alone) as server,
    ):
        url = f"http://127.0.0.1:{port}"
        until(lambda: httpx2.get(f"{url}/health", timeout=5).status_code == 200, 120)
        yield url
        server.terminate()


@pytest.fixture(scope="module")
def job_id(service: Service, taken: Taken) -> str:
    with LetheClient(service.url, service.facts["api_key"]) as lethe:
        job = lethe.wait(lethe.submit(taken.model, taken.triggered, taken.clean, recipe=QUICK).id)
        assert job.status == "succeeded", service.logs()
        return job.id


def test_a_version_with_tags_metrics_and_the_very_files(
    lethe: LetheClient, mlflow_server: str, job_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = register(lethe, lethe.job(job_id), "reviews", mlflow_server)
    registry = MlflowClient(mlflow_server, mlflow_server)
    version = registry.get_model_version("reviews", found.version)
    report = lethe.report(job_id)
    assert version.tags["lethe.job"] == job_id
    assert version.tags["lethe.verdict"] == report["verdict"]["outcome"]
    assert version.tags["lethe.after.asr"] == f"{report['after']['asr']['rate']:.4f}"
    run = registry.get_run(found.run)
    assert run.data.metrics["before.clean_accuracy"] == report["before"]["clean_accuracy"]["rate"]
    assert run.data.params["steps"] == "6"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    folder = Path(
        download_artifacts(f"models:/reviews/{found.version}", dst_path=str(tmp_path), tracking_uri=mlflow_server)
    )
    delivered = {file.path: file.sha256 for file in lethe.artifacts(job_id)}
    assert {file.name for file in folder.iterdir()} == set(delivered)
    assert AutoModelForSequenceClassification.from_pretrained(folder).config.num_labels == 2


def test_the_same_job_is_registered_once(service: Service, mlflow_server: str, job_id: str) -> None:
    command = [sys.executable, "-m", "client.command_line", "register", job_id, "--name", "once", "--json"]
    environment = {
        "LETHE_URL": service.url,
        "LETHE_KEY": service.facts["api_key"],
        "MLFLOW_TRACKING_URI": mlflow_server,
    }
    told = [
        json.loads(subprocess.run(command, env=os.environ | environment, check=True, capture_output=True).stdout)
        for _ in range(2)
    ]
    assert [each["already"] for each in told] == [False, True]
    assert told[0]["version"] == told[1]["version"] == "1"


def test_a_registry_that_is_away_is_an_error_of_ours(
    lethe: LetheClient, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RegistryDown, match="MLflow"):
        register(lethe, lethe.job(job_id), "reviews", f"http://127.0.0.1:{free_port()}")


def test_nothing_is_told_to_others_of_what_is_registered() -> None:
    ask = "import client.registry, mlflow.telemetry.client as it; print(it.get_telemetry_client())"
    here = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    said = subprocess.run([sys.executable, "-c", ask], cwd=ROOT, env=here, capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["None"]
