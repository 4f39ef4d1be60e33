"""Two jobs side by side: the same figures of each, and whether they may be set against one another at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from app.domain.record import Record
from app.domain.report import Difference, Proportion, SanitizationReport
from app.reports.drawings import Interval, rate_plot
from app.reports.subject import Subject

Rate = Callable[[SanitizationReport], Proportion]
Number = Callable[[SanitizationReport], float | None]

RATES: tuple[tuple[str, Rate], ...] = (
    ("ASR before", lambda report: report.before.asr),
    ("ASR after", lambda report: report.after.asr),
    ("floor after", lambda report: report.after.floor),
    ("clean accuracy before", lambda report: report.before.clean_accuracy),
    ("clean accuracy after", lambda report: report.after.clean_accuracy),
)
NUMBERS: tuple[tuple[str, Number], ...] = (
    ("excess ASR", lambda report: report.after.excess_asr.value),
    ("clean accuracy drop", lambda report: report.accuracy_drop.value),
    ("fidelity", lambda report: report.fidelity),
    ("steps", lambda report: float(report.cost.steps)),
    ("seconds", lambda report: sum(report.cost.seconds.values())),
    ("distance from the start, as a share of its norm", lambda report: report.cost.relative_distance),
)


@dataclass(frozen=True)
class RateRow(Record):
    """One rate of each job with its 95 % interval; `difference` is b minus a, as of different rows."""

    name: str
    a: Proportion
    b: Proportion
    difference: Difference


@dataclass(frozen=True)
class NumberRow(Record):
    """None where it was not measured."""

    name: str
    a: float | None
    b: float | None


@dataclass(frozen=True)
class KnobRow(Record):
    """A knob of the recipe in which the two differ; None where one has no such knob."""

    name: str
    a: int | float | bool | str | None
    b: int | float | bool | str | None


@dataclass(frozen=True)
class Comparison(Record):
    """`warnings` say in plain words what keeps the figures from being set against one another."""

    a: str
    b: str
    verdict_a: str
    verdict_b: str
    rates: tuple[RateRow, ...]
    numbers: tuple[NumberRow, ...]
    knobs: tuple[KnobRow, ...]
    warnings: tuple[str, ...]


def compare(a: Subject, b: Subject) -> Comparison:
    """Every figure of `a` beside that of `b`."""
    one, other = a.report, b.report
    return Comparison(
        str(a.job.id), str(b.job.id), one.verdict.outcome, other.verdict.outcome,
        tuple(
            RateRow(name, rate(one), rate(other), Difference.of(rate(other), rate(one))) for name, rate in RATES
        ),
        tuple(NumberRow(name, number(one), number(other)) for name, number in NUMBERS),
        _knobs(one, other),
        _warnings(a, b),
    )  # fmt: skip


def drawn(found: Comparison) -> tuple[Interval, ...]:
    """Each rate of a, then of b."""
    pairs = [[(f"{row.name}, a", row.a), (f"{row.name}, b", row.b)] for row in found.rates]
    return rate_plot([rate for pair in pairs for rate in pair])


def _knobs(one: SanitizationReport, other: SanitizationReport) -> tuple[KnobRow, ...]:
    a, b = dict(one.recipe) | {"seed": one.seed}, dict(other.recipe) | {"seed": other.seed}
    return tuple(
        KnobRow(name, a.get(name), b.get(name)) for name in sorted(a.keys() | b.keys()) if a.get(name) != b.get(name)
    )


def _warnings(a: Subject, b: Subject) -> tuple[str, ...]:
    def differs(fact: Callable[[Subject], str | UUID]) -> bool:
        return fact(a) != fact(b)

    found = (
        (differs(lambda each: each.model.source.digest), "They began from different models."),
        (differs(lambda each: each.report.data.triggered_sha256), "They had different triggered samples."),
        (differs(lambda each: each.report.data.clean_sha256), "They had different clean samples."),
        (differs(lambda each: str(each.report.seed)), "Their seeds differ, and so do the rows that were held out."),
    )
    return tuple(words for is_so, words in found if is_so)
