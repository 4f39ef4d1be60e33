"""The job routes over real HTTP: conditional reads, waiting, the event stream, cancel, retry, delete, pages."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx2
import pytest
from sqlalchemy import Engine

from app.domain.identity import DEFAULT_TENANT
from app.domain.job import Claim, Failure, Job, Phase
from app.domain.report import StepMetric
from app.store import claim_rows, job_rows
from tests.job_rows_at_hand import a_delivery, add_job

pytestmark = pytest.mark.usefixtures("database")
PROBLEM = "application/problem+json"


@dataclass
class Bench:
    """Jobs made in the database, as a worker would drive them."""

    database: Engine

    def job(self) -> Job:
        with self.database.begin() as connection:
            return add_job(connection)

    def claim(self, job: Job) -> Claim:
        with self.database.begin() as connection:
            claim = claim_rows.claim(connection, job.id, "worker", 300, 3)
        assert claim is not None
        return claim

    def steps(self, claim: Claim, *steps: int) -> None:
        with self.database.begin() as connection:
            batch = [StepMetric(step, "ascent", 1.5, {"asr": 0.5, "odd": None}) for step in steps]
            claim_rows.record_metrics(connection, claim, batch, 0.5)

    def phase(self, claim: Claim, phase: Phase = Phase.ASCENT) -> None:
        with self.database.begin() as connection:
            claim_rows.record_phase(connection, claim, phase, 0.2)

    def finish(self, claim: Claim, outcome=None) -> None:
        with self.database.begin() as connection:
            claim_rows.finish(connection, claim, outcome or a_delivery())


@pytest.fixture
def bench(database: Engine) -> Bench:
    return Bench(database)


def problem(answer: httpx2.Response, status: int, code: str) -> dict:
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM), answer.text
    assert answer.json()["code"] == code
    return answer.json()


# --- reading ------------------------------------------------------------------------------------------------------


def test_a_job_shows_its_life(bench: Bench, http: httpx2.Client) -> None:
    job = bench.job()
    claim = bench.claim(job)
    bench.phase(claim)
    bench.steps(claim, 1, 2)
    shown = http.get(f"/v1/jobs/{job.id}").json()
    assert (shown["status"], shown["phase"], shown["progress"], shown["done"]) == (
        "running",
        "ascent",
        0.5,
        False,
    )
    assert shown["estimated_finish"] > shown["started_at"]
    assert [t["status"] or t["phase"] for t in shown["transitions"]] == ["queued", "running", "ascent"]
    assert shown["links"]["cancel"] == f"/v1/jobs/{job.id}/cancel"
    bench.finish(claim, a_delivery(outcome="fail"))
    done = http.get(f"/v1/jobs/{job.id}").json()
    assert (done["status"], done["done"], done["verdict"], done["progress"]) == (
        "succeeded",
        True,
        "fail",
        1.0,
    )
    assert done["estimated_finish"] is None
    assert done["finished_at"].endswith("Z")
    assert set(done["links"]) == {"self", "events", "metrics", "report", "artifacts"}


def test_a_failed_job_says_why(bench: Bench, http: httpx2.Client) -> None:
    job = bench.job()
    bench.finish(bench.claim(job), Failure("bad-samples", "Row 3 has no text."))
    shown = http.get(f"/v1/jobs/{job.id}").json()
    assert shown["failure"] == {"code": "bad-samples", "message": "Row 3 has no text."}
    assert shown["links"]["retry"] == f"/v1/jobs/{job.id}/retry"


def test_the_etag_changes_exactly_with_the_job(bench: Bench, http: httpx2.Client) -> None:
    job = bench.job()
    first = http.get(f"/v1/jobs/{job.id}")
    again = http.get(f"/v1/jobs/{job.id}", headers={"If-None-Match": f'"other", {first.headers["etag"]}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert http.get(f"/v1/jobs/{job.id}").content == first.content
    claim = bench.claim(job)
    with bench.database.begin() as connection:
        claim_rows.heartbeat(connection, claim, 300)
    changed = http.get(f"/v1/jobs/{job.id}", headers={"If-None-Match": first.headers["etag"]})
    assert changed.status_code == 200
    assert changed.headers["etag"] not in (first.headers["etag"],)
    assert not changed.headers["etag"].startswith("W/")
    assert "private" in changed.headers["cache-control"]
    assert http.get(f"/v1/jobs/{job.id}", headers={"If-None-Match": "*"}).status_code == 304


def test_waiting_ends_when_the_job_changes(bench: Bench, http: httpx2.Client) -> None:
    job = bench.job()
    etag = http.get(f"/v1/jobs/{job.id}").headers["etag"]
    with ThreadPoolExecutor(2) as pool:
        headers = [{"Prefer": "wait=60", "If-None-Match": etag}, {"Prefer": "respond-async, wait=60"}]
        asked = [pool.submit(http.get, f"/v1/jobs/{job.id}", headers=header) for header in headers]
        threading.Event().wait(0.3)  # long enough for both to be waiting, most of the time; either way they must end
        assert not any(answer.done() for answer in asked)
        claim = bench.claim(job)
        known = asked[0].result(timeout=50)
        # The one without If-None-Match may have come after the claim: then the next change ends it.
        bench.finish(claim)
        answers = [known, asked[1].result(timeout=50)]
    for answer in answers:
        assert answer.json()["status"] in ("running", "succeeded")
        assert answer.headers["preference-applied"] == "wait=60"


def test_waiting_ends_at_once_where_there_is_nothing_to_wait_for(bench: Bench, http: httpx2.Client) -> None:
    job = bench.job()
    etag = http.get(f"/v1/jobs/{job.id}").headers["etag"]
    unchanged = http.get(f"/v1/jobs/{job.id}", headers={"If-None-Match": etag, "Prefer": "wait=0"})
    assert unchanged.status_code == 304
    other = http.get(f"/v1/jobs/{job.id}", headers={"If-None-Match": '"old"', "Prefer": "wait=60"}, timeout=30)
    assert other.status_code == 200
    bench.finish(bench.claim(job))
    done = http.get(f"/v1/jobs/{job.id}", headers={"Prefer": "wait=60"}, timeout=30)
    assert done.json()["status"] == "succeeded"
    etag = done.headers["etag"]
    still = http.get(f"/v1/jobs/{job.id}", headers={"If-None-Match": etag, "Prefer": "wait=60"}, timeout=30)
    assert still.status_code == 304


def test_pages_by_key_with_links(bench: Bench, http: httpx2.Client) -> None:
    made = [str(bench.job().id) for _ in range(5)]
    http.post(f"/v1/jobs/{made[0]}/cancel")
    seen, url = [], "/v1/jobs?limit=2"
    while url:
        answer = http.get(url)
        page = answer.json()
        assert page["has_more"] == ("link" in answer.headers)
        seen += [job["id"] for job in page["data"]]
        url = answer.links["next"]["url"] if page["has_more"] else None
    assert seen == made[::-1]
    assert [job["id"] for job in http.get("/v1/jobs?status=cancelled").json()["data"]] == made[:1]
    model = http.get(f"/v1/jobs/{made[1]}").json()["model"]
    assert [job["id"] for job in http.get(f"/v1/jobs?model={model}").json()["data"]] == [made[1]]


def test_metrics_come_as_a_series(bench: Bench, http: httpx2.Client) -> None:
    job = bench.job()
    bench.steps(bench.claim(job), 1, 2, 3)
    page = http.get(f"/v1/jobs/{job.id}/metrics?limit=2").json()
    assert [metric["step"] for metric in page["data"]] == [1, 2]
    assert page["has_more"]
    rest = http.get(f"/v1/jobs/{job.id}/metrics?after=2").json()
    assert rest == {
        "data": [{"step": 3, "phase": "ascent", "loss": 1.5, "values": {"asr": 0.5, "odd": None}}],
        "has_more": False,
    }


def test_the_report_is_json_once_there_is_one(bench: Bench, http: httpx2.Client) -> None:
    job = bench.job()
    problem(http.get(f"/v1/jobs/{job.id}/report"), 409, "conflict")
    delivery = a_delivery()
    bench.finish(bench.claim(job), delivery)
    assert http.get(f"/v1/jobs/{job.id}/report").json() == delivery.report.to_dict()
    problem(http.get(f"/v1/jobs/{job.id}/report", headers={"Accept": "image/png"}), 406, "not-acceptable")


@pytest.mark.parametrize(
    ("form", "media_type"),
    [
        ("json", "application/json"),
        ("html", "text/html"),
        ("sarif", "application/sarif+json"),
        ("cyclonedx", "application/vnd.cyclonedx+json"),
        ("ocsf", "application/x-ndjson"),
    ],
)
def test_a_report_is_made_in_the_form_that_is_asked_for(
    bench: Bench, http: httpx2.Client, form: str, media_type: str
) -> None:
    job = bench.job()
    problem(http.get(f"/v1/jobs/{job.id}/report.{form}"), 409, "conflict")
    bench.finish(bench.claim(job), a_delivery())
    by_name = http.get(f"/v1/jobs/{job.id}/report.{form}")
    by_accept = http.get(f"/v1/jobs/{job.id}/report", headers={"Accept": f"image/png, {media_type}"})
    for answer in (by_name, by_accept):
        assert answer.headers["content-type"].split(";")[0] == media_type
        assert answer.status_code == 200
    assert by_name.content == by_accept.content
    problem(http.get(f"/v1/jobs/{job.id}/report.pdf"), 422, "invalid-request")
    if form == "html":
        assert "style-src 'sha256-" in by_name.headers["content-security-policy"]


# --- the event stream ---------------------------------------------------------------------------------------------


def read_events(lines: Iterator[str]) -> Iterator[tuple[int | None, str, dict]]:
    fields: dict[str, str] = {}
    for line in lines:
        if line == "" and "event" in fields:
            yield int(fields["id"]) if "id" in fields else None, fields["event"], json.loads(fields["data"])
            fields = {}
        elif line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value


def test_the_stream_tells_everything_as_it_happens_and_ends(bench: Bench, http: httpx2.Client) -> None:
    job = bench.job()
    with http.stream("GET", f"/v1/jobs/{job.id}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = read_events(answer.iter_lines())
        assert next(events)[:2] == (1, "status")
        claim = bench.claim(job)
        number, kind, data = next(events)
        assert (number, kind, data["status"]) == (2, "status", "running")
        bench.steps(claim, 1, 2)
        assert [next(events)[0] for _ in range(2)] == [3, 4]
        bench.finish(claim)
        assert [(number, kind) for number, kind, _ in events] == [(5, "status"), (None, "end")]


def test_the_stream_goes_on_where_it_was_cut(bench: Bench, http: httpx2.Client) -> None:
    job = bench.job()
    claim = bench.claim(job)
    bench.steps(claim, *range(1, 700))
    bench.finish(claim)
    for ask in ({"headers": {"Last-Event-ID": "4"}}, {"params": {"last_event_id": "4"}}):
        with http.stream("GET", f"/v1/jobs/{job.id}/events", **ask) as answer:
            numbers = [number for number, _, _ in read_events(answer.iter_lines())]
        assert numbers == [*range(5, 703), None]
    over = http.get(f"/v1/jobs/{job.id}/events", headers={"Last-Event-ID": "702"})
    assert over.status_code == 204
    problem(http.get(f"/v1/jobs/{job.id}/events", headers={"Last-Event-ID": "soon"}), 400, "bad-request")


def test_the_stream_ends_when_the_job_is_deleted(bench: Bench, http: httpx2.Client) -> None:
    job = bench.job()
    with http.stream("GET", f"/v1/jobs/{job.id}/events") as answer:
        events = read_events(answer.iter_lines())
        next(events)
        with bench.database.begin() as connection:
            job_rows.cancel(connection, DEFAULT_TENANT, job.id)
            job_rows.delete(connection, DEFAULT_TENANT, job.id)
        assert [data["status"] for _, _, data in events] == ["deleted"]


# --- changing -----------------------------------------------------------------------------------------------------


def test_cancel(bench: Bench, http: httpx2.Client) -> None:
    queued, running = bench.job(), bench.job()
    claim = bench.claim(running)
    for _ in range(2):
        answer = http.post(f"/v1/jobs/{queued.id}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
        answer = http.post(f"/v1/jobs/{running.id}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (202, "cancelling")
    bench.finish(claim)
    assert http.post(f"/v1/jobs/{running.id}/cancel").json()["status"] == "cancelled"
    done = bench.job()
    bench.finish(bench.claim(done))
    problem(http.post(f"/v1/jobs/{done.id}/cancel"), 409, "illegal-move")


def test_retry_and_delete(bench: Bench, http: httpx2.Client) -> None:
    job = bench.job()
    problem(http.post(f"/v1/jobs/{job.id}/retry"), 409, "illegal-move")
    problem(http.delete(f"/v1/jobs/{job.id}"), 409, "illegal-move")
    http.post(f"/v1/jobs/{job.id}/cancel")
    again = http.post(f"/v1/jobs/{job.id}/retry")
    assert (again.status_code, again.json()["status"]) == (202, "queued")
    http.post(f"/v1/jobs/{job.id}/cancel")
    assert http.delete(f"/v1/jobs/{job.id}").status_code == 204
    problem(http.get(f"/v1/jobs/{job.id}"), 404, "not-found")


@pytest.mark.parametrize("path", ["", "/metrics", "/events", "/report", "/artifacts", "/artifacts/config.json"])
@pytest.mark.parametrize("job_id", ["01a2124f-e47c-7d37-8926-24f53ab4c452", "1", "%00", "%2e%2e", "0" * 300])
def test_a_job_that_is_not_there(http: httpx2.Client, path: str, job_id: str) -> None:
    problem(http.get(f"/v1/jobs/{job_id}{path}"), 404, "not-found")


def test_nothing_without_a_key(http: httpx2.Client) -> None:
    answer = httpx2.get(http.base_url.join("/v1/jobs"))
    problem(answer, 401, "unauthenticated")
