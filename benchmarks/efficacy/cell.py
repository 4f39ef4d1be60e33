"""One cell: the engine treats the trojaned model, and plain transformers measures what came out."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from app.domain.methods import METHODS_WITH_BASE
from app.domain.recipe import Policy
from app.domain.report import Relearning, Scorecard, StepMetric, fidelity
from benchmarks.efficacy import machine
from benchmarks.efficacy.cases import CaseFiles
from benchmarks.efficacy.measure import Answers, HeldOut, answers, card, held_out, right_answers
from benchmarks.efficacy.plan import Cell
from benchmarks.efficacy.records import CellRecord, Figures, recipe_of
from workers.engine import rows
from workers.engine.loading import label_space, save
from workers.engine.sanitize import Outcome, sanitize

# Phases that would be there without any removal, or only measure it.
MEASURING = ("loading", "evaluating", "relearning")


@dataclass(frozen=True)
class Measured:
    """A case with what its models say of the held-out rows, taken once for all methods."""

    files: CaseFiles
    rows: HeldOut
    uploaded: Answers
    before: Scorecard
    twin: Scorecard


def measure_case(files: CaseFiles) -> Measured:
    """Reads the held-out rows with the trojaned model and with the clean twin."""
    found = held_out(files)
    uploaded = answers(files.model, found)
    twin = card(found, answers(files.twin, found), uploaded)
    return Measured(files, found, uploaded, card(found, uploaded, uploaded), twin)


def run_cell(
    cell: Cell,
    case: Measured,
    name: str,
    device: str,
    *,
    on_step: Callable[[StepMetric], None] = lambda metric: None,
    control: Sequence[Relearning] = (),
) -> CellRecord:
    """Treats and measures; the repaired model is not kept. `name`: the fingerprint. Raises what the engine raises.

    `control`: the relearning check of another method on this case, if there is one. The clean twin learns the same
    rows in it whatever the method, so its figures are taken from there.
    """
    began = time.monotonic()
    outcome = _sanitize(cell, case.files, device, on_step, controlled=not control)
    with tempfile.TemporaryDirectory() as folder:
        save(outcome.model, outcome.tokenizer, folder)
        said = answers(Path(folder), case.rows)
    figures = _figures(outcome, case, said, control)
    seconds = round(time.monotonic() - began, 1)
    return CellRecord(name, cell, machine.describe(), seconds, None, case.files.facts, figures)


def failed(cell: Cell, name: str, error: Exception, seconds: float) -> CellRecord:
    """The record of a cell that did not come to figures."""
    words = f"{type(error).__name__}: {error}"
    return CellRecord(name, cell, machine.describe(), round(seconds, 1), words, None, None)


def _sanitize(
    cell: Cell, files: CaseFiles, device: str, on_step: Callable[[StepMetric], None], *, controlled: bool
) -> Outcome:
    labels = label_space(files.model)
    held = (
        rows.read_triggered(files.rows("eval_triggered"), labels),
        rows.read_clean(files.rows("eval_clean"), labels),
    )
    return sanitize(
        files.model,
        rows.read_triggered(files.rows("triggered"), labels),
        rows.read_clean(files.rows("clean"), labels),
        recipe_of(cell.method),
        Policy.of(),
        seed=cell.case.seed,
        on_step=on_step,
        base_dir=files.start if cell.method in METHODS_WITH_BASE else None,
        control_dir=files.twin if controlled else None,
        held_out=held,
        device=device,
    )


def _figures(outcome: Outcome, case: Measured, said: Answers, control: Sequence[Relearning]) -> Figures:
    report, after = outcome.report, card(case.rows, said, case.uploaded)
    seconds = report.cost.seconds
    return Figures(
        before=case.before,
        after=after,
        twin=case.twin,
        accuracy_drop=right_answers(case.rows, case.uploaded, said).difference(),
        fidelity=fidelity(case.before, after),
        relearning=_beside(control, report.relearning),
        removal_seconds=_total(seconds, lambda phase: phase not in MEASURING),
        job_seconds=_total(seconds, lambda phase: phase != "relearning"),
        relearning_seconds=seconds.get("relearning", 0.0),
        verdict=report.verdict.outcome,
        stop=report.stop.code,
        steps=report.cost.steps,
        report=report.to_dict(),
    )


def _beside(control: Sequence[Relearning], own: tuple[Relearning, ...]) -> tuple[Relearning, ...]:
    """A method's relearning with the figures of `control`, where there is one: the same k in the same order."""
    if not control:
        return own
    return tuple(
        replace(
            each,
            control_asr=other.control_asr,
            control_floor=other.control_floor,
            control_accuracy=other.control_accuracy,
        )
        for each, other in zip(own, control, strict=True)
    )


def _total(seconds: Mapping[str, float], counted: Callable[[str], bool]) -> float:
    return round(sum(value for phase, value in seconds.items() if counted(phase)), 3)
