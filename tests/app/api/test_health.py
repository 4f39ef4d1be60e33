"""The process says that it is alive without a key, and nothing else without one."""

from __future__ import annotations

import httpx2
import pytest
from sqlalchemy import Engine

from app.domain.confinement import Confinement
from app.domain.worker import Worker
from app.store import worker_rows
from tests.api_process import ApiProcess

POOR = Confinement(missing={"landlock": "not there"})


def say(database: Engine, name: str, found: Confinement) -> None:
    with database.begin() as connection:
        worker_rows.say(connection, Worker(name, "1", ("cpu",), 2, 0, False, ("cpu",), found))


@pytest.mark.usefixtures("database")
def test_alive_and_ready_without_a_key(api: ApiProcess) -> None:
    assert httpx2.get(f"{api.url}/livez").json() == {"status": "ok"}
    ready = httpx2.get(f"{api.url}/readyz").json()
    assert ready == {"status": "ok", "parts": {"database": True, "redis": True, "storage": True}}


def test_it_is_ready_while_some_worker_has_a_whole_sandbox(api: ApiProcess, database: Engine) -> None:
    say(database, "poor", POOR)
    refused = httpx2.get(f"{api.url}/readyz")
    assert refused.status_code == 503
    problem = refused.json()
    assert problem["code"] == "sandbox-unavailable"
    assert problem["parts"] == {"database": True, "redis": True, "storage": True, "sandbox": False}
    assert problem["sandboxes"] == [POOR.to_dict()]
    assert "LETHE_SANDBOX_WITHOUT=landlock" in problem["detail"]
    say(database, "whole", Confinement(("empty-network",)))
    ready = httpx2.get(f"{api.url}/readyz")
    assert ready.status_code == 200
    assert ready.json()["parts"]["sandbox"] is True
    assert POOR.to_dict() in ready.json()["sandboxes"]
    assert ready.json()["sandboxes"][-1]["without"] == ["empty-network"]
    assert "whole" not in ready.text, "no worker is named"


@pytest.mark.parametrize("key", [None, "Bearer wrong", "Basic abc", "Bearer"])
def test_nothing_else_is_answered_without_the_key(api: ApiProcess, key: str | None) -> None:
    answer = httpx2.get(f"{api.url}/v1/samples", headers={"Authorization": key} if key else {})
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "unauthenticated"
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_an_unknown_route_is_a_problem(http: httpx2.Client) -> None:
    answer = http.get("/v1/nothing-here")
    assert (answer.status_code, answer.json()["code"]) == (404, "not-found")
