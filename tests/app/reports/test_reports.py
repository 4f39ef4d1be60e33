"""Every form of a report against the official schema of its format, over reports of every kind."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from cyclonedx.schema import SchemaVersion
from hypothesis import given, settings
from hypothesis import strategies as st
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

from app.domain.job import Job, JobOrder, JobStatus
from app.domain.manifest import FileEntry, Manifest
from app.domain.model import Finding, Model, ModelFacts, ModelStatus, Severity
from app.domain.recipe import Policy
from app.domain.report import Difference, Paired, Proportion, Relearning, SanitizationReport, Scorecard, StepMetric
from app.domain.verdict import judge
from app.reports import cyclonedx, ocsf, page, sarif
from app.reports.subject import Subject
from tests.job_rows_at_hand import DIGEST, a_report

few = settings(max_examples=15, deadline=None)
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
FILES = Manifest.of([FileEntry("config.json", 2, "cd" * 32), FileEntry("model.safetensors", 3, DIGEST)])
NAMES = st.text(min_size=1, max_size=12)
NO_NANS = NAMES.filter(lambda name: "nan" not in name.lower())  # where a nan would be a number that is none


@st.composite
def rates(draw: st.DrawFn, most: int = 300) -> Proportion:
    n = draw(st.integers(0, most))
    return Proportion.of(draw(st.integers(0, n)), n)


@st.composite
def scorecards(draw: st.DrawFn, labels: list[str]) -> Scorecard:
    asr, floor = draw(rates()), draw(rates())
    flips = {label: draw(rates()) for label in labels}
    clean = {label: draw(rates()) for label in labels if draw(st.booleans())}
    return Scorecard(
        draw(rates()), asr, floor, draw(st.sampled_from(["twins", "clean", "none"])), Difference.of(asr, floor),
        flips, clean, draw(rates()),
    )  # fmt: skip


@st.composite
def reports(draw: st.DrawFn, names: st.SearchStrategy[str]) -> SanitizationReport:
    labels = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    before, after = draw(scorecards(labels)), draw(scorecards(labels))
    right = before.clean_accuracy, after.clean_accuracy
    relearned = tuple(Relearning(k, 4 * k, 10, draw(rates()), draw(rates()), draw(rates())) for k in (1, 10))
    policy = Policy.of()
    return replace(
        a_report(), before=before, after=after, accuracy_drop=Difference.of(*right),
        verdict=judge(policy, before, after), limits=tuple(draw(st.lists(names, max_size=2))),
        relearning=relearned if draw(st.booleans()) else (),
    )  # fmt: skip


@st.composite
def subjects(draw: st.DrawFn, names: st.SearchStrategy[str] = NAMES) -> Subject:
    findings = [
        Finding("ST-DUPLICATE-KEY", draw(st.sampled_from(list(Severity))), "config.json", draw(names))
        for _ in range(draw(st.integers(0, 2)))
    ]
    steps = [StepMetric(i, "ascent", 1.0, {"asr": 0.5, "odd": None}) for i in range(draw(st.integers(0, 3)))]
    return Subject(a_job(), a_model(draw(names), findings), draw(reports(names)), FILES, steps)


def a_model(name: str, findings: list[Finding]) -> Model:
    facts = ModelFacts("bert", "BertForSequenceClassification", ("a", "b"), 10)
    return Model(
        uuid4(), "default", name, ModelStatus.ADMITTED, FILES, FILES, facts, tuple(findings), {}, 1, 1, NOW, NOW
    )


def a_job() -> Job:
    order = JobOrder(uuid4(), uuid4(), uuid4(), None, "lya", {}, {}, 0, {})
    return Job(uuid4(), "default", order, JobStatus.SUCCEEDED, None, 1.0, 3, 1, 1, "pass", None, NOW, NOW, NOW, NOW)


@few
@given(subjects())
def test_sarif_keeps_its_schema_and_points_at_files_that_are_there(subject: Subject) -> None:
    log = _read_back(sarif.sarif(subject))
    _sarif().validate(log)
    (run,) = log["runs"]
    for result in run["results"]:
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
    judged = {each.outcome for each in subject.figures}
    ours = [each for each in run["results"] if each["ruleId"].startswith(("TROJAN", "ACCURACY"))]
    assert bool(ours) == bool(judged - {"pass"})


@few
@given(subjects())
def test_cyclonedx_keeps_its_schema(subject: Subject) -> None:
    text = json.dumps(cyclonedx.cyclonedx(subject), allow_nan=False)
    assert _cyclonedx().validate_str(text) is None
    assert all(entry.sha256 in text for entry in subject.delivered)


@few
@given(subjects())
def test_ocsf_events_keep_the_schema_of_their_class(subject: Subject) -> None:
    scan, *findings = [_read_back(event) for event in ocsf.ocsf(subject)]
    _ocsf("scan_activity").validate(scan)
    for finding in findings:
        _ocsf("detection_finding").validate(finding)
    assert scan["num_detections"] == len(subject.troubles())


class _Seen(HTMLParser):
    """Tags that are open, and whether anything asks for a script or for what lies elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.asks: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta",):
            self.open.append(tag)
        asked = [name for name, _ in attrs if name in ("src", "href", "style") or name.startswith("on")]
        self.asks += asked + (["script"] if tag == "script" else [])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        return

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@few
@given(subjects(NO_NANS))
def test_the_page_is_whole_and_asks_for_nothing(subject: Subject) -> None:
    text = page.page(subject)
    seen = _Seen()
    seen.feed(text)
    seen.close()
    assert (seen.open, seen.asks) == ([], [])
    assert "nan" not in text.partition("<main>")[2].lower().replace("financ", "")


