"""What is kept of each cell, and where: one JSON file per method x attack x seed, and efficacy.json with all of them.

A record, as JSON:

    schema        1
    fingerprint   SHA-256 over the trojan's fingerprint, recipe, policy, seed and the engine's code
    cell          case (form, base, attack, seed) and method
    machine       processor, cores, threads, GPU, versions
    wall_seconds  of the whole cell, measuring and all
    failure       null, or what ended the cell; then `case` and `figures` may be null
    case          rate, train (rows), poisoned (rows), survival (share of triggers that the tokenizer lets through),
                  labels, training_seconds (trojan), retrain_seconds (clean twin, on the full training set)
    figures       before, after, twin: scorecards on the full held-out split by plain transformers, each rate with
                  successes, n and its 95 % Wilson interval (twin: the clean twin on the same triggered rows);
                  accuracy_drop with its interval; fidelity; relearning: the engine's check for each k with the twin
                  as control; removal_seconds, job_seconds, relearning_seconds, verdict, stop, steps;
                  report: the engine's own report as it came, with its flips, agreement and fidelity

Guarantees: a file is whole or not there; a record of another specification is never taken for this one's.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from app.domain.errors import LetheError
from app.domain.recipe import Policy, Recipe
from app.domain.record import Record
from app.domain.report import Difference, Relearning, Scorecard
from benchmarks.efficacy.cases import CaseFacts, Place, fingerprints
from benchmarks.efficacy.plan import Cell
from benchmarks.efficacy.sources import source_hash

SCHEMA = 1
ENGINE = Path(__file__).parents[2] / "workers" / "engine"


@dataclass(frozen=True)
class Figures(Record):
    """What a cell measured. `removal_seconds`: of the engine's phases that change the model or decide how, without
    loading, judging and the relearning check; `job_seconds`: of all phases but that check."""

    before: Scorecard
    after: Scorecard
    twin: Scorecard
    accuracy_drop: Difference
    fidelity: float | None
    relearning: tuple[Relearning, ...]
    removal_seconds: float
    job_seconds: float
    relearning_seconds: float
    verdict: str
    stop: str
    steps: int
    report: Mapping[str, Any]


@dataclass(frozen=True)
class CellRecord(Record):
    """One cell as it ended; `failure` None means that it has its figures."""

    fingerprint: str
    cell: Cell
    machine: Mapping[str, str]
    wall_seconds: float
    failure: str | None
    case: CaseFacts | None
    figures: Figures | None
    schema: int = SCHEMA


def recipe_of(method: str) -> Recipe:
    """The method as a user gets it, with the relearning check. Nothing is set for a data set or an attack."""
    return Recipe.auto(method, {"relearning": True})


def fingerprint(cell: Cell, place: Place) -> str:
    """What the cell's result depends on. A case that cannot be made is known by the reason."""
    try:
        case = fingerprints(cell.case, place).case
    except LetheError as error:
        case = error.message
    what = {
        "schema": SCHEMA,
        "case": case,
        "recipe": recipe_of(cell.method).fingerprint(),
        "policy": Policy.of().to_dict(),
        "seed": cell.case.seed,
        "engine": _engine(),
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


@cache
def _engine() -> str:
    return source_hash(ENGINE)


@dataclass(frozen=True)
class Store:
    """The records below one folder."""

    root: Path

    @property
    def folder(self) -> Path:
        return self.root / "efficacy"

    @property
    def listing(self) -> Path:
        """All records in one file."""
        return self.root / "efficacy.json"

    def path(self, cell: Cell) -> Path:
        case = cell.case
        return self.folder / f"{case.form}-{case.base}" / case.attack / f"{cell.method}-seed{case.seed}.json"

    def find(self, cell: Cell, wanted: str) -> CellRecord | None:
        """The cell's record, if it is of the specification with the fingerprint `wanted`."""
        try:
            found = CellRecord.from_dict(json.loads(self.path(cell).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError):
            return None  # not there, or of another version of the records
        return found if found.fingerprint == wanted and found.schema == SCHEMA else None

    def put(self, record: CellRecord) -> None:
        """Keeps the record in its own file, in place of one of the same cell."""
        _write(self.path(record.cell), json.dumps(record.to_dict(), indent=2, ensure_ascii=False))

    def list_all(self) -> None:
        """Writes efficacy.json: a list of all records, of whatever specification, in the order of their paths."""
        found = [path.read_text(encoding="utf-8") for path in sorted(self.folder.rglob("*.json"))]
        _write(self.listing, "[\n" + ",\n".join(found) + "\n]")


def _write(path: Path, text: str) -> None:
    """The whole file or none of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(text + "\n", encoding="utf-8")
    unfinished.replace(path)
