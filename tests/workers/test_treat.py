"""A job's child through the real sandbox: steps told as they happen, a model that loads, a report that fits."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from app.domain.recipe import Policy
from app.domain.report import SanitizationReport, StepMetric
from tests.tiny_model import make_tiny_checkpoint
from tests.tiny_samples import write_tiny_samples
from tests.workers.engine.test_spread import SMALL
from tests.workers.test_sandbox import wait_until
from workers import sandbox, treat
from workers.channel import Mouth
from workers.engine import loading
from workers.start import Ahead


def prepare(folder: Path) -> dict[str, Any]:
    """The request of a job, with all that it names in that folder."""
    make_tiny_checkpoint(folder / "model")
    write_tiny_samples(folder)
    (folder / "out").mkdir()
    (folder / "points").mkdir()
    return {
        "model": str(folder / "model"),
        "base": None,
        "triggered": str(folder / "triggered.jsonl"),
        "clean": str(folder / "clean.jsonl"),
        "out": str(folder / "out"),
        "points": str(folder / "points"),
        "found": [],
        "method": "lya",
        "recipe": {"steps": 3, "precision": "fp32"},
        "policy": Policy.of().to_dict(),
        "seed": 3,
        "device": "cpu",
        "threads": 1,
    }


@pytest.fixture
def request_of_a_job(tmp_path: Path) -> dict[str, Any]:
    return prepare(tmp_path)


@dataclass(frozen=True)
class Run:
    """A job that was trained in that folder, what was heard of it and what came back."""

    folder: Path
    heard: list[Mapping[str, Any]]
    result: Mapping[str, Any]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The job as a child treats it that was started for it."""
    folder, heard = tmp_path_factory.mktemp("fresh"), list[Mapping[str, Any]]()
    return Run(folder, heard, train(prepare(folder), folder, heard))


def train(request: Mapping[str, Any], folder: Path, heard: list[Mapping[str, Any]], **more: Any) -> Mapping[str, Any]:
    limits = sandbox.Limits(wall_seconds=120, file_bytes=1 << 26)
    inputs = [Path(request[name]) for name in ("model", "triggered", "clean")]
    return sandbox.run(
        "train",
        request,
        limits=limits,
        workdir=folder,
        readable=inputs,
        writable=[folder / "out", folder / "points"],
        on_message=heard.append,
        **more,
    )


def test_a_job_is_trained_in_the_child(fresh: Run) -> None:
    assert [word["phase"] for word in fresh.heard if word["kind"] == "phase"] == [
        "loading",
        "fisher",
        "ascent",
        "evaluating",
    ]
    steps = [StepMetric.from_dict(word["metric"]) for word in fresh.heard if word["kind"] == "metric"]
    assert steps
    assert [metric.step for metric in steps] == sorted({metric.step for metric in steps})
    report = report_in(fresh.folder)
    assert (report.method, report.seed, report.verdict.outcome) == ("lya", 3, fresh.result["verdict"])
    assert report.model.precision == "fp32"
    assert fresh.result["files"] == sorted(file.name for file in (fresh.folder / "out").iterdir())
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoModelForSequenceClassification

    loaded = AutoModelForSequenceClassification.from_pretrained(fresh.folder / "out")
    assert loaded.config.id2label == {0: "negative", 1: "positive"}


def test_kernels_for_bf16_are_compiled_in_the_child(request_of_a_job: dict[str, Any], tmp_path: Path) -> None:
    request_of_a_job["recipe"]["precision"] = "bf16"
    train(request_of_a_job, tmp_path, [])
    assert report_in(tmp_path).model.precision == "bf16"


def test_a_model_goes_over_several_devices_in_the_child(request_of_a_job: dict[str, Any], tmp_path: Path) -> None:
    request_of_a_job["device"] = "cpu:1,cpu:2"
    request_of_a_job["recipe"] |= SMALL
    train(request_of_a_job, tmp_path, [], module="tests.workers.spreading_child")
    assert report_in(tmp_path).model.device == "cpu:1, cpu:2"
    assert loading.load(tmp_path / "out").labels.names == ("negative", "positive")


def test_a_child_started_ahead_delivers_the_same_model(
    request_of_a_job: dict[str, Any], tmp_path: Path, fresh: Run
) -> None:
    ahead = Ahead()
    ahead.begin(gpu=False)
    try:
        wait_until(lambda: ahead.ready)
        train(request_of_a_job, tmp_path, [], ahead=ahead)
    finally:
        ahead.end()
    late, early = (folder / "out/model.safetensors" for folder in (fresh.folder, tmp_path))
    assert early.read_bytes() == late.read_bytes()


def report_in(folder: Path) -> SanitizationReport:
    return SanitizationReport.from_dict(json.loads((folder / "out/report.json").read_bytes()))


def test_a_job_has_the_threads_it_was_given(request_of_a_job: dict[str, Any]) -> None:
    before = torch.get_num_threads()
    try:
        with pytest.raises(FileNotFoundError):
            treat.treat(request_of_a_job | {"threads": before + 2, "model": "/nowhere"}, Mouth(-1))
        assert torch.get_num_threads() == before + 2
    finally:
        torch.set_num_threads(before)
