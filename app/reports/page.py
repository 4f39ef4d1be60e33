"""A report as one HTML file for people: it loads nothing, runs nothing, prints well, and holds its plots."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from app.domain.report import Scorecard
from app.reports.drawings import WIDTH, CurvePlot, Interval, JudgedPlot, curve_plot, judged_plot, rate_plot
from app.reports.subject import Subject, tool_version

MEDIA_TYPE = "text/html; charset=utf-8"
TEMPLATES = PackageLoader("app.reports")
_pages = Environment(
    loader=TEMPLATES,
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
STYLE = _pages.get_template("report.css").render()
_STYLE = re.compile(r"<style>(.*?)</style>", re.DOTALL)


@dataclass(frozen=True)
class Drawn:
    """The plots of a report. `width` of each, in units of its viewBox."""

    width: float
    judged: JudgedPlot
    rates: tuple[Interval, ...]
    flips: tuple[Interval, ...]
    curves: CurvePlot | None


def drawn(subject: Subject) -> Drawn:
    return Drawn(
        width=WIDTH,
        judged=judged_plot(subject.figures),
        rates=_rates(subject),
        flips=_flips(subject.report.before, subject.report.after),
        curves=curve_plot(subject.metrics),
    )


def page(subject: Subject) -> str:
    """The page. Everything that came from outside is escaped by the template."""
    return _pages.get_template("report.html.j2").render(
        subject=subject, report=subject.report, version=tool_version(), drawn=drawn(subject)
    )


def policy_of(text: str) -> str:
    """The Content-Security-Policy under which the page works: its own style, and nothing else."""
    digests = (hashlib.sha256(style.encode()).digest() for style in _STYLE.findall(text))
    styles = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return f"default-src 'none'; style-src {styles}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def _rates(subject: Subject) -> tuple[Interval, ...]:
    before, after = subject.report.before, subject.report.after
    return rate_plot(
        [
            ("ASR before", before.asr),
            ("ASR after", after.asr),
            ("floor after", after.floor),
            ("clean accuracy before", before.clean_accuracy),
            ("clean accuracy after", after.clean_accuracy),
            *((f"ASR relearned, k = {each.k}", each.asr) for each in subject.report.relearning),
        ]
    )


def _flips(before: Scorecard, after: Scorecard) -> tuple[Interval, ...]:
    rows = []
    for label, flips in after.label_flips.items():
        if label in before.label_flips:
            rows.append((f"{label}, before", before.label_flips[label]))
        rows.append((f"{label}, after", flips))
        if label in after.clean_flips:
            rows.append((f"{label}, after, no trigger", after.clean_flips[label]))
    return rate_plot(rows)
