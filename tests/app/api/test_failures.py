"""The one table from domain errors to HTTP."""

from __future__ import annotations

import inspect
import json

import httpx2
import pytest

from app.api.failures import STATUS, problem, status_of
from app.domain import errors

TREE = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.LetheError)]


def test_an_extension_never_takes_a_standard_members_place() -> None:
    answer = problem(409, "conflict", "It clashes.", members={"status": "queued", "code": "x", "size": 3})
    body = json.loads(bytes(answer.body))
    assert (body["status"], body["code"], body["size"]) == (409, "conflict", 3)
    assert answer.media_type == "application/problem+json"


@pytest.mark.parametrize("kind", [kind for kind in TREE if issubclass(kind, errors.CallerError)])
def test_a_callers_mistake_is_a_4xx(kind: type[errors.CallerError]) -> None:
    assert 400 <= status_of(kind("x")) < 500


@pytest.mark.parametrize("kind", [kind for kind in TREE if not issubclass(kind, errors.CallerError)])
def test_what_the_caller_cannot_mend_is_a_5xx(kind: type[errors.LetheError]) -> None:
    if kind is not errors.LetheError:
        assert 500 <= status_of(kind("x")) < 600


def test_codes_are_unique() -> None:
    codes = [kind.code for kind in TREE]
    assert len(set(codes)) == len(codes)
    assert set(STATUS) <= set(TREE)


ADDRESSES = {
    "/v1/jobs": "GET, POST",
    "/v1/jobs/x": "GET, DELETE",
    "/v1/uploads/x": "GET, HEAD, PUT, PATCH, DELETE, OPTIONS",
    "/livez": "GET",
}


@pytest.mark.parametrize("address", sorted(ADDRESSES))
def test_a_wrong_method_is_told_every_right_one(http: httpx2.Client, address: str) -> None:
    answer = http.request("BREW", address)
    assert (answer.status_code, answer.headers["allow"]) == (405, ADDRESSES[address])
    assert ADDRESSES[address] in answer.json()["detail"]


@pytest.mark.parametrize("address", ["/nothing", "/v1", "/v1/nothing", "/v1/jobs/"])
def test_an_address_without_anything_leads_nowhere(http: httpx2.Client, address: str) -> None:
    answer = http.get(address, headers={"Host": "elsewhere.example"})
    assert (answer.status_code, answer.json()["code"]) == (404, "not-found")
    assert "location" not in answer.headers
    assert "/openapi.json" in answer.json()["detail"]


@pytest.mark.parametrize("body", [b'{"a":', b"\xff", b"[" * 100_000, b"9" * 5000, b"nothing"])
def test_a_body_that_is_no_json(http: httpx2.Client, body: bytes) -> None:
    answer = http.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert "JSON" in answer.json()["detail"]


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
def test_a_body_of_another_type(http: httpx2.Client, kind: str) -> None:
    answer = http.post("/v1/jobs", content=b'{"model": "x"}', headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported-media-type")
    assert "application/json" in answer.json()["detail"]


def test_no_body_at_all(http: httpx2.Client) -> None:
    answer = http.post("/v1/jobs")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-request")