def test_the_page_shows_what_came_from_outside_as_text() -> None:
    evil = '<script>alert(1)</script>"onload=x'
    text = page.page(Subject(a_job(), a_model(evil, []), a_report(), FILES))
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_a_page_s_policy_allows_its_own_style_alone() -> None:
    policy = page.policy_of(page.page(Subject(a_job(), a_model("m", []), a_report(), FILES)))
    assert policy.count("'sha256-") == 1
    assert "unsafe" not in policy


def test_fingerprints_stay_for_the_same_upload_and_change_with_it() -> None:
    bad = replace(a_report(), after=_worse())
    model = a_model("m", [])

    def marks(subject: Subject) -> list[str]:
        return [trouble.fingerprint for trouble in subject.troubles()]

    first, again = (Subject(a_job(), model, bad, FILES) for _ in range(2))
    other = Subject(a_job(), replace(model, source=Manifest.of([])), bad, FILES)
    assert marks(first)
    assert marks(first) == marks(again)
    assert not set(marks(first)) & set(marks(other))


@pytest.mark.parametrize(("outcome", "level"), [("fail", "error"), ("inconclusive", "warning")])
def test_what_is_over_a_limit_is_an_error_only_if_that_is_sure(outcome: str, level: str) -> None:
    sure = outcome == "fail"
    report = replace(a_report(), after=_worse(100 if sure else 8))
    (trouble,) = [
        each for each in Subject(a_job(), a_model("m", []), report, FILES).troubles() if each.rule == "TROJAN-REMAINS"
    ]
    assert trouble.level == level


def _worse(hits: int = 100) -> Scorecard:
    good, bad = Proportion.of(1, 100), Proportion.of(hits, 100)
    pairs = Paired(100, 1, hits - 1, 0)
    return Scorecard(
        good, bad, good, "twins", Difference.of(bad, good), {}, {}, good, {}, pairs if hits == 8 else None
    )


def _read_back(value: Any) -> Any:
    return json.loads(json.dumps(value, allow_nan=False))


@lru_cache
def _ocsf(name: str) -> Any:
    schema = OcsfJsonSchemaEmbedded(get_ocsf_schema(ocsf.OCSF_VERSION)).get_class_schema(name)
    return _validator(schema)


@lru_cache
def _sarif() -> Any:
    return _validator(json.loads((Path(__file__).parent / "schemas/sarif-2.1.0.json").read_bytes()))


@lru_cache
def _cyclonedx() -> Any:
    from cyclonedx.validation.json import JsonStrictValidator

    return JsonStrictValidator(SchemaVersion.V1_7)


def _validator(schema: Any) -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(schema)
