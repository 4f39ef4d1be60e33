"""The life of a key over real HTTP: shown once, used, rotated with an overlap, revoked, expired."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx2
import pytest
from sqlalchemy import Engine, func, select, update

from app.domain.identity import Scope
from app.domain.ids import new_id
from app.store.tables import api_keys as t
from tests.api_process import NO_TLS, PEPPER, ApiProcess, running_api
from tests.service import until

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture(scope="module")
def second(api: ApiProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiProcess]:
    """Another API process over the same database."""
    with running_api(api.database_url, api.redis_url, tmp_path_factory.mktemp("second")) as process:
        yield process


def make(http: httpx2.Client, **changes: Any) -> dict[str, Any]:
    answer = http.post("/v1/keys", json={"name": "ci", "scopes": ["jobs:read"]} | changes)
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    found: dict[str, Any] = answer.json()
    return found


def status(api: ApiProcess, key: str, path: str = "/v1/jobs") -> int:
    return httpx2.get(f"{api.url}{path}", headers={"Authorization": f"Bearer {key}"}, verify=NO_TLS).status_code


def test_a_key_is_shown_once_and_kept_as_a_digest(http: httpx2.Client, api: ApiProcess, database: Engine) -> None:
    made = make(http, scopes=["jobs:read", "models:write"], days=7)
    assert status(api, made["key"]) == 200
    facts = made["facts"]
    assert (facts["tenant"], facts["scopes"]) == ("default", ["jobs:read", "models:write"])
    assert facts["created_at"] < facts["expires_at"]
    keyid, secret = made["key"].removeprefix("lethe_").split("_")
    assert UUID(keyid) == UUID(facts["id"])
    listed = http.get("/v1/keys")
    (known,) = listed.json()["data"]
    assert known | {"last_used_at": None} == facts
    with database.connect() as connection:
        rows = str(connection.execute(select(t)).mappings().all())
    for text in (listed.text, rows, api.log()):
        assert secret not in text
        assert PEPPER not in text


def test_a_key_does_what_its_scopes_say(http: httpx2.Client, api: ApiProcess) -> None:
    key = make(http)["key"]
    assert [status(api, key, path) for path in ("/v1/jobs", "/v1/models", "/v1/keys")] == [200, 200, 403]


def test_a_new_key_is_good_at_once_and_a_revoked_one_is_void_at_once(http: httpx2.Client, api: ApiProcess) -> None:
    made = make(http)
    assert status(api, made["key"]) == 200
    for _ in range(2):
        assert http.delete(f"/v1/keys/{made['facts']['id']}").status_code == 204
    assert status(api, made["key"]) == 401
    (listed,) = http.get("/v1/keys").json()["data"]
    assert listed["revoked_at"]


def test_a_revoked_key_is_void_in_other_processes_soon(
    http: httpx2.Client, api: ApiProcess, second: ApiProcess
) -> None:
    made = make(http)
    assert status(second, made["key"]) == 200
    http.delete(f"/v1/keys/{made['facts']['id']}")
    until(lambda: status(second, made["key"]) == 401, seconds=30)
    assert status(api, made["key"]) == 401


def test_a_rotated_key_and_the_new_one_overlap(http: httpx2.Client, api: ApiProcess) -> None:
    old = make(http, days=30)
    answer = http.post(f"/v1/keys/{old['facts']['id']}/rotate", json={"overlap_hours": 1})
    new = answer.json()
    assert (answer.status_code, answer.headers["cache-control"]) == (201, "no-store")
    assert [status(api, each["key"]) for each in (old, new)] == [200, 200]
    assert [new["facts"][name] for name in ("name", "scopes")] == [old["facts"][name] for name in ("name", "scopes")]
    ending = {key["id"]: key for key in http.get("/v1/keys").json()["data"]}[old["facts"]["id"]]
    assert ending["replaced_by"] == new["facts"]["id"]
    assert ending["expires_at"] < old["facts"]["expires_at"] < new["facts"]["expires_at"]
    again = http.post(f"/v1/keys/{old['facts']['id']}/rotate")
    assert (again.status_code, new["facts"]["id"] in again.json()["detail"]) == (409, True)


def test_an_overlap_of_nothing_ends_the_old_key_at_once(http: httpx2.Client, api: ApiProcess) -> None:
    old = make(http, days=None)
    assert (old["facts"]["expires_at"], status(api, old["key"])) == (None, 200)
    new = http.post(f"/v1/keys/{old['facts']['id']}/rotate", json={"overlap_hours": 0}).json()
    assert [status(api, each["key"]) for each in (old, new)] == [401, 200]
    assert new["facts"]["expires_at"] is None


def test_an_overlap_never_lengthens_a_key(http: httpx2.Client, database: Engine) -> None:
    old = make(http, days=1)
    assert http.post(f"/v1/keys/{old['facts']['id']}/rotate", json={"overlap_hours": 720}).status_code == 201
    ending = {key["id"]: key for key in http.get("/v1/keys").json()["data"]}[old["facts"]["id"]]
    assert ending["expires_at"] == old["facts"]["expires_at"]


@pytest.mark.parametrize("column", ["revoked_at", "expires_at"])
def test_a_void_key_opens_nothing_and_cannot_be_rotated(
    http: httpx2.Client, api: ApiProcess, database: Engine, column: str
) -> None:
    made = make(http)
    with database.begin() as connection:
        connection.execute(update(t).values({column: func.clock_timestamp()}))
    assert status(api, made["key"]) == 401
    assert http.post(f"/v1/keys/{made['facts']['id']}/rotate").status_code == 409


def test_the_last_use_is_told_of_who_has_the_secret(http: httpx2.Client, api: ApiProcess) -> None:
    made = make(http)
    forged = made["key"][:-4] + ("0000" if made["key"][-4:] != "0000" else "1111")
    assert status(api, forged) == 401
    assert http.get("/v1/keys").json()["data"][0]["last_used_at"] is None
    assert status(api, made["key"]) == 200
    first = http.get("/v1/keys").json()["data"][0]["last_used_at"]
    assert first
    assert status(api, made["key"]) == 200
    assert http.get("/v1/keys").json()["data"][0]["last_used_at"] == first, "once a minute"


def test_keys_come_in_pages(http: httpx2.Client) -> None:
    made = [make(http, name=str(n))["facts"]["id"] for n in range(5)]
    seen: list[str] = []
    link = "/v1/keys?limit=2"
    while link:
        answer = http.get(link)
        seen += [key["id"] for key in answer.json()["data"]]
        link = answer.headers["link"].split(">")[0][1:] if "link" in answer.headers else ""
    assert seen == made[::-1]


@pytest.mark.parametrize(
    "changes",
    [
        {"scopes": []},
        {"scopes": ["root"]},
        {"name": ""},
        {"name": "a\nb"},
        {"name": "x" * 101},
        {"days": 0},
        {"days": 4000},
        {"tenant": "theirs"},
        {"id": str(new_id())},
    ],
)
def test_a_key_that_cannot_be_is_refused(http: httpx2.Client, changes: dict[str, Any]) -> None:
    answer = http.post("/v1/keys", json={"name": "ci", "scopes": [Scope.JOBS_READ]} | changes)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-request")


def test_without_a_pepper_the_operators_key_alone_is_good(
    api: ApiProcess, tmp_path: Path, http: httpx2.Client
) -> None:
    made = make(http)
    with running_api(api.database_url, api.redis_url, tmp_path, LETHE_KEY_PEPPER="") as bare, bare.client() as client:
        assert client.get("/v1/jobs").status_code == 200
        assert status(bare, made["key"]) == 401
        refused = client.post("/v1/keys", json={"name": "ci", "scopes": ["jobs:read"]})
        assert (refused.status_code, "LETHE_KEY_PEPPER" in refused.json()["detail"]) == (503, True)


def test_another_pepper_makes_every_key_void(api: ApiProcess, tmp_path: Path, http: httpx2.Client) -> None:
    made = make(http)
    with running_api(api.database_url, api.redis_url, tmp_path, LETHE_KEY_PEPPER="another pepper" * 4) as other:
        assert status(other, made["key"]) == 401


def test_a_word_is_no_number_and_a_scope_named_twice_counts_once(http: httpx2.Client) -> None:
    made = make(http, scopes=["jobs:read", "jobs:read"])
    assert made["facts"]["scopes"] == ["jobs:read"]
    assert http.post("/v1/keys", json={"name": "ci", "scopes": ["jobs:read"], "days": True}).status_code == 422
    rotated = http.post(f"/v1/keys/{made['facts']['id']}/rotate", json={"overlap_hours": False})
    assert rotated.status_code == 422
