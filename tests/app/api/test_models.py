"""The model routes against the real API process: what goes in, and every way in which it can be wrong."""

from __future__ import annotations

import itertools
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
from sqlalchemy import Engine

from app.domain.identity import DEFAULT_TENANT
from app.domain.ids import new_id
from app.domain.manifest import FileEntry, Manifest
from app.domain.model import ModelFacts
from app.store import model_rows, upload_rows
from tests.job_rows_at_hand import add_job

DAY = 24 * 3600.0
_count = itertools.count()


@pytest.fixture
def upload(database: Engine) -> UUID:
    """A finished upload."""
    with database.begin() as connection:
        found = upload_rows.create(connection, DEFAULT_TENANT, new_id(), name="config.json", length=3, ttl=DAY)
        upload_rows.finish(connection, found.id, "a" * 64, DAY)
    return found.id


def new_model(http: httpx2.Client, upload: UUID, **more: Any) -> dict[str, Any]:
    answer = http.post("/v1/models", json={"name": "mine", "files": {"config.json": str(upload)}} | more)
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()
    return found


def admit(database: Engine, model_id: str) -> str:
    manifest = Manifest.of([FileEntry("config.json", next(_count) + 5, "b" * 64)])
    with database.begin() as connection:
        claimed = model_rows.claim(connection, UUID(model_id), 60, 3)
        assert claimed is not None
        facts = ModelFacts("bert", "BertForSequenceClassification", ("no", "yes"), 34)
        model_rows.finish_admitted(connection, claimed, manifest, facts, ())
    return manifest.digest


def test_a_model_waits_for_its_inspection(http: httpx2.Client, upload: UUID) -> None:
    answer = http.post("/v1/models", json={"name": "mine", "archive": str(upload), "metadata": {"team": "red"}})
    assert answer.status_code == 202
    made = answer.json()
    assert answer.headers["location"] == f"/v1/models/{made['id']}"
    assert int(answer.headers["retry-after"]) > 0
    assert (made["status"], made["done"], made["findings"], made["manifest"]) == ("inspecting", False, [], None)
    assert made["source"]["files"] == [{"path": "archive", "size": 3, "sha256": "a" * 64}]
    shown = http.get(answer.headers["location"])
    assert shown.json() == made
    assert "retry-after" in shown.headers


def test_an_admitted_model_is_found_by_its_digest(http: httpx2.Client, upload: UUID, database: Engine) -> None:
    model_id = new_model(http, upload)["id"]
    digest = admit(database, model_id)
    shown = http.get(f"/v1/models/{model_id}").json()
    assert (shown["status"], shown["done"], shown["digest"]) == ("admitted", True, digest)
    assert shown["facts"]["labels"] == ["no", "yes"]
    assert http.get(f"/v1/models/by-digest/{digest}").json() == shown
    assert http.get(f"/v1/models/by-digest/{'0' * 64}").status_code == 404
    assert http.get("/v1/models/by-digest/nothex").status_code == 422


def test_pages_go_from_new_to_old_without_a_gap(http: httpx2.Client, upload: UUID) -> None:
    made = [new_model(http, upload)["id"] for _ in range(5)]
    seen: list[str] = []
    link = "/v1/models?limit=2"
    while link:
        answer = http.get(link)
        seen += [model["id"] for model in answer.json()["data"]]
        assert answer.json()["has_more"] == ("link" in answer.headers)
        link = answer.headers["link"].split(">")[0][1:] if "link" in answer.headers else ""
    assert seen == made[::-1]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": "x"},
        {"name": "", "archive": str(uuid4())},
        {"name": "x", "files": {}},
        {"name": "x", "files": {"config.json": "7"}},
        {"name": "x", "files": {"": str(uuid4())}},
        {"name": "x", "files": {"a\0": str(uuid4())}},
        {"name": "x\0", "archive": str(uuid4())},
        {"name": "x", "files": {"a": str(uuid4())}, "archive": str(uuid4())},
        {"name": "x", "archive": str(uuid4()), "extra": 1},
        {"name": "x", "archive": str(uuid4()), "metadata": {"k": 1}},
    ],
)
def test_a_request_that_does_not_fit_is_a_problem(http: httpx2.Client, body: Any) -> None:
    answer = http.post("/v1/models", json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_list_is_no_request(http: httpx2.Client) -> None:
    assert http.post("/v1/models", json=[]).status_code == 400


def test_uploads_must_be_there_and_finished(http: httpx2.Client, database: Engine) -> None:
    with database.begin() as connection:
        begun = upload_rows.create(connection, DEFAULT_TENANT, new_id(), name="config.json", length=3, ttl=DAY)
        expired = upload_rows.create(connection, DEFAULT_TENANT, new_id(), name="config.json", length=3, ttl=-1)
    for upload_id, status in ((uuid4(), 404), (begun.id, 409), (expired.id, 410)):
        answer = http.post("/v1/models", json={"name": "x", "files": {"config.json": str(upload_id)}})
        assert (answer.status_code, str(upload_id) in answer.json()["detail"]) == (status, True)
    assert http.get("/v1/models").json()["data"] == []


def test_too_many_bytes_are_refused(http: httpx2.Client, database: Engine) -> None:
    with database.begin() as connection:
        found = upload_rows.create(
            connection, DEFAULT_TENANT, new_id(), name="model.safetensors", length=1 << 50, ttl=DAY
        )
        upload_rows.finish(connection, found.id, "a" * 64, DAY)
    assert http.post("/v1/models", json={"name": "x", "archive": str(found.id)}).status_code == 413


def test_a_model_is_deleted_unless_a_job_names_it(http: httpx2.Client, upload: UUID, database: Engine) -> None:
    free = new_model(http, upload)["id"]
    assert http.delete(f"/v1/models/{free}").status_code == 204
    assert http.get(f"/v1/models/{free}").status_code == 404
    assert http.delete(f"/v1/models/{free}").status_code == 404
    with database.begin() as connection:
        job = add_job(connection)
    kept = http.delete(f"/v1/models/{job.order.model_id}")
    assert (kept.status_code, kept.json()["code"]) == (409, "conflict")
    assert http.get(f"/v1/models/{job.order.model_id}").status_code == 200


@pytest.mark.parametrize(
    "model_id", ["x", "0", "1EB64357-B75C-40DE-BF04-09684BC6624F", "8e16b698-b8ce-4856-b0ed-dfbef43fe3f5"]
)
def test_an_unknown_model_is_a_404(http: httpx2.Client, model_id: str) -> None:
    for answer in (http.get(f"/v1/models/{model_id}"), http.delete(f"/v1/models/{model_id}")):
        assert answer.status_code == 404


def test_nothing_is_answered_without_the_key(http: httpx2.Client) -> None:
    for method, path in (("GET", "/v1/models"), ("POST", "/v1/models"), ("DELETE", f"/v1/models/{uuid4()}")):
        assert http.request(method, path, headers={"Authorization": ""}).status_code == 401
