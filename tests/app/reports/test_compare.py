"""Two jobs side by side: every figure is the report's own, a difference has its sign, and what differs is said."""

from __future__ import annotations

from dataclasses import replace

from app.domain.manifest import FileEntry, Manifest
from app.domain.report import Proportion
from app.reports.compare import compare, drawn
from app.reports.subject import Subject
from tests.app.reports.test_reports import FILES, a_job, a_model
from tests.job_rows_at_hand import a_report


def test_a_job_beside_itself_differs_in_nothing() -> None:
    one = Subject(a_job(), a_model("m", []), a_report(), FILES)
    found = compare(one, one)
    assert found.warnings == found.knobs == ()
    for row in found.rates:
        assert row.a == row.b
        assert row.difference.value in (0.0, None)
    assert all(row.a == row.b for row in found.numbers)


def test_b_minus_a_and_every_reason_not_to_compare() -> None:
    report = a_report()
    worse = replace(report.after, asr=Proportion.of(30, 40))
    other = replace(
        report,
        after=worse,
        seed=report.seed + 1,
        recipe=dict(report.recipe) | {"steps": 7},
        data=replace(report.data, triggered_sha256="ab" * 32, clean_sha256="cd" * 32),
    )
    another = replace(a_model("m", []), source=Manifest.of([FileEntry("config.json", 3, "ef" * 32)]))
    a, b = Subject(a_job(), a_model("m", []), report, FILES), Subject(a_job(), another, other, FILES)
    found = compare(a, b)
    asr = next(row for row in found.rates if row.name == "ASR after")
    assert asr.b.rate == 0.75
    assert asr.difference.value is not None
    assert asr.difference.value > 0
    assert [row.name for row in found.knobs] == ["seed", "steps"]
    assert len(found.warnings) == 4
    assert len(drawn(found)) == 2 * len(found.rates)
    assert found.to_dict()["rates"][1]["b"]["n"] == 40
