"""Where the marks of a report's plots go: numbers for the templates, which draw them as SVG.

Guarantees: every coordinate is finite and inside its plot; a figure that was not measured has no mark.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app.domain.report import Proportion, StepMetric
from app.domain.verdict import Judged

WIDTH = 640.0  # of a plot, in units of its viewBox
CURVE_HEIGHT = 220.0
CURVES = (("asr", "ASR"), ("floor", "floor"), ("clean_accuracy", "clean accuracy"))
TICKS = 5


@dataclass(frozen=True)
class Interval:
    """A rate or a difference on a horizontal axis. `x` is None when there is no value."""

    name: str
    words: str
    x: float | None
    low: float
    high: float
    outcome: str = ""


@dataclass(frozen=True)
class Axis:
    """Ticks as (x, label)."""

    ticks: tuple[tuple[float, str], ...]
    zero: float


@dataclass(frozen=True)
class JudgedPlot:
    """Each figure with its interval; `limits` are the x of the limits, in the same order."""

    axis: Axis
    marks: tuple[Interval, ...]
    limits: tuple[float, ...]


@dataclass(frozen=True)
class Curve:
    """`points` as SVG wants them: "x,y x,y"."""

    name: str
    points: str


@dataclass(frozen=True)
class CurvePlot:
    last_step: int
    curves: tuple[Curve, ...]


def judged_plot(figures: Sequence[Judged]) -> JudgedPlot:
    """All figures on one axis, which holds every interval, every limit and 0."""
    ends = [0.0, *(edge for each in figures for edge in (each.found.low, each.found.high, each.limit))]
    low, high = min(ends), max(ends)
    pad = 0.05 * ((high - low) or 1.0)
    place = _scale(low - pad, high + pad)
    marks = tuple(
        Interval(
            each.name, _percent(each.found.value), None if each.found.value is None else place(each.found.value),
            place(each.found.low), place(each.found.high), each.outcome,
        )
        for each in figures
    )  # fmt: skip
    steps = (low - pad + (high - low + 2 * pad) * share / (TICKS - 1) for share in range(TICKS))
    axis = Axis(tuple((place(value), _percent(value)) for value in steps), place(0.0))
    return JudgedPlot(axis, marks, tuple(place(each.limit) for each in figures))


def rate_plot(rates: Sequence[tuple[str, Proportion]]) -> tuple[Interval, ...]:
    """Rates from 0 to 1, each with its interval."""
    place = _scale(0.0, 1.0)
    return tuple(
        Interval(
            name, f"{_percent(found.rate)} of {found.n}", None if found.rate is None else place(found.rate),
            place(found.low), place(found.high),
        )
        for name, found in rates
    )  # fmt: skip


def curve_plot(metrics: Sequence[StepMetric]) -> CurvePlot | None:
    """ASR, floor and clean accuracy over the steps at which they were looked at; None where nothing was."""
    last = max((metric.step for metric in metrics), default=0)
    across, down = _scale(0.0, max(last, 1)), _scale(0.0, 1.0, CURVE_HEIGHT)
    curves = []
    for key, name in CURVES:
        seen = [(metric.step, value) for metric in metrics if (value := metric.values.get(key)) is not None]
        points = " ".join(f"{across(step):.1f},{CURVE_HEIGHT - down(value):.1f}" for step, value in seen)
        if points:
            curves.append(Curve(name, points))
    return CurvePlot(last, tuple(curves)) if curves else None


def _scale(low: float, high: float, length: float = WIDTH) -> Callable[[float], float]:
    return lambda value: min(max((value - low) / (high - low), 0.0), 1.0) * length


def _percent(value: float | None) -> str:
    return "not measured" if value is None else f"{100 * value:.1f} %"
