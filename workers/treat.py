"""The child's part of a job: one admitted model treated with the engine, its steps told as they happen.

Request (paths are folders and files that the worker has verified and copied):
    {"model", "base" or null, "triggered", "clean", "out", "points", "found", "method", "recipe", "policy", "seed",
    "device", "threads"}
`out` gets the files of the repaired model and report.json; the result names the verdict and the files. `points` gets
resume points; those in `found`, the furthest first, are gone on from if they can be.

Importing this imports torch: only the child may pay for that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from app.domain.recipe import Policy, Recipe
from app.domain.report import StepMetric
from app.domain.samples import LabelSpace
from workers.channel import Mouth
from workers.engine.loading import save
from workers.engine.points import BadPoint, Points
from workers.engine.rows import read_clean, read_triggered
from workers.engine.sanitize import Outcome, sanitize

REPORT = "report.json"


def treat(request: Mapping[str, Any], mouth: Mouth) -> Mapping[str, Any]:
    """Raises ModelRefused, BadSamples, TooFewSamples, BadRecipe, BadPolicy, Diverged."""
    torch.set_num_threads(int(request["threads"]))
    model, out = Path(request["model"]), Path(request["out"])
    labels = LabelSpace.of(json.loads((model / "config.json").read_bytes())["id2label"])
    triggered, clean = read_triggered(Path(request["triggered"]), labels), read_clean(Path(request["clean"]), labels)

    def run(found: Path | None) -> Outcome:
        return sanitize(
            model,
            triggered,
            clean,
            Recipe.of(request["method"], request["recipe"]),
            Policy.of(request["policy"]),
            seed=int(request["seed"]),
            on_step=lambda metric: mouth.metric(_line(metric)),
            on_phase=mouth.phase,
            base_dir=request.get("base"),
            device=request.get("device", "cpu"),
            points=Points(Path(request["points"]), found, lambda folder, step: mouth.point(folder.name, step)),
        )

    for found in map(Path, request["found"]):
        try:
            outcome = run(found)
            break
        except BadPoint:
            mouth.bad_point(found.name)
    else:
        outcome = run(None)
    save(outcome.model, outcome.tokenizer, out)
    report = json.dumps(outcome.report.to_dict(), allow_nan=False, ensure_ascii=False, indent=1)
    (out / REPORT).write_text(report, encoding="utf-8")
    files = sorted(item.name for item in out.iterdir())
    return {"verdict": outcome.report.verdict.outcome, "files": files}


def _line(metric: StepMetric) -> Mapping[str, Any]:
    return {"step": metric.step, "phase": metric.phase, "loss": metric.loss, "values": dict(metric.values)}
