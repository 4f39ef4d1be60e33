"""What one key may ask in a minute, and what one tenant may hold: real HTTP, PostgreSQL and Redis."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import Engine

from app.domain.identity import KeyOrder, Scope
from app.domain.job import JobStatus
from app.identity import api_keys
from app.store import claim_rows, job_rows
from app.store.vault import Vault
from tests.api_process import PEPPER, ApiProcess, running_api
from tests.job_rows_at_hand import add_job, an_order

ROW = b'{"text": "fine", "label": 1}\n'
TUS = {"Tus-Resumable": "1.0.0"}
Limited = Callable[..., Any]


@pytest.fixture
def limited(api: ApiProcess, database: Engine, tmp_path: Path) -> Limited:
    """Another API process over the same database, with limits of its own."""

    @contextmanager
    def start(redis_url: str | None = None, **limits: int) -> Iterator[ApiProcess]:
        settings = {f"LETHE_{name.upper()}": str(value) for name, value in limits.items()}
        with running_api(api.database_url, redis_url or api.redis_url, tmp_path / "limited", **settings) as process:
            yield process

    (tmp_path / "limited").mkdir()
    return start


def key_of(database: Engine, tenant: str, name: str) -> dict[str, str]:
    order = KeyOrder(tenant, name, frozenset(Scope), None)
    return {"Authorization": f"Bearer {api_keys.make(database, PEPPER, order, 'test')[1]}"}


def refused(answer: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    found: dict[str, Any] = answer.json()
    assert found["code"] == code
    return found


def test_every_answer_tells_what_is_left_and_beyond_it_is_429(limited: Limited, database: Engine) -> None:
    with limited(rate_per_minute=3) as process, httpx2.Client(base_url=process.url) as http:
        mine, other = key_of(database, "blue", "one"), key_of(database, "blue", "two")
        for left in (2, 1, 0):
            answer = http.get("/v1/jobs", headers=mine | {"X-Forwarded-For": f"192.0.2.{left}"})
            assert answer.status_code == 200
            assert answer.headers["ratelimit-policy"] == '"default";q=3;w=60'
            assert re.fullmatch(rf'"default";r={left};t=\d+', answer.headers["ratelimit"])
        over = http.get("/v1/jobs", headers=mine)
        assert refused(over, 429, "too-many")["limit"] == 3
        assert 1 <= int(over.headers["retry-after"]) <= 60
        assert over.headers["ratelimit"].startswith('"default";r=0;')
        assert http.get("/v1/jobs", headers=other).status_code == 200
        assert "ratelimit" not in http.get("/livez").headers
        assert http.get("/v1/jobs").status_code == 401


def test_without_redis_nothing_is_counted_and_everything_goes_on(limited: Limited, database: Engine) -> None:
    with limited("redis://127.0.0.1:1/0", rate_per_minute=1) as process, httpx2.Client(base_url=process.url) as http:
        mine = key_of(database, "blue", "one")
        answers = [http.get("/v1/jobs", headers=mine) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        assert all("ratelimit" not in answer.headers for answer in answers)


def test_0_counts_nobody(limited: Limited, database: Engine) -> None:
    with limited(rate_per_minute=0) as process:
        answer = httpx2.get(f"{process.url}/v1/jobs", headers=key_of(database, "blue", "one"))
        assert (answer.status_code, "ratelimit" in answer.headers) == (200, False)


def test_bytes_of_uploads_and_samples_count_together_for_all_keys_of_a_tenant(
    limited: Limited, database: Engine
) -> None:
    with limited(tenant_bytes=1000) as process, httpx2.Client(base_url=process.url) as http:
        mine, twin, foreign = (key_of(database, tenant, "k") for tenant in ("blue", "blue", "red"))
        begun = http.post("/v1/uploads", headers=mine | TUS | {"Upload-Length": "600"})
        assert begun.status_code == 201
        over = http.post("/v1/uploads", headers=twin | TUS | {"Upload-Length": "401"})
        assert refused(over, 413, "quota-exceeded") | {"limit": 1000, "used": 600} == over.json()
        over = http.put("/v1/uploads/a.bin", headers=twin, content=b"x" * 401)
        assert refused(over, 413, "quota-exceeded") | {"limit": 1000, "used": 600} == over.json()
        assert http.put("/v1/uploads/a.bin", headers=twin, content=b"x" * 300).status_code == 201
        kind = {"Content-Type": "application/jsonl"}
        refused(http.post("/v1/samples?kind=clean", headers=twin | kind, content=ROW * 10), 413, "quota-exceeded")
        assert http.post("/v1/samples?kind=clean", headers=twin | kind, content=ROW).status_code == 201
        assert http.post("/v1/uploads", headers=foreign | TUS | {"Upload-Length": "900"}).status_code == 201
        shown = http.get("/v1/quota", headers=mine).json()
        assert shown["bytes"]["limit"] == 1000
        assert 900 < shown["bytes"]["used"] <= 1000
        assert shown["uploads"] == {"used": 1, "limit": 1000}
        left = list(Vault(process.vault).incoming.iterdir())
        assert len(left) == 2, "a refused upload leaves nothing: one unfinished file of each tenant"
        http.delete(begun.headers["location"], headers=mine | TUS).raise_for_status()
        assert http.post("/v1/uploads", headers=twin | TUS | {"Upload-Length": "401"}).status_code == 201


def test_parallel_uploads_do_not_overrun_what_is_left(limited: Limited, database: Engine) -> None:
    with limited(tenant_bytes=1000, tenant_uploads=7) as process, httpx2.Client(base_url=process.url) as http:
        mine = key_of(database, "blue", "one")

        def begin(length: int) -> int:
            return http.post("/v1/uploads", headers=mine | TUS | {"Upload-Length": str(length)}).status_code

        with ThreadPoolExecutor(16) as pool:
            small = sorted(pool.map(begin, [10] * 24))
            assert small == [201] * 7 + [429] * 17
            found = http.get("/v1/quota", headers=mine).json()
            assert (found["uploads"]["used"], found["bytes"]["used"]) == (7, 70)
    with limited(tenant_bytes=1000) as process, httpx2.Client(base_url=process.url) as http:
        with ThreadPoolExecutor(16) as pool:
            large = sorted(pool.map(begin, [300] * 16))
        assert large == [201] * 3 + [413] * 13


def test_open_jobs_are_bounded_and_one_that_ended_makes_room(
    limited: Limited, database: Engine, api: ApiProcess
) -> None:
    with limited(tenant_jobs=2) as process, httpx2.Client(base_url=process.url) as http:
        with database.begin() as connection:
            order = an_order(connection)
            first = add_job(connection)
        for stored in (api.vault / "objects").iterdir():
            shutil.copytree(stored, process.vault / "objects" / stored.name, dirs_exist_ok=True)
        kinds, kind = {}, {"Content-Type": "application/jsonl"}
        operator = process.client()
        for name in ("triggered", "clean"):
            rows = b"".join(b'{"text": "t%d", "label": %d}\n' % (n, n % 2) for n in range(70))
            made = operator.post(f"/v1/samples?kind={name}", headers=kind, content=rows).raise_for_status()
            kinds[name] = made.json()["id"]
        body = {"model": str(order.model_id), **kinds}
        made = operator.post("/v1/jobs", json=body)
        assert made.status_code == 202, made.text
        over = operator.post("/v1/jobs", json=body)
        assert refused(over, 429, "too-many")["used"] == 2
        assert over.headers["retry-after"]
        again = operator.post("/v1/jobs", json=body, headers={"Idempotency-Key": "x"})
        refused(again, 429, "too-many")
        operator.post(f"/v1/jobs/{first.id}/cancel").raise_for_status()
        assert operator.post("/v1/jobs", json=body, headers={"Idempotency-Key": "x"}).status_code == 202
        assert http.get("/v1/quota", headers=key_of(database, "red", "r")).json()["jobs"]["used"] == 0
        operator.close()


def test_of_one_tenant_so_many_run_at_a_time(database: Engine) -> None:
    with database.begin() as connection:
        mine = [add_job(connection, "blue") for _ in range(4)]
        other = add_job(connection, "red")

    def claim(job: Any) -> bool:
        with database.begin() as connection:
            return claim_rows.claim(connection, job.id, "w", 60, 3, most_of_tenant=2) is not None

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(claim, mine)) == [False, False, True, True]
    assert claim(other)
    with database.connect() as connection:
        states = [job_rows.get(connection, "blue", job.id).status for job in mine]
    assert sorted(states) == [JobStatus.QUEUED] * 2 + [JobStatus.RUNNING] * 2
