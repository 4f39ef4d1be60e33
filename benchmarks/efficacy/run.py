"""The run: every cell that is due, one after the other, each kept as it ends; then the listing and the page.

Guarantees: a cell that is done with the same specification is not run again; one that fails is kept with its reason,
tried again by the next run, and stops nothing; with a limit, nothing is begun that is expected to end after it; the
page is written also when the run is broken off.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from app.domain.errors import LetheError
from app.domain.report import Relearning, StepMetric
from benchmarks.efficacy import page
from benchmarks.efficacy.cases import Place, is_kept, prepare
from benchmarks.efficacy.cell import Measured, failed, measure_case, run_cell
from benchmarks.efficacy.pace import Pace
from benchmarks.efficacy.plan import Asked, Case, Cell, grids, in_order
from benchmarks.efficacy.records import CellRecord, Store, fingerprint, recipe_of
from benchmarks.screen import Screen, Update
from benchmarks.trojan import Progress


@dataclass
class Run:
    """One run. `names`: the fingerprint of every cell of the plan; `records`: what is there of them."""

    screen: Screen
    place: Place
    store: Store
    deadline: float | None = None
    names: dict[Cell, str] = field(default_factory=dict)
    records: dict[Cell, CellRecord] = field(default_factory=dict)
    pace: Pace = field(default_factory=Pace)
    left_out: int = 0
    crashed: int = 0

    def has_time_for(self, seconds: float) -> bool:
        return self.deadline is None or time.monotonic() + seconds <= self.deadline


def compare(
    screen: Screen, asked: Asked, place: Place, store: Store, *, pages: Path, minutes: float | None = None
) -> int:
    """Runs what is due and writes the page below `pages`. Returns how many cells failed otherwise than by the
    engine's own refusal. Errors: BadRequest, BadRecipe.
    """
    deadline = None if minutes is None else time.monotonic() + 60.0 * minutes
    plan = grids(asked)
    run = Run(screen, place, store, deadline)
    with screen.stage("plan", "Drawing the rows") as update:
        cells = [cell for grid in plan for cell in grid.cells()]
        for number, cell in enumerate(cells, 1):
            _look_up(run, cell)
            update(number / len(cells), cell.case.form)
    due = [cell for cell in in_order(plan, asked) if cell not in run.records or run.records[cell].failure]
    _say_what_is_due(run, cells, due)
    try:
        _run_all(run, due)
    finally:
        store.list_all()
        page.write(pages, plan, run.records)
        screen.say(f"Page: {pages / page.NAME}. All records: {store.listing}")
    return run.crashed


def _look_up(run: Run, cell: Cell) -> None:
    run.names[cell] = fingerprint(cell, run.place)
    found = run.store.find(cell, run.names[cell])
    if found is not None:
        run.records[cell] = found
        if found.failure is None:
            run.pace.saw(cell, found.wall_seconds)


def _run_all(run: Run, due: Sequence[Cell]) -> None:
    number = 0
    for case, group in groupby(due, key=lambda cell: cell.case):
        cells = list(group)
        if not run.has_time_for(_seconds_to_prepare(run, case) + run.pace.of(cells[0])):
            run.left_out += len(cells)
            number += len(cells)
            continue
        prepared = _prepare(run, case)
        for cell in cells:
            number += 1
            if run.has_time_for(run.pace.of(cell)):
                _run_one(run, cell, prepared)
                _say_what_is_left(run, due, number)
            else:
                run.left_out += 1
    if run.left_out:
        run.screen.say(f"{run.left_out} cells did not fit into the time: the same command goes on with them.")


def _prepare(run: Run, case: Case) -> Measured | Exception:
    """The case, made and measured, or why it cannot be."""
    began, new = time.monotonic(), _seconds_to_prepare(run, case) > 0.0
    try:
        with run.screen.stage("prepare", f"{case.form} {case.attack} {case.seed}") as update:
            measured = measure_case(prepare(case, run.place, _on_training(update)))
            before = measured.before
            update(1.0, f"uploaded: ASR {before.asr.rate:.3f}, accuracy {before.clean_accuracy.rate:.3f}")
    except Exception as error:
        return error
    if new:
        run.pace.saw_case(case, time.monotonic() - began)
    return measured


def _run_one(run: Run, cell: Cell, case: Measured | Exception) -> None:
    began = time.monotonic()
    try:
        with run.screen.stage("cell", f"  {cell.method}") as update:
            if isinstance(case, Exception):
                raise case
            heard, control = _on_step(cell, update), _control(run, cell.case)
            record = run_cell(cell, case, run.names[cell], run.place.device, on_step=heard, control=control)
            update(1.0, _in_words(record))
    except Exception as error:
        record = failed(cell, run.names[cell], error, time.monotonic() - began)
        run.crashed += not isinstance(error, LetheError)
        run.screen.say(f"  {cell.method} failed: {record.failure}")
    else:
        run.pace.saw(cell, record.wall_seconds)
    run.records[cell] = record
    run.store.put(record)


def _control(run: Run, case: Case) -> tuple[Relearning, ...]:
    """The relearning check of another method on the case, with the clean twin beside it; empty if none has run."""
    found = (
        record.figures.relearning for record in run.records.values() if record.cell.case == case and record.figures
    )
    return next((each for each in found if each), ())


def _seconds_to_prepare(run: Run, case: Case) -> float:
    return 0.0 if is_kept(case, run.place) else run.pace.of_case(case)


def _on_training(update: Update) -> Callable[[Progress], None]:
    def show(progress: Progress) -> None:
        step = progress.step
        half = 0.0 if progress.phase == "trojan" else 0.5
        update(half + step.number / step.total / 2, f"{progress.phase}: step {step.number}/{step.total}")

    return show


def _on_step(cell: Cell, update: Update) -> Callable[[StepMetric], None]:
    steps = recipe_of(cell.method).most_steps

    def show(metric: StepMetric) -> None:
        asr = metric.values.get("asr")
        update(min(1.0, metric.step / steps), f"step {metric.step}" + ("" if asr is None else f", ASR {asr:.3f}"))

    return show


def _in_words(record: CellRecord) -> str:
    figures = record.figures
    if figures is None or figures.after.excess_asr.value is None or figures.accuracy_drop.value is None:
        return ""
    return (
        f"excess ASR {figures.after.excess_asr.value:+.3f}, accuracy lost {figures.accuracy_drop.value:+.3f}, "
        f"{figures.verdict}"
    )


def _say_what_is_due(run: Run, cells: Sequence[Cell], due: Sequence[Cell]) -> None:
    ready = [case for case in dict.fromkeys(cell.case for cell in due) if is_kept(case, run.place)]
    minutes = run.pace.left(due, ready) / 60
    run.screen.say(f"{len(cells)} cells in the plan, {len(due)} to run: about {minutes:.0f} minutes")


def _say_what_is_left(run: Run, due: Sequence[Cell], number: int) -> None:
    rest = due[number:]
    ready = [case for case in dict.fromkeys(cell.case for cell in rest) if is_kept(case, run.place)]
    run.screen.say(f"  {number} of {len(due)} cells, about {run.pace.left(rest, ready) / 60:.0f} minutes left")
