"""The page: each grid of the plan as a section of tables between two comments of docs/benchmarks.md, and its plots.

Guarantees: what stands outside the comments is not touched, nor is another section; what has not run is said; the
same records give the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks.efficacy import machine, plots
from benchmarks.efficacy.plan import Grid
from benchmarks.efficacy.records import CellRecord, Figures
from benchmarks.efficacy.summary import (
    DEFAULT_METHOD,
    GOALS,
    Decision,
    Goal,
    Reading,
    Records,
    Seeds,
    Summary,
    accuracy_drop,
    decide,
    excess_asr,
    flip_above_twin,
    of_figures,
    relearned_asr,
    relearned_twin_asr,
    seeds_of,
    share_of_retraining,
)

NAME = "benchmarks.md"
PLOTS = "benchmarks"
SIZES = (1, 5, 10, 50)
TITLES = {"synthetic": "Made corpus", "sst2": "SST-2", "devign": "Devign"}
BASES = {"scratch": "a BERT of two layers from scratch", "minilm": "MiniLM-L6-H384"}
NONE = "-"


def write(folder: Path, plan: Sequence[Grid], records: Records) -> None:
    """Writes into `folder`/benchmarks.md the sections of the grids that have records, and their plots beside it."""
    path = folder / NAME
    text = path.read_text(encoding="utf-8") if path.is_file() else "# Benchmarks\n"
    for grid in (grid for grid in plan if any(cell in records for cell in grid.cells())):
        text = put(text, grid.name, render(grid, records, plots.draw(folder / PLOTS, grid, records)))
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def put(text: str, name: str, body: str) -> str:
    """`text` with `body` between the comments of the section; they are added at the end if they are not there."""
    opening, closing = f"<!-- efficacy {name} -->", f"<!-- end of efficacy {name} -->"
    block = f"{opening}\n\n{body.strip()}\n\n{closing}"
    found = re.compile(re.escape(opening) + ".*?" + re.escape(closing), re.DOTALL)
    if found.search(text):
        return found.sub(lambda _: block, text, count=1)
    return f"{text.rstrip()}\n\n{block}\n"


def render(grid: Grid, records: Records, drawn: Sequence[Path]) -> str:
    """The section as Markdown, with the plots in `drawn`."""
    quick = ", quick run" if grid.quick else ""
    parts = [f"## {TITLES[grid.form]}, {BASES.get(grid.base, grid.base)}{quick}", _state(grid, records)]
    parts += [_goals(grid, records), _overview(grid, records)]
    parts += [f"![{path.stem}]({PLOTS}/{path.name})" for path in drawn]
    for attack in grid.attacks:
        if any(seeds_of(grid, attack, method, records).records for method in grid.methods):
            parts += [f"### {TITLES[grid.form]}{quick}: {attack}", _attack_table(grid, attack, records)]
    return "\n\n".join(parts)


def _state(grid: Grid, records: Records) -> str:
    """The machine, how much of the plan has run, and what failed."""
    cells = grid.cells()
    there = [records[cell] for cell in cells if cell in records]
    lines = [f"{len(there)} of {len(cells)} cells have run; seeds {', '.join(map(str, grid.seeds))}."]
    machines = sorted({machine.in_words(dict(record.machine)) for record in there})
    lines += [f"Measured on: {words}." for words in machines]
    case = next((record.figures for record in there if record.figures), None)
    if case is not None:
        counted, clean = case.after.asr.n, case.after.clean_accuracy.n
        lines.append(f"Held-out rows of the first attack: {counted} triggered ones that count, {clean} clean ones.")
    lines += [f"Failed: {_cell_words(record)}: {record.failure}" for record in there if record.failure is not None]
    return "  \n".join(lines)


def _cell_words(record: CellRecord) -> str:
    return f"{record.cell.case.attack}, `{record.cell.method}`, seed {record.cell.case.seed}"


def _goals(grid: Grid, records: Records) -> str:
    rows = []
    for goal in GOALS[grid.form]:
        limit = NONE if goal.limit is None else f"≤ {goal.limit:.2f}"
        decided = [_decision(goal, decide(goal, grid, attack, records)) for attack in grid.attacks]
        rows.append((goal.words, limit, *decided))
    return f"Goals of `{DEFAULT_METHOD}`, mean over the seeds:\n\n" + _table(("goal", "limit", *grid.attacks), rows)


def _decision(goal: Goal, decided: Decision) -> str:
    figure = NONE if decided.summary is None else f"{decided.summary.mean:.3f}"
    if goal.limit is None and decided.best_other is not None:
        figure += f" (`{decided.best_other[0]}` {decided.best_other[1]:.3f})"
    return f"{figure} {decided.status if decided.status in ('met', 'open') else f'**{decided.status}**'}"


def _overview(grid: Grid, records: Records) -> str:
    """Methods x attacks: excess ASR, and the accuracy that it cost."""

    def both(seeds: Seeds) -> str:
        if not seeds.records:
            return "not run"
        pair = [_figure(seeds.summary(of_figures(read))) for read in (excess_asr, accuracy_drop)]
        return _mark(seeds, " / ".join(pair))

    rows = [
        (f"`{method}`", *(both(seeds_of(grid, attack, method, records)) for attack in grid.attacks))
        for method in grid.methods
    ]
    twin = of_figures(lambda figures: figures.twin.excess_asr.value)
    lost = of_figures(_twin_drop)
    reference = [_any_method(grid, attack, records) for attack in grid.attacks]
    rows.append(("clean twin", *(f"{_figure(r.summary(twin))} / {_figure(r.summary(lost))}" for r in reference)))
    return "Excess ASR / clean accuracy drop:\n\n" + _table(("method", *grid.attacks), rows)


def _twin_drop(figures: Figures) -> float | None:
    before, twin = figures.before.clean_accuracy.rate, figures.twin.clean_accuracy.rate
    return None if before is None or twin is None else before - twin


# The columns of an attack's table: of a treated model, and where there is one of the model before and of the twin.
Column = tuple[str, Reading, Reading | None, Reading | None]
_COLUMNS: tuple[Column, ...] = (
    (
        "accuracy",
        of_figures(lambda f: f.after.clean_accuracy.rate),
        of_figures(lambda f: f.before.clean_accuracy.rate),
        of_figures(lambda f: f.twin.clean_accuracy.rate),
    ),
    ("drop", of_figures(accuracy_drop), None, of_figures(_twin_drop)),
    (
        "ASR",
        of_figures(lambda f: f.after.asr.rate),
        of_figures(lambda f: f.before.asr.rate),
        of_figures(lambda f: f.twin.asr.rate),
    ),
    (
        "floor",
        of_figures(lambda f: f.after.floor.rate),
        of_figures(lambda f: f.before.floor.rate),
        of_figures(lambda f: f.twin.floor.rate),
    ),
    (
        "excess ASR",
        of_figures(excess_asr),
        of_figures(lambda f: f.before.excess_asr.value),
        of_figures(lambda f: f.twin.excess_asr.value),
    ),
    ("worst flips above twin", of_figures(flip_above_twin), None, None),
    (
        "agreement",
        of_figures(lambda f: f.after.agreement.rate),
        None,
        of_figures(lambda f: f.twin.agreement.rate),
    ),
    ("fidelity", of_figures(lambda f: f.fidelity), None, None),
    *(
        (f"ASR relearned, k = {k}", of_figures(relearned_asr(k)), None, of_figures(relearned_twin_asr(k)))
        for k in SIZES
    ),
    (
        "seconds",
        of_figures(lambda f: f.removal_seconds),
        None,
        lambda record: None if record.case is None else record.case.retrain_seconds,
    ),
    ("of retraining", share_of_retraining, None, None),
)


def _attack_table(grid: Grid, attack: str, records: Records) -> str:
    """All figures of one attack: the model as uploaded, each method that has run, and the clean twin."""
    reference = _any_method(grid, attack, records)
    rows = [("as uploaded", *_row(reference, (before for _, _, before, _ in _COLUMNS)), "")]
    for method in grid.methods:
        seeds = seeds_of(grid, attack, method, records)
        if seeds.records:
            figures = _row(seeds, (after for _, after, _, _ in _COLUMNS))
            rows.append((_mark(seeds, f"`{method}`"), *figures, _verdicts(seeds)))
    rows.append(("clean twin", *_row(reference, (twin for _, _, _, twin in _COLUMNS)), ""))
    return _table(("", *(name for name, _, _, _ in _COLUMNS), "verdicts"), rows)


def _row(seeds: Seeds, readings: Iterable[Reading | None]) -> list[str]:
    return ["" if reading is None else _figure(seeds.summary(reading)) for reading in readings]


def _any_method(grid: Grid, attack: str, records: Records) -> Seeds:
    """For each seed some record with figures: what is said of the model before and of the twin is the same in all."""
    found = []
    for place in range(len(grid.seeds)):
        one_seed = Grid(grid.form, grid.base, (attack,), (grid.seeds[place],), grid.methods)
        there = [records[cell] for cell in one_seed.cells() if cell in records and records[cell].figures is not None]
        found += there[:1]
    return Seeds(tuple(found), len(grid.seeds))


def _mark(seeds: Seeds, words: str) -> str:
    """`words` with what is missing or failed."""
    notes = []
    if seeds.missing:
        notes.append(f"{len(seeds.records)} of {seeds.planned} seeds")
    if seeds.failed:
        notes.append(f"{seeds.failed} failed")
    return f"{words} ({', '.join(notes)})" if notes else words


def _verdicts(seeds: Seeds) -> str:
    said = [record.figures.verdict for record in seeds.records if record.figures is not None]
    return ", ".join(f"{said.count(word)} {word}" for word in dict.fromkeys(sorted(said)))


def _figure(summary: Summary | None) -> str:
    """A mean and half the width of its interval; whole seconds where it is not a share."""
    if summary is None:
        return NONE
    form: Callable[[float], str] = "{:.0f}".format if abs(summary.mean) > 2 else "{:.3f}".format
    return form(summary.mean) + ("" if summary.half is None else f" ± {form(summary.half)}")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [_line(head), "|" + "---|" * len(head), *map(_line, rows)]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
