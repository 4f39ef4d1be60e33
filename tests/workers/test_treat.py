"""A job's child through the real sandbox: steps told as they happen, a model that loads, a report that fits."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from app.domain.errors import BadSamples, ModelRefused
from app.domain.recipe import Policy
from app.domain.report import SanitizationReport, StepMetric
from tests.tiny_model import make_tiny_checkpoint
from tests.tiny_samples import write_tiny_samples
from tests.workers.test_sandbox import wait_until
from workers import sandbox, treat
from workers.channel import Mouth
from workers.start import Ahead


@pytest.fixture
def request_of_a_job(tmp_path: Path) -> dict[str, Any]:
    make_tiny_checkpoint(tmp_path / "model")
    write_tiny_samples(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "points").mkdir()
    return {
        "model": str(tmp_path / "model"),
        "base": None,
        "triggered": str(tmp_path / "triggered.jsonl"),
        "clean": str(tmp_path / "clean.jsonl"),
        "out": str(tmp_path / "out"),
        "points": str(tmp_path / "points"),
        "found": [],
        "method": "lya",
        "recipe": {"steps": 3},
        "policy": Policy.of().to_dict(),
        "seed": 3,
        "device": "cpu",
        "threads": 1,
    }


def train(
    request: Mapping[str, Any], folder: Path, heard: list[Mapping[str, Any]], ahead: Ahead | None = None
) -> Mapping[str, Any]:
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
        ahead=ahead,
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])  # kernels for the latter are compiled in the child
def test_a_job_is_trained_in_the_child(request_of_a_job: dict[str, Any], tmp_path: Path, precision: str) -> None:
    heard: list[Mapping[str, Any]] = []
    request_of_a_job["recipe"]["precision"] = precision
    result = train(request_of_a_job, tmp_path, heard)
    assert [word["phase"] for word in heard if word["kind"] == "phase"] == [
        "loading",
        "fisher",
        "ascent",
        "evaluating",
    ]
    steps = [StepMetric.from_dict(word["metric"]) for word in heard if word["kind"] == "metric"]
    assert steps
    assert [metric.step for metric in steps] == sorted({metric.step for metric in steps})
    report = SanitizationReport.from_dict(json.loads((tmp_path / "out/report.json").read_bytes()))
    assert (report.method, report.seed, report.verdict.outcome) == ("lya", 3, result["verdict"])
    assert report.model.precision == precision
    assert result["files"] == sorted(file.name for file in (tmp_path / "out").iterdir())
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoModelForSequenceClassification

    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert loaded.config.id2label == {0: "negative", 1: "positive"}


def test_a_child_started_ahead_delivers_the_same_model(request_of_a_job: dict[str, Any], tmp_path: Path) -> None:
    train(request_of_a_job, tmp_path, [])
    late = (tmp_path / "out/model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").mkdir()
    ahead = Ahead()
    ahead.begin(gpu=False)
    try:
        wait_until(lambda: ahead.ready)
        train(request_of_a_job, tmp_path, [], ahead)
    finally:
        ahead.end()
    assert (tmp_path / "out/model.safetensors").read_bytes() == late


def test_a_job_has_the_threads_it_was_given(request_of_a_job: dict[str, Any]) -> None:
    before = torch.get_num_threads()
    try:
        with pytest.raises(FileNotFoundError):
            treat.treat(request_of_a_job | {"threads": before + 2, "model": "/nowhere"}, Mouth(-1))
        assert torch.get_num_threads() == before + 2
    finally:
        torch.set_num_threads(before)


def test_what_the_caller_can_mend_comes_back_as_such(request_of_a_job: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "clean.jsonl").write_text('{"text": "a film", "label": "unheard of"}\n')
    with pytest.raises(BadSamples, match="unheard of"):
        train(request_of_a_job, tmp_path, [])
    (tmp_path / "model/model.safetensors").unlink()
    write_tiny_samples(tmp_path)
    with pytest.raises(ModelRefused, match="safetensors"):
        train(request_of_a_job, tmp_path, [])
