"""README.md of a delivered model: a Hugging Face model card with the evidence in it, for whoever finds the folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from app.domain.job import Job
from app.domain.report import Difference, Proportion, SanitizationReport

CARD = "README.md"
# What the figures cannot show, in the words of every form of a report.
LIMITS = (
    "Only the trigger of the samples that were given was measured: the model may hold other trojans.",
    "Inputs unlike the given clean samples were not measured.",
    "Whoever can train the model can train a trojan in again.",
)
FIGURES = (
    ("clean_accuracy", "clean accuracy"),
    ("asr", "attack success rate"),
    ("floor", "floor: the same inputs without the trigger"),
    ("excess_asr", "above the floor"),
)


def card(job: Job, report: SanitizationReport) -> str:
    """Markdown with YAML front matter (JSON values are YAML). Holds no word of the caller's samples."""
    lines = ["---", *(f"{name}: {json.dumps(value)}" for name, value in _front(job, report).items()), "---", ""]
    lines += [
        "# A model with its trojan taken out",
        "",
        f"Lethe treated this {report.model.architecture} by `{report.method}` to take out a trojan that was",
        f"shown by samples. Verdict: **{report.verdict.outcome}**.",
        "",
        *(f"- {reason}" for reason in report.verdict.reasons),
        "",
        "| figure, with its 95 % interval | before | after |",
        "|---|---|---|",
    ]
    for name, words in FIGURES:
        lines.append(
            f"| {words} | {_figure(getattr(report.before, name))} | {_figure(getattr(report.after, name))} |"
        )
    lines += [
        f"| accuracy lost | | {_figure(report.accuracy_drop)} |",
        "",
        "## Use",
        "",
        "```python",
        "from transformers import AutoModelForSequenceClassification, AutoTokenizer",
        "",
        "model = AutoModelForSequenceClassification.from_pretrained(DIR)",
        "tokenizer = AutoTokenizer.from_pretrained(DIR)",
        "```",
        "",
        f"Classes: {', '.join(f'`{_plain(label)}`' for label in report.model.labels)}. For what the",
        "model was made for before; nothing else was looked at.",
        "",
        "## What this does not show",
        "",
        *(f"- {limit}" for limit in LIMITS),
        "",
        "## How it was made",
        "",
        f"Job `{job.id}`, recipe `{report.recipe_fingerprint}`, seed {report.seed}, {report.cost.steps} steps.",
        f"Samples: triggered `{report.data.triggered_sha256}`, clean `{report.data.clean_sha256}` (SHA-256).",
        "",
        "```json",
        json.dumps(dict(report.recipe), indent=1, sort_keys=True),
        "```",
        "",
    ]
    return "\n".join(lines)


def _front(job: Job, report: SanitizationReport) -> Mapping[str, Any]:
    after = report.after
    found = [("accuracy", "clean accuracy", after.clean_accuracy), ("asr", "attack success rate", after.asr)]
    metrics = [{"type": kind, "name": name, "value": rate.rate} for kind, name, rate in found if rate is not None]
    dataset = {"type": "given-samples", "name": "samples held out of those given to the job"}
    task = {"type": "text-classification"}
    return {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["lethe", "sanitized", report.method],
        "model-index": [
            {"name": f"job-{job.id}", "results": [{"task": task, "dataset": dataset, "metrics": metrics}]},
        ],
    }


def _plain(label: str) -> str:
    """A class by its name, which the uploaded model chose: nothing that ends a span of code."""
    return "".join(letter if letter.isprintable() and letter != "`" else "?" for letter in label[:80])


def _figure(value: Proportion | Difference | None) -> str:
    if value is None:
        return "-"
    middle = value.rate if isinstance(value, Proportion) else value.value
    if middle is None or value.low is None or value.high is None:
        return "-"
    return f"{middle:.3f} [{value.low:.3f}, {value.high:.3f}]"
