"""The plots of one grid, as SVG: what a removal costs, and how fast the trojan comes back.

Guarantee: the same records and the same matplotlib give the same bytes: no dates, a fixed salt for the ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from benchmarks.efficacy.plan import Grid
from benchmarks.efficacy.summary import (
    GOALS,
    Reading,
    Records,
    accuracy_drop,
    excess_asr,
    of_figures,
    relearned_asr,
    relearned_twin_asr,
    seeds_of,
)

SIZES = (1, 5, 10, 50)
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "lethe",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.3,
}
MARKS = "osD^vPX*"
LINEAR = 0.02  # the axes are linear up to here and logarithmic beyond
TICKS = (-0.1, -0.02, 0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def draw(folder: Path, grid: Grid, records: Records) -> list[Path]:
    """The files that were drawn; none where no cell of the grid has figures."""
    if not any(cell in records and records[cell].figures is not None for cell in grid.cells()):
        return []
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        return [
            _save(_tradeoff(grid, records), folder / f"{grid.name}-tradeoff.svg"),
            _save(_relearning(grid, records), folder / f"{grid.name}-relearning.svg"),
        ]


def _save(drawing: Drawing, path: Path) -> Path:
    drawing.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    return path


def _tradeoff(grid: Grid, records: Records) -> Drawing:
    """One mark for each method (colour) and attack (form): mean excess ASR over mean accuracy drop."""
    drawing = Drawing(figsize=(7.0, 4.2), layout="constrained")
    axes = drawing.add_subplot()
    for place, method in enumerate(grid.methods):
        for mark, attack in zip(MARKS, grid.attacks, strict=False):
            seeds = seeds_of(grid, attack, method, records)
            lost, left = seeds.summary(of_figures(accuracy_drop)), seeds.summary(of_figures(excess_asr))
            if lost is not None and left is not None:
                axes.plot(lost.mean, left.mean, mark, color=f"C{place}", alpha=0.8)
    for place, method in enumerate(grid.methods):
        axes.plot([], [], "s", color=f"C{place}", label=method)
    for mark, attack in zip(MARKS, grid.attacks, strict=False):
        axes.plot([], [], mark, color="grey", label=attack)
    _goal_lines(axes, grid)
    axes.set_xscale("symlog", linthresh=LINEAR)
    axes.set_yscale("symlog", linthresh=LINEAR)
    axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axes.set_yticks(TICKS, [f"{tick:g}" for tick in TICKS])
    lowest, highest = axes.dataLim.min, axes.dataLim.max
    axes.set_xlim(min(-LINEAR, 1.3 * lowest[0]), max(5 * LINEAR, 1.3 * highest[0]))
    axes.set_ylim(min(-LINEAR, 1.3 * lowest[1]), max(5 * LINEAR, 1.3 * highest[1]))
    axes.set(xlabel="clean accuracy drop", ylabel="excess ASR")
    drawing.legend(loc="outside right upper", frameon=False)
    return drawing


def _goal_lines(axes: Axes, grid: Grid) -> None:
    """The limits of the first two goals: excess ASR, accuracy drop."""
    excess, drop = (goal.limit for goal in GOALS[grid.form][:2])
    axes.axhline(excess or 0.0, color="grey", linestyle=":", linewidth=1)
    axes.axvline(drop or 0.0, color="grey", linestyle=":", linewidth=1)


def _relearning(grid: Grid, records: Records) -> Drawing:
    """A panel for each attack: mean ASR over k, one line for each method and a dashed one for the clean twin."""
    drawing = Drawing(figsize=(1.0 + 2.3 * len(grid.attacks), 3.2), layout="constrained")
    panels = drawing.subplots(1, len(grid.attacks), sharey=True, squeeze=False)[0]
    for axes, attack in zip(panels, grid.attacks, strict=True):
        for place, method in enumerate(grid.methods):
            _curve(axes, _after(grid, attack, method, records), color=f"C{place}", label=method)
        _curve(axes, _of_twin(grid, attack, records), color="black", label="clean twin", linestyle="--")
        axes.set(title=attack, xlabel="k", ylim=(-0.03, 1.03))
        axes.set_xticks(range(1 + len(SIZES)), ["0", *map(str, SIZES)])
    panels[0].set_ylabel("ASR after relearning")
    drawing.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    return drawing


def _curve(axes: Axes, points: Sequence[float | None], color: str, label: str, linestyle: str = "-") -> None:
    there = [(place, value) for place, value in enumerate(points) if value is not None]
    places, values = [place for place, _ in there], [value for _, value in there]
    axes.plot(places, values, color=color, label=label, linestyle=linestyle, marker=".")


def _after(grid: Grid, attack: str, method: str, records: Records) -> list[float | None]:
    readings = [of_figures(lambda figures: figures.after.asr.rate), *(of_figures(relearned_asr(k)) for k in SIZES)]
    return [_mean(grid, attack, method, reading, records) for reading in readings]


def _of_twin(grid: Grid, attack: str, records: Records) -> list[float | None]:
    """From the records of the first method that has any: the control is the same in all."""
    readings = [
        of_figures(lambda figures: figures.twin.asr.rate),
        *(of_figures(relearned_twin_asr(k)) for k in SIZES),
    ]
    for method in grid.methods:
        means = [_mean(grid, attack, method, reading, records) for reading in readings]
        if any(mean is not None for mean in means):
            return means
    return [None] * len(readings)


def _mean(grid: Grid, attack: str, method: str, reading: Reading, records: Records) -> float | None:
    found = seeds_of(grid, attack, method, records).summary(reading)
    return None if found is None else found.mean
