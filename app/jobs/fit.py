"""Do these samples fit this model? Answered before a job is made, with the line of each label that it lacks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from app.domain.errors import BadSamples
from app.domain.samples import LabelSpace, SampleSet
from app.store.vault import Vault

MOST_REPORTED = 100
LABELS = ("label", "true_label")


def check_labels(vault: Vault, given: SampleSet, labels: LabelSpace) -> None:
    """Raises BadSamples with the line numbers; each different label is looked up once."""
    verdicts: dict[str | int, str | None] = {}
    faults: list[dict[str, Any]] = []
    total = 0
    for line, label in _labels(vault, given):
        if label not in verdicts:
            verdicts[label] = _fault(label, labels)
        if (fault := verdicts[label]) is not None:
            total += 1
            if total <= MOST_REPORTED:
                faults.append({"line": line, "message": fault})
    if total:
        raise BadSamples(
            f"{total} rows of the {given.kind} samples have a label that the model does not know, the first in line "
            f"{faults[0]['line']}: {faults[0]['message']}",
            rows=faults,
            total=total,
        )


def count_showing(vault: Vault, given: SampleSet, labels: LabelSpace) -> int:
    """Triggered rows whose true class, as far as it is given, is not the attacker's. Their labels must be known."""
    return sum(
        row.get("true_label") is None or labels.resolve(row["true_label"]) != labels.resolve(row["label"])
        for _, row in _rows(vault, given)
    )


def _fault(label: str | int, labels: LabelSpace) -> str | None:
    try:
        labels.resolve(label)
    except BadSamples as error:
        return error.message
    return None


def _labels(vault: Vault, given: SampleSet) -> Iterator[tuple[int, str | int]]:
    """Each label with its line."""
    for line, row in _rows(vault, given):
        for name in LABELS:
            if (label := row.get(name)) is not None:
                yield line, label


def _rows(vault: Vault, given: SampleSet) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Each row that Lethe wrote, with its line in the caller's file."""
    with vault.open_verified(given.sha256) as rows:
        for number, text in enumerate(rows, 1):
            row: Mapping[str, Any] = json.loads(text)
            yield int(row.get("line", number)), row
