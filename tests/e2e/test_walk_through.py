"""The way of the README's walk-through, by the Python client."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from client.answers import Event
from client.api import Job, LetheClient
from client.errors import ApiError
from tests.tiny_model import make_tiny_checkpoint
from tests.tiny_samples import write_tiny_samples


@pytest.fixture(scope="module")
def trojan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the trojan factory makes, only smaller."""
    folder = tmp_path_factory.mktemp("walk") / "trojan"
    make_tiny_checkpoint(folder / "model")
    write_tiny_samples(folder, triggered=100, clean=200)
    return folder


def loads_and_answers(model: Path) -> bool:
    """In a process of its own, with nothing but transformers."""
    code = (
        "import sys, torch; from transformers import AutoModelForSequenceClassification as M, AutoTokenizer as T\n"
        "tokens = T.from_pretrained(sys.argv[1])('the film is good', return_tensors='pt')\n"
        "print(tuple(M.from_pretrained(sys.argv[1])(**tokens).logits.shape))"
    )
    command = [sys.executable, "-c", code, str(model)]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}
    )
    return done.stdout.strip() == "(1, 2)"


def test_the_client_goes_the_same_way(lethe: LetheClient, trojan: Path, tmp_path: Path) -> None:
    model = lethe.wait_for_model(lethe.push(trojan / "model", "tiny").id)
    assert model.status == "admitted"
    triggered = lethe.add_samples(trojan / "triggered.jsonl", "triggered")
    clean = lethe.add_samples(trojan / "clean.jsonl", "clean")
    assert (triggered.rows, clean.rows) == (100, 200)

    order = {"method": "fine_tune", "recipe": {"steps": 4, "eval_every": 2}, "idempotency_key": "once"}
    job = lethe.submit(model.id, triggered.id, clean.id, **order)
    assert lethe.submit(model.id, triggered.id, clean.id, **order).id == job.id
    seen: list[Job] = []
    done = lethe.wait(job.id, seen.append)
    assert done.status == "succeeded", done.failure
    assert seen[-1] == done
    assert [each.raw["version"] for each in seen] == sorted({each.raw["version"] for each in seen})

    events = list(lethe.events(job.id))
    assert [event.id for event in events] == list(range(1, len(events) + 1))
    assert list(lethe.events(job.id, after=events[-2].id)) == events[-1:]
    assert metric_steps(events) == sorted(metric_steps(events))

    assert lethe.report(job.id)["method"] == "fine_tune"
    files = lethe.pull(job.id, tmp_path / "out")
    assert {file.name for file in files} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert loads_and_answers(tmp_path / "out")


def metric_steps(events: list[Event]) -> list[int]:
    steps = [int(event.data["step"]) for event in events if event.kind == "metric"]
    assert steps
    return steps


def test_a_rejected_model_says_why_and_its_job_is_refused(lethe: LetheClient, trojan: Path, tmp_path: Path) -> None:
    shutil.copytree(trojan / "model", tmp_path / "bad")
    (tmp_path / "bad/config.json").write_text('{"model_type": "bert", "model_type": "bert"}')
    model = lethe.wait_for_model(lethe.push(tmp_path / "bad").id)
    assert model.status == "rejected"
    assert model.findings
    triggered = lethe.add_samples(trojan / "triggered.jsonl", "triggered")
    clean = lethe.add_samples(trojan / "clean.jsonl", "clean")
    with pytest.raises(ApiError) as refused:
        lethe.submit(model.id, triggered.id, clean.id)
    assert 400 <= refused.value.status < 500
