"""A whole job through the service against the engine alone on the same model, rows and recipe."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.speed.figures import Figure
from benchmarks.speed.made import Made
from client.api import LetheClient
from tests.service import running_service

ROUNDS = 3
GOAL_SHARE, GOAL_SECONDS = 1.05, 2.0


def figures(made: Made) -> list[Figure]:
    """From the request to the finished job, and a process of the engine from start to end. Both import torch."""
    engine, service = [], []
    with running_service() as running, LetheClient(running.url, running.facts["api_key"]) as lethe:
        brought = bring(lethe, made)
        for seed in range(ROUNDS):
            engine.append(_engine(made, seed))
            began = time.perf_counter()
            job = lethe.wait(lethe.submit(*brought, seed=seed).id)
            service.append(time.perf_counter() - began)
            assert job.status == "succeeded", job.failure
    more = statistics.median(one - other for one, other in zip(service, engine, strict=True))
    share = statistics.median(one / other for one, other in zip(service, engine, strict=True))
    return [
        Figure(
            "whole job / engine alone",
            share,
            GOAL_SHARE,
            words=f"{more:+.2f} s, of {GOAL_SECONDS:.0f} s or {GOAL_SHARE} times",
            otherwise=(more, GOAL_SECONDS),
            details={"engine_seconds": engine, "service_seconds": service},
        )
    ]


def bring(lethe: LetheClient, made: Made) -> tuple[str, str, str]:
    """Ids of the model and the samples, once the service has taken them in."""
    model = lethe.wait_for_model(lethe.push(made.model).id)
    triggered, clean = (lethe.add_samples(made.folder / f"{kind}.jsonl", kind) for kind in ("triggered", "clean"))
    return model.id, triggered.id, clean.id


def _engine(made: Made, seed: int) -> float:
    with tempfile.TemporaryDirectory() as out:
        command = [
            sys.executable, "-m", "workers.engine", "--model", str(made.model), "--triggered",
            str(made.folder / "triggered.jsonl"), "--clean", str(made.folder / "clean.jsonl"), "--out",
            str(Path(out) / "repaired"), "--seed", str(seed),
        ]  # fmt: skip
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds = time.perf_counter() - began
        assert json.loads((Path(out) / "repaired/report.json").read_text())["seed"] == seed
    return seconds
