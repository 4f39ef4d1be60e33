"""What holds for every answer: the headers for browsers, who may call from a page, and which Host is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.api.edge import HEADERS
from app.main import create_app
from app.settings import Settings
from tests.api_process import ApiProcess, running_api

ORIGIN = "https://console.example"


@pytest.mark.parametrize("address", ["/livez", "/version", "/openapi.json", "/v1/models", "/v1/nothing", "/nowhere"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_every_answer_carries_the_headers(http: httpx2.Client, address: str, method: str) -> None:
    answer = http.request(method, address)
    for name, value in HEADERS.items():
        assert answer.headers.get_list(name) == [value], name
    assert "strict-transport-security" not in answer.headers


def test_an_answer_keeps_what_it_says_itself(http: httpx2.Client) -> None:
    assert http.get("/v1/jobs").headers.get_list("cache-control") == ["private, no-cache"]


def ask(app: Any, path: str, scheme: str = "http") -> tuple[int, dict[str, str]]:
    """One request to the application without a server."""
    sent: list[Any] = []
    scope = {
        "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"",
        "scheme": scheme, "headers": [(b"host", b"x")], "http_version": "1.1", "root_path": "", "app": app,
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
    }  # fmt: skip

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    try:
        asyncio.run(app(scope, receive, send))
    except ZeroDivisionError:
        assert sent  # the framework answers first, and then lets the server log it
    return sent[0]["status"], {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}


def test_a_fault_of_ours_is_answered_with_the_headers_too() -> None:
    values = {
        "DATABASE_URL": "postgresql://x@127.0.0.1:1/x",
        "REDIS_URL": "redis://127.0.0.1:1",
        "api_key": "lethe_a_0123456789abcdef",
    }
    app = create_app(Settings.model_validate(values))
    app.add_api_route("/boom", lambda: 1 / 0)
    status, headers = ask(app, "/boom", "https")
    assert status == 500
    assert headers["content-type"] == "application/problem+json"
    assert {headers[name.lower()] for name in HEADERS} == set(HEADERS.values())
    assert len(headers["x-request-id"]) == 32
    assert headers["strict-transport-security"].startswith("max-age=")


def test_no_page_may_call_where_no_origin_is_named(http: httpx2.Client) -> None:
    preflight = {"Origin": ORIGIN, "Access-Control-Request-Method": "GET"}
    for answer in (http.get("/v1/jobs", headers={"Origin": ORIGIN}), http.options("/v1/jobs", headers=preflight)):
        assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


@pytest.fixture(scope="module")
def open_api(database_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiProcess]:
    settings = {
        "LETHE_CORS_ORIGINS": f"{ORIGIN}, http://localhost:3000",
        "LETHE_ALLOWED_HOSTS": "Lethe.example,[::1]",
    }
    with running_api(database_url, redis_url, Path(tmp_path_factory.mktemp("open")) / "vault", **settings) as process:
        yield process


def test_a_named_origin_may_call_and_another_may_not(open_api: ApiProcess) -> None:
    with open_api.client() as http:
        http.headers["Host"] = "lethe.example"
        mine = http.get("/v1/jobs", headers={"Origin": ORIGIN})
        assert mine.headers["access-control-allow-origin"] == ORIGIN
        exposed = mine.headers["access-control-expose-headers"].split(", ")
        assert {"Location", "RateLimit", "RateLimit-Policy"} <= set(exposed)
        other = http.get("/v1/jobs", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers
        asked = {"Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": "authorization"}
        del http.headers["Authorization"]  # a preflight never has it
        preflight = http.options("/v1/uploads/x", headers={"Origin": ORIGIN} | asked)
        assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, ORIGIN)
        refused = http.options("/v1/uploads/x", headers={"Origin": "https://evil.example"} | asked)
        assert refused.status_code == 400


@pytest.mark.parametrize(
    ("host", "status"),
    [("lethe.example", 200), ("LETHE.example:8420", 200), ("[::1]:8420", 200), ("evil.example", 400), ("", 400)],
)
def test_only_a_named_host_is_answered(open_api: ApiProcess, host: str, status: int) -> None:
    with open_api.client() as http:
        answer = http.get("/v1/jobs", headers={"Host": host})
        assert answer.status_code == status
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert http.get("/livez", headers={"Host": host}).status_code == 200


def test_what_is_written_into_host_is_in_no_answer(http: httpx2.Client) -> None:
    evil = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", "Forwarded": "host=evil.example"}
    tus = {"Tus-Resumable": "1.0.0", "Upload-Length": "5"}
    rows = b"".join(b'{"text": "t%d", "label": 1}\n' % number for number in range(3))
    answers = [
        http.post("/v1/uploads", headers=evil | tus),
        http.put("/v1/uploads/x", headers=evil, content=b"x"),
        http.post("/v1/samples?kind=clean", headers=evil | {"Content-Type": "application/jsonl"}, content=rows),
        http.get("/v1/samples?limit=1", headers=evil),
        http.get("/v1/models/x", headers=evil),
    ]
    assert [answer.status_code for answer in answers] == [201, 201, 201, 200, 404]
    assert answers[0].headers["location"].startswith("/v1/uploads/")
    for answer in answers:
        assert "evil" not in answer.text + str(answer.headers)


@pytest.mark.parametrize("wrong", ["*", "console.example", "https://a.example/path", "ftp://a"])
def test_an_origin_that_is_none_is_refused_at_start(wrong: str) -> None:
    with pytest.raises(ValueError, match="cors_origins"):
        Settings.model_validate({"DATABASE_URL": "postgresql://x", "REDIS_URL": "redis://x", "cors_origins": wrong})
