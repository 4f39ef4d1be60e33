"""The API's own log while callers with odd names and keys use it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import Engine

from tests.api_process import KEY, ApiProcess, running_api
from tests.conftest import ROOT

HOSTILE = "a\r\nX: y\x1b[31m\u202e\u2028\x7fz"


def lines(api: ApiProcess) -> list[dict[str, Any]]:
    """Each line of the log, which must be one JSON object in printable ASCII."""
    raw = (api.vault / "api.log").read_bytes()
    assert raw.endswith(b"\n")
    found = []
    for line in raw.decode("ascii").removesuffix("\n").split("\n"):
        assert line.isprintable(), line
        found.append(json.loads(line))
        assert {"time", "level", "logger", "message"} <= set(found[-1])
    return found


@pytest.fixture
def own_api(database: Engine, database_url: str, redis_url: str, tmp_path: Path) -> Any:
    with running_api(database_url, redis_url, tmp_path / "vault") as process:
        yield process


def test_every_line_is_one_object_without_a_control_character_or_a_secret(own_api: ApiProcess) -> None:
    secret = KEY.rpartition("_")[2]
    with own_api.client() as http:
        http.get("/v1/models/%0d%0aX:%20y%1b%5b31m%E2%80%AE", headers={"X-Request-Id": "my-id.1"})
        http.get(f"/v1/jobs/{KEY}", params={"after": KEY})
        http.post("/v1/models", json={"name": HOSTILE, "files": {HOSTILE: "not an id"}})
        http.put("/v1/uploads/%0a%1b", content=b"x")
        http.put("/v1/uploads/fine", content=b"x", headers={"User-Agent": "x\x1b", "Referer": KEY})
        http.get("/v1/models", headers={"Authorization": f"Bearer {KEY}x"})
        http.get("/v1/models", headers={"Authorization": "Basic aHVudGVyMjpodW50ZXIy"})
    own_api.stop()
    found = lines(own_api)
    text = own_api.log()
    assert secret not in text
    assert "aHVudGVy" not in text
    requests = [line for line in found if line["logger"] == "app.api.request_log"]
    assert [line["status"] for line in requests if line["path"] == "/v1/uploads/fine"] == [201]
    first = next(line for line in requests if line["request_id"] == "my-id.1")
    assert first["path"] == "/v1/models/\r\nX: y\x1b[31m\u202e"
    assert (first["method"], first["status"], first["actor"]) == ("GET", 404, "key:operator")
    assert {line["status"] for line in requests} >= {201, 401, 404, 422}
    assert any(line["message"].startswith("Started server") for line in found)


@pytest.mark.parametrize("sent", ["", "a b", "x" * 65, "a\x1bb", "ä", "a,b"])
def test_a_request_id_that_is_no_plain_word_is_replaced(http: httpx2.Client, sent: str) -> None:
    made = http.get("/livez", headers={"X-Request-Id": sent.encode("latin-1")}).headers.get_list("x-request-id")
    assert len(made) == 1
    assert re.fullmatch(r"[0-9a-f]{32}", made[0])


def test_a_request_id_comes_back_on_every_answer(http: httpx2.Client) -> None:
    for address in ("/livez", "/v1/models", "/v1/nothing", "/nowhere"):
        assert http.get(address, headers={"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"


def test_the_servers_are_started_without_another_access_log() -> None:
    assert "access_log=False" in (ROOT / "app/server.py").read_text()
    for file in ("Dockerfile", "app/standalone.py"):
        assert "--quiet" in (ROOT / file).read_text()
