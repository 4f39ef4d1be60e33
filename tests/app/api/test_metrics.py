"""/metrics: for an admin of the operator's own tenant, in the text format, with what this process has answered."""

from __future__ import annotations

import httpx2
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine

from app.domain.identity import KeyOrder, Scope
from app.identity import api_keys
from tests.api_process import PEPPER, ApiProcess
from tests.job_rows_at_hand import add_job


def values(text: str) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(text)
    return {
        (each.name, *(each.labels[name] for name in sorted(each.labels))): each.value
        for family in families
        for each in family.samples
    }


def test_it_tells_of_what_waits_in_every_tenant(http: httpx2.Client, database: Engine) -> None:
    with database.begin() as connection:
        for tenant in ("default", "another", "another"):
            add_job(connection, tenant)
    answer = http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    found = values(answer.text)
    assert found["lethe_queue_jobs", "cpu", "queued"] == 3
    assert found["lethe_jobs", "queued"] == 3
    assert found["lethe_jobs", "failed"] == found["lethe_workers",] == 0
    assert found["lethe_queue_oldest_seconds", "cpu"] >= 0


def test_it_counts_what_was_answered_and_taken_in(http: httpx2.Client) -> None:
    before = values(http.get("/metrics").text)
    http.put("/v1/uploads/x.bin", content=b"x" * 1000)
    http.get("/v1/jobs/none")
    http.request("BREW", "/v1/jobs")
    after = values(http.get("/metrics").text)

    def grown(*name: str) -> float:
        return after.get(name, 0.0) - before.get(name, 0.0)

    assert grown("lethe_upload_bytes_total") == 1000
    assert grown("lethe_http_requests_total", "PUT", "201") == 1
    assert grown("lethe_http_requests_total", "GET", "404") == 1
    assert ("lethe_http_requests_total", "BREW", "405") not in after
    assert grown("lethe_http_request_seconds_count", "PUT") == 1


def test_who_may_not_ask(http: httpx2.Client, api: ApiProcess, database: Engine) -> None:
    assert httpx2.get(f"{api.url}/metrics").status_code == 401
    for tenant, scope in (("default", Scope.JOBS_READ), ("blue", Scope.ADMIN)):
        order = KeyOrder(tenant, "k", frozenset({scope}), None)
        _, key = api_keys.make(database, PEPPER, order, "test")
        answer = httpx2.get(f"{api.url}/metrics", headers={"Authorization": f"Bearer {key}"})
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
