"""Drives schemathesis over docs/openapi.json against a running API and counts what came of it.

Beside schemathesis' own checks: every refusal is a problem with a code whose status is that of the table in
`app/api/failures.py`, and every success is an answer that the document lists for that call.
"""

from __future__ import annotations

import json
import random
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import schemathesis
from hypothesis import strategies as st
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema
from schemathesis.generation.meta import TestPhase

from app.api import failures, tus
from app.api.samples import MEDIA_TYPES
from tests.conftest import ROOT
from tests.fuzz_api.stand_in_worker import Known

SEED = 20_261_123
REJECTING = ("missing_required_header", "negative_data_rejection")
# Data that fits its schema may still be refused (409, 404), and a reading of a list may be anybody's.
LEFT_OUT = ("positive_data_acceptance", "max_response_time")
REFUSED = ("400", "401", "404", "405", "406", "409", "410", "412", "413", "415", "416", "422", "460")
CHANCE = 2  # in so many of the valid cases ids are put in that are good at the moment


@dataclass
class Tally:
    """What happened so far. `failures` has one entry a kind, with how often and one way to see it again."""

    cases: int = 0
    statuses: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    phases: Counter[str] = field(default_factory=Counter)
    failures: dict[str, dict[str, Any]] = field(default_factory=dict)

    def take(self, event: events.ScenarioFinished) -> None:
        recorder = event.recorder
        for case_id, interaction in recorder.interactions.items():
            case = recorder.cases[case_id].value
            self.cases += 1
            self.phases[event.phase.value] += 1
            if interaction.response is not None:
                self.statuses[case.operation.label][interaction.response.status_code] += 1
        for case_id, checks in recorder.checks.items():
            for check in checks:
                if check.failure_info is not None:
                    self._fail(check.name, recorder.cases[case_id].value, check.failure_info)

    def _fail(self, check: str, case: Any, info: Any) -> None:
        failure = info.failure
        kind = f"{check}: {case.operation.label}: {failure.title}"
        seen = self.failures.setdefault(
            kind, {"times": 0, "message": failure.message[:2000], "request": info.code_sample[:2000]}
        )
        seen["times"] += 1

    def error(self, event: events.NonFatalError) -> None:
        kind = f"error: {event.label}: {event.info.title}"
        seen = self.failures.setdefault(kind, {"times": 0, "message": event.info.format()[:2000], "request": ""})
        seen["times"] += 1


def run(url: str, key: str, known: Known, cases: int, watch: Callable[[int], None]) -> Tally:
    """At least so many cases, the same ones each time; `watch` is told how many there were so far."""
    _install(known)
    schema = schemathesis.openapi.from_dict(
        json.loads((ROOT / "docs/openapi.json").read_text()),
        config=SchemathesisConfig.from_dict(_settings(url, key, whole=cases >= 5000)),
    )
    tally = Tally()
    stream = from_schema(schema).execute()
    for event in stream:
        if isinstance(event, events.NonFatalError):
            tally.error(event)
        if isinstance(event, events.ScenarioFinished):
            tally.take(event)
            watch(tally.cases)
            if tally.cases >= cases:
                stream.stop()
    return tally


def _settings(url: str, key: str, *, whole: bool) -> dict[str, Any]:
    """`whole`: every boundary value of every schema too, which alone are thousands of cases."""
    checks = {name: {"enabled": False} for name in LEFT_OUT if name != "max_response_time"}
    return {
        "seed": SEED,
        "max-time": 7200,
        "base-url": url,
        "headers": {"Authorization": f"Bearer {key}"},
        "request-timeout": 70,
        "continue-on-failure": True,
        "max-stream-events": 20,
        "generation": {
            "deterministic": True,
            "database": "none",
            "no-shrink": True,
            "allow-extra-parameters": False,  # a header nobody asked for is no mistake
            "max-examples": 40 if whole else 5,
        },
        # Examples of bodies are text in the document, and here bodies are drawn as bytes.
        "phases": {"examples": {"enabled": False}, "coverage": {"enabled": whole}, "stateful": {"max-steps": 8}},
        "checks": checks | {name: {"expected-statuses": list(REFUSED)} for name in REJECTING},
    }


def _install(known: Known) -> None:
    rows = st.lists(st.fixed_dictionaries({"text": st.text(max_size=40), "label": st.integers(0, 3)}), max_size=5)
    jsonl = rows.map(lambda found: "".join(json.dumps(row) + "\n" for row in found).encode())
    raw = st.one_of(jsonl, st.binary(max_size=400))
    for media_type in (*MEDIA_TYPES, tus.CHUNK_TYPE):
        schemathesis.openapi.media_type(media_type, raw)
    schemathesis.check(refusals_are_problems)
    schemathesis.check(successes_are_described)

    @schemathesis.hook
    def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
        _put_in_good_ids(case, known)


def _put_in_good_ids(case: Any, known: Known) -> None:
    """What no generator guesses: ids that exist and fit each other. The choice depends on the case alone."""
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    draw = random.Random(zlib.crc32(repr((case.path, case.path_parameters, case.query, case.body)).encode()))
    if draw.randrange(CHANCE):
        return
    if case.meta.phase.name != TestPhase.STATEFUL:  # there the ids come from the answers before
        _name_what_is_there(case, known, draw)
    if case.path == "/v1/jobs" and case.method == "POST" and isinstance(case.body, dict):
        ids = {"model": known.model_id, "triggered": known.triggered, "clean": known.clean}
        case.body = {name: draw.choice(found) for name, found in ids.items()} | {"seed": draw.randrange(9)}
    if case.path == "/v1/models" and case.method == "POST" and isinstance(case.body, dict):
        case.body = {"name": "m", "archive": draw.choice(known.finished)}


def _name_what_is_there(case: Any, known: Known, draw: random.Random) -> None:
    for name, ids in (("job_id", known.job_id), ("model_id", known.model_id), ("samples_id", known.clean)):
        if name in case.path_parameters and ids:
            case.path_parameters[name] = draw.choice(ids)
    if case.method != "PUT" and "upload_id" in case.path_parameters and known.upload_id:
        case.path_parameters["upload_id"] = draw.choice(known.upload_id)
    if "path" in case.path_parameters:
        case.path_parameters["path"] = "model.safetensors"
        case.headers["Range"] = draw.choice(["bytes=0-3", "bytes=-5", "bytes=99-", "bytes=0-"])
    if "If-None-Match" in case.headers:
        case.headers["If-None-Match"] = draw.choice(["*", '"1.1", "1.8"'])
    if case.method == "PATCH" and known.open:
        case.path_parameters["upload_id"] = draw.choice(known.open)
        case.headers.update({"Upload-Offset": "0", "Tus-Resumable": tus.VERSION})


def refusals_are_problems(_context: Any, response: Any, case: Any) -> None:
    if response.status_code < 400:
        return
    kind = response.headers.get("content-type", [""])[0]
    assert kind == failures.PROBLEM, f"{response.status_code} came as {kind!r}"
    if case.method == "HEAD":
        return
    problem = response.json()
    assert problem["status"] == response.status_code
    assert problem["code"] in failures.CODES
    assert problem["detail"].strip()
    if response.status_code == 405:
        assert response.headers.get("allow"), "405 without Allow"


def successes_are_described(_context: Any, response: Any, case: Any) -> None:
    if response.status_code < 400 and case.method.lower() == case.operation.method:
        listed = case.operation.definition.raw["responses"]
        assert str(response.status_code) in listed, f"{response.status_code} is not among {sorted(listed)}"
