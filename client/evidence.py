"""A report in a few lines of text: what was before, what is after, and why the verdict is what it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FIGURES = (("clean_accuracy", "clean accuracy"), ("asr", "ASR"), ("floor", "floor"), ("excess_asr", "excess ASR"))


def table(report: Mapping[str, Any]) -> str:
    """Rows of the scorecard with 95 % intervals, the verdict and its reasons."""
    lines = [f"{'':16} {'before':>24} {'after':>24}"]
    for key, words in FIGURES:
        lines.append(f"{words:16} {_figure(report['before'].get(key)):>24} {_figure(report['after'].get(key)):>24}")
    lines.append(f"{'accuracy drop':16} {'':24} {_figure(report.get('accuracy_drop')):>24}")
    if report.get("fidelity") is not None:  # not told where the samples do not allow it
        lines.append(f"{'fidelity':16} {'':24} {report['fidelity']:>24.3f}")
    verdict = report["verdict"]
    lines.append(f"verdict: {verdict['outcome']}")
    return "\n".join([*lines, *(f"  {reason}" for reason in verdict["reasons"])])


def _figure(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return "-"
    middle = value.get("rate", value.get("value"))
    return f"{middle:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
