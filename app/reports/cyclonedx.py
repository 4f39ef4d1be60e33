"""A report as a CycloneDX 1.7 ML-BOM (ECMA-424): the repaired model, its files, its ancestor and its figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from app.domain.manifest import Manifest
from app.domain.report import Difference, Proportion, Scorecard
from app.reports.subject import TOOL, VENDOR, Subject, tool_version

MEDIA_TYPE = "application/vnd.cyclonedx+json; version=1.7"


def cyclonedx(subject: Subject) -> dict[str, Any]:
    """The bill of materials, as plain JSON. Its serial number is the job's id."""
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.7.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.7",
        "serialNumber": f"urn:uuid:{subject.job.id}",
        "version": 1,
        "metadata": {
            "timestamp": subject.finished.isoformat().replace("+00:00", "Z"),
            "tools": {"components": [_tool()]},
            "component": _model(subject),
        },
        "dependencies": [{"ref": subject.delivered.digest, "dependsOn": []}],
    }


def _tool() -> dict[str, Any]:
    return {"type": "application", "manufacturer": {"name": VENDOR}, "name": TOOL, "version": tool_version()}


def _model(subject: Subject) -> dict[str, Any]:
    report = subject.report
    return {
        "type": "machine-learning-model",
        "bom-ref": subject.delivered.digest,
        "name": f"{subject.model.name} (repaired)",
        "version": subject.delivered.digest[:12],
        "description": f"{subject.model.name} with its trojan removed by {report.method}: {report.verdict.outcome}.",
        "components": _files(subject.delivered, subject.delivered.digest),
        "pedigree": {"ancestors": [_ancestor(subject)], "notes": report.stop.words},
        "modelCard": _card(subject),
        "properties": [
            {"name": f"lethe:{name}", "value": value}
            for name, value in (
                ("job", str(subject.job.id)),
                ("digest", subject.delivered.digest),
                ("verdict", report.verdict.outcome),
                ("recipe", report.recipe_fingerprint),
                ("seed", str(report.seed)),
                ("samples:triggered", report.data.triggered_sha256),
                ("samples:clean", report.data.clean_sha256),
            )
        ],
    }


def _files(files: Manifest, owner: str) -> list[dict[str, Any]]:
    return [
        {
            "type": "file",
            "bom-ref": f"{owner}/{entry.path}",
            "name": entry.path,
            "hashes": [{"alg": "SHA-256", "content": entry.sha256}],
        }
        for entry in files
    ]


def _ancestor(subject: Subject) -> dict[str, Any]:
    """The model as it was uploaded."""
    source = subject.model.source
    return {
        "type": "machine-learning-model",
        "name": subject.model.name,
        "version": source.digest[:12],
        "components": _files(source, f"uploaded/{source.digest}"),
    }


def _card(subject: Subject) -> dict[str, Any]:
    report = subject.report
    return {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": "text-classification",
            "architectureFamily": subject.model.facts.model_type if subject.model.facts else "",
            "modelArchitecture": report.model.architecture,
            "inputs": [{"format": "text"}],
            "outputs": [{"format": "class: " + ", ".join(report.model.labels)}],
        },
        "quantitativeAnalysis": {"performanceMetrics": list(_metrics(subject))},
        "considerations": {
            "useCases": ["The tasks that the model was made for, once its trojan is gone."],
            "technicalLimitations": list(subject.limits),
            "performanceTradeoffs": list(report.verdict.reasons),
        },
    }


def _metrics(subject: Subject) -> Iterator[dict[str, Any]]:
    report = subject.report
    for when, card in (("before", report.before), ("after", report.after)):
        yield from _of_card(when, card)
    for figure in subject.figures:
        yield _metric(figure.name, "after", figure.found.value, figure.found)
    for each in report.relearning:
        slice_ = f"after relearning from {each.k} triggered and {each.n_clean} clean samples"
        yield _metric("attack success rate", slice_, each.asr.rate, each.asr)


def _of_card(when: str, card: Scorecard) -> Iterator[dict[str, Any]]:
    yield _metric("clean accuracy", when, card.clean_accuracy.rate, card.clean_accuracy)
    yield _metric("attack success rate", when, card.asr.rate, card.asr)
    yield _metric("floor", f"{when}, {card.floor_source}", card.floor.rate, card.floor)
    for label, flips in card.label_flips.items():
        yield _metric("label flip rate", f"{when}, class {label}", flips.rate, flips)


def _metric(kind: str, slice_: str, value: float | None, interval: Proportion | Difference) -> dict[str, Any]:
    return {
        "type": kind,
        "value": "not measured" if value is None else f"{value:.6g}",
        "slice": slice_,
        "confidenceInterval": {"lowerBound": f"{interval.low:.6g}", "upperBound": f"{interval.high:.6g}"},
    }
