"""Who sees which row: the unlearn part is trained on, the tune part decides when to stop, the report part only
judges.

Guarantees: a row's part does not depend on the order of the rows; rows that share a text (duplicates, a triggered row
and its twin in the clean file) are in one part; and apart from the repair of a part that came out short, a row's part
does not depend on the other rows.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from app.domain.errors import BadSamples, TooFewSamples
from app.domain.samples import CleanSample, LabelSpace, TriggeredSample, check_numbers

PARTS = ("unlearn", "tune", "report")
REPAIR_BELOW = 0.8  # a part with less than this share of its due is filled up
Stratum = tuple[str, int, bool]


@dataclass(frozen=True)
class Rows:
    """Triggered and clean rows."""

    triggered: tuple[TriggeredSample, ...]
    clean: tuple[CleanSample, ...]


@dataclass(frozen=True)
class Parts:
    """The rows of each part; `held_out` says that `report` was given apart by the caller."""

    unlearn: Rows
    tune: Rows
    report: Rows
    held_out: bool


def check(rows: Rows, labels: LabelSpace) -> None:
    """Raises BadSamples for a label outside the model's classes or a text that is no text."""
    for number, row in enumerate(rows.triggered, 1):
        for label in (row.target, row.true_label):
            if label is not None and not 0 <= label < len(labels):
                raise BadSamples(f"triggered row {number} has label {label}: the model knows {labels.describe()}")
        _check_text(row.text, f"triggered row {number}")
    for number, sample in enumerate(rows.clean, 1):
        if not 0 <= sample.label < len(labels):
            raise BadSamples(f"clean row {number} has label {sample.label}: the model knows {labels.describe()}")
        _check_text(sample.text, f"clean row {number}")


def _check_text(text: object, where: str) -> None:
    if not isinstance(text, str) or not text.strip():
        raise BadSamples(f"{where} has no text")


def split(rows: Rows, tune_share: float, report_share: float, held_out: Rows | None = None) -> Parts:
    """Divide the rows. With `held_out` these are the report part, and rows with the same text are not trained on.

    Raises TooFewSamples, with the numbers.
    """
    if held_out is not None:
        seen = {key for keys, _ in _keyed(held_out) for key in keys}
        rows = _without(rows, seen)
    showing = sum(not already_target(row) for row in rows.triggered)
    check_numbers(len(rows.triggered), showing, len(rows.clean), ", beside those held out" if held_out else "")
    shares = {"tune": tune_share, "report": 0.0 if held_out is not None else report_share}
    groups = _groups(rows)
    part_of = {group: _place(group, shares) for group in groups}
    _repair(groups, part_of, shares)
    parts = {name: _collect(groups, part_of, name) for name in PARTS}
    _nonempty(parts, held_out is not None)
    return Parts(parts["unlearn"], parts["tune"], held_out or parts["report"], held_out is not None)


def fingerprint(rows: Iterable[TriggeredSample] | Iterable[CleanSample]) -> str:
    """SHA-256, in hex, of the rows in any order."""
    lines = sorted(json.dumps(vars(row), sort_keys=True) for row in rows)
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()


def already_target(row: TriggeredSample) -> bool:
    """True if the row is known to be of the class that the attacker wants: it shows no trojan."""
    return row.true_label == row.target


def _nonempty(parts: dict[str, Rows], held_out: bool) -> None:
    for name in PARTS[: 2 if held_out else 3]:
        if all(already_target(row) for row in parts[name].triggered) or not parts[name].clean:
            raise TooFewSamples(
                f"the {name} part came out empty: too many rows share one text. Give more different samples"
            )


def _normal(text: str) -> str:
    return " ".join(text.casefold().split())


def _keyed(rows: Rows) -> list[tuple[tuple[str, ...], TriggeredSample | CleanSample]]:
    """Each row with the texts that tie it to others."""
    found: list[tuple[tuple[str, ...], TriggeredSample | CleanSample]] = []
    for row in rows.triggered:
        texts = (row.text,) if row.clean_text is None else (row.text, row.clean_text)
        found.append((tuple(_normal(text) for text in texts), row))
    found += [((_normal(sample.text),), sample) for sample in rows.clean]
    return found


def _without(rows: Rows, seen: set[str]) -> Rows:
    kept = [row for keys, row in _keyed(rows) if not seen.intersection(keys)]
    return _as_rows(kept)


def _as_rows(rows: Sequence[TriggeredSample | CleanSample]) -> Rows:
    return Rows(
        tuple(row for row in rows if isinstance(row, TriggeredSample)),
        tuple(row for row in rows if isinstance(row, CleanSample)),
    )


def _groups(rows: Rows) -> dict[str, list[TriggeredSample | CleanSample]]:
    """Rows tied by a text, directly or through others, under the SHA-256 of the group's smallest text."""
    keyed = _keyed(rows)
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for keys, _ in keyed:
        low, high = sorted((root(keys[0]), root(keys[-1])))
        parent[high] = low
    groups: dict[str, list[TriggeredSample | CleanSample]] = {}
    for keys, row in keyed:
        digest = hashlib.sha256(root(keys[0]).encode("utf-8", "surrogatepass")).hexdigest()
        groups.setdefault(digest, []).append(row)
    return dict(sorted(groups.items()))


def _unit(group: str) -> float:
    """The group's hash as a number in [0, 1)."""
    return int(group[:13], 16) / 16**13


def _place(group: str, shares: dict[str, float]) -> str:
    place = _unit(group)
    if place < shares["report"]:
        return "report"
    return "tune" if place < shares["report"] + shares["tune"] else "unlearn"


def _stratum(row: TriggeredSample | CleanSample) -> Stratum:
    """Rows that each part should have its share of: those that can show a trojan are not mixed with the others."""
    if isinstance(row, TriggeredSample):
        return "triggered", row.target, already_target(row)
    return "clean", row.label, False


def _repair(
    groups: dict[str, list[TriggeredSample | CleanSample]], part_of: dict[str, str], shares: dict[str, float]
) -> None:
    """Fill up, by hash, each tune or report part that is short of a stratum, from the groups of the unlearn part.

    Small sets would otherwise come out lopsided by chance. Only the groups that must move do.
    """
    counts = {group: Counter(_stratum(row) for row in rows) for group, rows in groups.items()}
    totals = sum(counts.values(), Counter[Stratum]())
    for stratum in sorted(totals):
        for part in ("report", "tune"):
            due = math.ceil(REPAIR_BELOW * shares[part] * totals[stratum])
            have = sum(counts[group][stratum] for group in groups if part_of[group] == part)
            spare = [group for group in groups if part_of[group] == "unlearn" and counts[group][stratum]]
            for group in spare[: max(0, len(spare) - 1)]:
                if have >= due:
                    break
                part_of[group] = part
                have += counts[group][stratum]


def _collect(groups: dict[str, list[TriggeredSample | CleanSample]], part_of: dict[str, str], name: str) -> Rows:
    """The part's rows, sorted by content: the order that they were given in leaves no trace."""
    rows = [row for group, members in groups.items() if part_of[group] == name for row in members]
    rows.sort(key=lambda row: (_normal(row.text), json.dumps(vars(row), sort_keys=True)))
    return _as_rows(rows)
