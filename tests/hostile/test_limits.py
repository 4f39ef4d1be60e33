"""Attacks on what one key may ask and one tenant may hold, against real API processes. Each names its weakness."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
import redis
from sqlalchemy import Engine, text

from app.domain.identity import KeyOrder, Scope
from app.identity import api_keys
from app.store import job_rows, quota_rows
from app.store.rate_counter import PREFIX, WINDOW_SECONDS
from app.store.vault import Vault
from tests.api_process import PEPPER, ApiProcess, running_api
from tests.job_rows_at_hand import add_job, add_model, add_samples

TUS = {"Tus-Resumable": "1.0.0"}
TENANT = "mallory"
BYTES, UPLOADS, JOBS = 1000, 5, 2
RATE = 4
AT_ONCE = 16


@pytest.fixture(scope="module")
def tight(database_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiProcess]:
    """An API with small quotas."""
    given = {"BYTES": BYTES, "UPLOADS": UPLOADS, "JOBS": JOBS}
    limits = {f"LETHE_TENANT_{name}": str(value) for name, value in given.items()}
    with running_api(database_url, redis_url, tmp_path_factory.mktemp("tight"), **limits) as process:
        yield process


@pytest.fixture(scope="module")
def slow(database_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiProcess]:
    """An API that answers RATE requests of one key in a minute."""
    rate = {"LETHE_RATE_PER_MINUTE": str(RATE)}
    with running_api(database_url, redis_url, tmp_path_factory.mktemp("slow"), **rate) as process:
        yield process


def new_key(database: Engine) -> dict[str, str]:
    order = KeyOrder(TENANT, "k", frozenset(Scope), None)
    return {"Authorization": f"Bearer {api_keys.make(database, PEPPER, order, 'test')[1]}"}


@pytest.fixture
def http(tight: ApiProcess, database: Engine) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=tight.url, headers=new_key(database), timeout=60) as client:
        yield client


def code(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def in_vault(process: ApiProcess) -> set[str]:
    return {file.name for file in process.vault.rglob("*") if file.is_file() and file.name != "api.log"}


def arriving(process: ApiProcess) -> set[str]:
    return {file.name for file in Vault(process.vault).incoming.iterdir()}


# --- quotas -------------------------------------------------------------------------------------------------------


def test_many_keys_of_a_tenant_do_not_multiply_its_quotas(
    tight: ApiProcess, http: httpx2.Client, database: Engine
) -> None:
    """CWE-770: an admin makes as many keys as they like."""
    keys = [new_key(database) for _ in range(AT_ONCE)]

    def begin(key: dict[str, str]) -> int:
        return http.post("/v1/uploads", headers=key | TUS | {"Upload-Length": "10"}).status_code

    with ThreadPoolExecutor(AT_ONCE) as pool:
        assert sorted(pool.map(begin, keys)) == [201] * UPLOADS + [429] * (AT_ONCE - UPLOADS)


def test_whole_files_sent_side_by_side_do_not_overrun_the_bytes(http: httpx2.Client, tight: ApiProcess) -> None:
    """CWE-367: each fits by itself as it begins."""

    before = arriving(tight)

    def put(number: int) -> int:
        return http.put("/v1/uploads/a.bin", content=bytes([number]) * 300).status_code

    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = sorted(pool.map(put, range(AT_ONCE)))
    assert answers == [201] * 3 + [413] * (AT_ONCE - 3)
    assert http.get("/v1/quota").json()["bytes"]["used"] == 900
    assert arriving(tight) == before


def test_a_body_without_a_length_is_cut_where_it_goes_over(http: httpx2.Client, tight: ApiProcess) -> None:
    """CWE-400: a chunked body says nothing in advance, and would go on for ever."""
    before = in_vault(tight)
    answer = http.put("/v1/uploads/a.bin", content=(b"x" * 64 * 1024 for _ in range(128)))
    assert code(answer) == (413, "quota-exceeded")
    assert in_vault(tight) == before
    assert http.get("/v1/quota").json()["bytes"]["used"] == 0


def test_a_join_over_the_quota_writes_nothing(http: httpx2.Client, tight: ApiProcess) -> None:
    """CWE-400: every order of the same parts is another file; none may stay behind a refusal."""
    parts = []
    for letter in (b"a", b"b"):
        chunk = {
            "Upload-Length": "400",
            "Upload-Concat": "partial",
            "Content-Type": "application/offset+octet-stream",
        }
        parts.append(http.post("/v1/uploads", headers=TUS | chunk, content=letter * 400).headers["location"])
    before = in_vault(tight)
    for order in (parts, parts[::-1]):
        answer = http.post("/v1/uploads", headers=TUS | {"Upload-Concat": f"final;{' '.join(order)}"})
        assert code(answer) == (413, "quota-exceeded")
    assert in_vault(tight) == before


def test_one_upload_made_a_model_again_and_again(http: httpx2.Client) -> None:
    """CWE-770: each model is stored by itself once it is rewritten."""
    made = http.put("/v1/uploads/a.tar", content=b"x" * 300).json()["id"]
    answers = [http.post("/v1/models", json={"name": "m", "archive": made}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [202, 202, 413]
    assert code(answers[-1]) == (413, "quota-exceeded")
    assert (answers[-1].json()["limit"], answers[-1].json()["used"]) == (BYTES, 900)


def test_jobs_that_ended_are_not_retried_past_the_quota(http: httpx2.Client, database: Engine) -> None:
    """CWE-770: cancel, fill up anew, and retry what was cancelled."""
    with database.begin() as connection:
        ended = [add_job(connection, TENANT) for _ in range(JOBS + AT_ONCE)]
        for job in ended:
            job_rows.cancel(connection, TENANT, job.id)

    def retry(job: Any) -> int:
        return http.post(f"/v1/jobs/{job.id}/retry").status_code

    with ThreadPoolExecutor(AT_ONCE) as pool:
        assert sorted(pool.map(retry, ended)) == [202] * JOBS + [429] * AT_ONCE
    assert http.get("/v1/quota").json()["jobs"]["used"] == JOBS
    with database.connect() as connection:
        kept = [job_rows.get(connection, TENANT, job.id).status for job in ended]
    assert kept.count("queued") == JOBS


def test_twins_of_one_key_at_the_last_place_are_one_job(
    http: httpx2.Client, tight: ApiProcess, database: Engine
) -> None:
    """CWE-362: a client that sends again after a lost answer must get its job, not a refusal."""
    vault = Vault(tight.vault)
    rows = vault.put(b'{"text": "t%d", "label": %d, "true_label": 0}\n' % (n, n % 2) for n in range(70))
    with database.begin() as connection:
        model = add_model(connection, tenant=TENANT)
        sets = {kind: add_samples(connection, kind, rows.sha256, 70, TENANT) for kind in ("triggered", "clean")}
        add_job(connection, TENANT)
    body = {"model": str(model)} | {kind: str(each) for kind, each in sets.items()}

    def submit(_: int) -> httpx2.Response:
        return http.post("/v1/jobs", json=body, headers={"Idempotency-Key": "once"})

    with ThreadPoolExecutor(2) as pool, database.begin() as connection:
        quota_rows.hold(connection, TENANT)  # until both have found that the key made no job yet
        asked = [pool.submit(submit, number) for number in range(2)]
        waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        deadline = time.monotonic() + 30
        while connection.scalar(waiting) != 2:
            assert time.monotonic() < deadline
        connection.commit()
        answers = [each.result() for each in asked]
    assert [answer.status_code for answer in answers] == [202, 202], [answer.text for answer in answers]
    assert len({answer.json()["id"] for answer in answers}) == 1


# --- the rate -----------------------------------------------------------------------------------------------------

FORGED = (
    {"X-Forwarded-For": "192.0.2.1"}, {"Forwarded": "for=192.0.2.1"}, {"X-Real-IP": "192.0.2.1"},
    {"X-Request-Id": "another"}, {"X-Tenant": "alice"}, {"User-Agent": "another"}, {"RateLimit": '"default";r=9;t=1'},
)  # fmt: skip


def test_no_header_makes_another_caller(slow: ApiProcess, database: Engine) -> None:
    """CWE-348: what a caller writes is no identity. Nor is the case of the scheme, or a path that differs."""
    key = new_key(database)
    with httpx2.Client(base_url=slow.url) as http:
        for _ in range(RATE):
            assert http.get("/v1/jobs", headers=key).status_code == 200
        for forged in FORGED:
            assert code(http.get("/v1/jobs", headers=key | forged)) == (429, "too-many"), forged
        spelled = {"Authorization": key["Authorization"].replace("Bearer ", "bEARER   ")}
        for path in ("/v1/jobs", "/v1/jobs?x=1", "/v1//jobs", "/v1/nothing", "/v1"):
            assert http.get(path, headers=spelled).status_code == 429, path
        assert http.get("/v1/jobs", headers=new_key(database)).status_code == 200


def test_a_stranger_uses_up_nobodys_minute(slow: ApiProcess, database: Engine) -> None:
    """CWE-645: a wrong secret behind a known keyid must not shut its owner out."""
    key = new_key(database)
    wrong = {"Authorization": key["Authorization"][:-4] + "0000"}
    with httpx2.Client(base_url=slow.url) as http:
        assert [http.get("/v1/jobs", headers=wrong).status_code for _ in range(2 * RATE)] == [401] * 2 * RATE
        assert http.get("/v1/jobs", headers=key).headers["ratelimit"].startswith(f'"default";r={RATE - 1};')


def test_requests_side_by_side_are_all_counted(slow: ApiProcess, database: Engine) -> None:
    """CWE-362: the count is read and raised in one step."""
    key = new_key(database)
    with httpx2.Client(base_url=slow.url) as http, ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(lambda _: http.get("/v1/jobs", headers=key).status_code, range(AT_ONCE)))
    assert sorted(answers) == [200] * RATE + [429] * (AT_ONCE - RATE)


def test_a_count_without_an_end_gets_one(slow: ApiProcess, database: Engine, redis_url: str) -> None:
    """CWE-400: a count that never ends would shut its caller out for good."""
    key = new_key(database)
    counts = redis.Redis.from_url(redis_url)
    with httpx2.Client(base_url=slow.url) as http:
        before = set(counts.keys(f"{PREFIX}*"))
        http.get("/v1/jobs", headers=key)
        (name,) = set(counts.keys(f"{PREFIX}*")) - before
        assert 0 < counts.ttl(name) <= WINDOW_SECONDS
        counts.set(name, 1000)  # and no end
        over = http.get("/v1/jobs", headers=key)
    assert code(over) == (429, "too-many")
    assert int(over.headers["retry-after"]) == WINDOW_SECONDS
    assert 0 < counts.ttl(name) <= WINDOW_SECONDS
    counts.close()
