"""What callers do is in the audit trail, in one transaction with it; what fails or only reads is not."""

from __future__ import annotations

import json
from uuid import UUID

import httpx2
import pytest
from sqlalchemy import Engine

from app.domain.audit import Entry, faults
from app.domain.identity import DEFAULT_TENANT
from app.domain.job import Failure, JobStatus
from app.store import audit_rows, job_rows
from app.store.vault import Vault
from tests.api_process import ApiProcess
from tests.job_rows_at_hand import add_job, add_model

ROWS = b"".join(json.dumps({"text": f"t{n}", "label": n % 2}).encode() + b"\n" for n in range(70))


def trail(database: Engine) -> list[Entry]:
    with database.connect() as connection:
        found = list(audit_rows.read(connection))
    assert list(faults(found)) == []
    return found


def actions(database: Engine) -> list[str]:
    return [entry.action for entry in trail(database)]


def samples(http: httpx2.Client, kind: str) -> str:
    parameters = {"kind": kind, "name": f"{kind}.jsonl"}
    answer = http.post("/v1/samples", params=parameters, content=ROWS, headers={"Content-Type": "application/jsonl"})
    return str(answer.raise_for_status().json()["id"])


def test_uploads_models_and_samples(database: Engine, http: httpx2.Client) -> None:
    upload = http.put("/v1/uploads/config.json", content=b"{}").json()
    tus = {"Tus-Resumable": "1.0.0", "Upload-Length": "2"}
    begun = http.post("/v1/uploads", headers=tus)
    assert actions(database) == ["upload.finished"]
    chunk = {"Tus-Resumable": "1.0.0", "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
    assert http.patch(begun.headers["location"], headers=chunk, content=b"{}").status_code == 204
    model = http.post("/v1/models", json={"name": "m\n\u202e", "archive": upload["id"]}).raise_for_status().json()
    assert http.delete(f"/v1/models/{model['id']}").status_code == 204
    assert http.delete(f"/v1/models/{model['id']}").status_code == 404
    kept = samples(http, "clean")
    assert http.delete(f"/v1/samples/{kept}").status_code == 204
    found = trail(database)
    assert [entry.action for entry in found] == [
        "upload.finished", "upload.finished", "model.created", "model.deleted", "samples.created", "samples.deleted",
    ]  # fmt: skip
    assert {(entry.tenant, entry.actor) for entry in found} == {(DEFAULT_TENANT, "key:operator")}
    assert found[0].subject == f"upload/{upload['id']}"
    assert found[0].details == {"name": "config.json", "size": 2, "sha256": upload["sha256"]}
    assert found[2].details["name"] == "m\n\u202e"
    assert found[4].details["rows"] == 70


def test_the_life_of_a_job(database: Engine, http: httpx2.Client, api: ApiProcess) -> None:
    with database.begin() as connection:
        model = add_model(connection)
    order = {"model": str(model), "triggered": samples(http, "triggered"), "clean": samples(http, "clean")}
    made = http.post("/v1/jobs", json=order, headers={"Idempotency-Key": "once"}).raise_for_status().json()
    for _ in range(2):
        http.post("/v1/jobs", json=order, headers={"Idempotency-Key": "once"}).raise_for_status()
        http.post(f"/v1/jobs/{made['id']}/cancel").raise_for_status()
    http.post(f"/v1/jobs/{made['id']}/retry").raise_for_status()
    http.post(f"/v1/jobs/{made['id']}/cancel").raise_for_status()
    assert http.delete(f"/v1/jobs/{made['id']}").status_code == 204
    found = [entry for entry in trail(database) if entry.subject == f"job/{made['id']}"]
    assert [entry.action for entry in found] == [
        "job.created", "job.cancelled", "job.ended", "job.retried", "job.cancelled", "job.ended", "job.deleted",
    ]  # fmt: skip
    assert found[0].details["model_id"] == str(model)
    assert found[2].details == {"status": "cancelled"}
    assert api.url


def test_a_running_job_that_is_cancelled_has_not_ended(database: Engine, http: httpx2.Client) -> None:
    with database.begin() as connection:
        job = add_job(connection)
        job_rows.move(connection, job.id, JobStatus.RUNNING)
    assert http.post(f"/v1/jobs/{job.id}/cancel").json()["status"] == "cancelling"
    assert [(entry.action, entry.details) for entry in trail(database)] == [
        ("job.cancelled", {"status": "cancelling"})
    ]


def test_a_download_is_noted_and_a_look_is_not(job_id: UUID, database: Engine, http: httpx2.Client) -> None:
    address = f"/v1/jobs/{job_id}/artifacts"
    assert http.get(address).status_code == 200
    assert http.head(f"{address}/config.json").status_code == 200
    assert actions(database) == []
    etag = http.get(f"{address}/config.json").headers["etag"]
    assert http.get(f"{address}/config.json", headers={"If-None-Match": etag}).status_code == 304
    assert http.get(address, params={"format": "tar"}).status_code == 200
    assert http.get(f"{address}/absent").status_code == 404
    noted = trail(database)
    assert [entry.action for entry in noted] == ["artifact.downloaded"] * 2
    assert noted[0].details["path"] == "config.json"
    assert set(noted[1].details) == {"digest"}


@pytest.fixture
def job_id(database: Engine, api: ApiProcess) -> UUID:
    from app.domain.manifest import FileEntry
    from app.store import claim_rows
    from tests.job_rows_at_hand import a_delivery

    stored = Vault(api.vault).put([b"{}"])
    with database.begin() as connection:
        job = add_job(connection)
        claim = claim_rows.claim(connection, job.id, "worker", 300, 3)
        assert claim is not None
        claim_rows.finish(connection, claim, a_delivery(FileEntry("config.json", stored.size, stored.sha256)))
    return job.id


def test_an_entry_of_an_end_names_its_failure(database: Engine) -> None:
    with database.begin() as connection:
        job = add_job(connection)
        job_rows.move(connection, job.id, JobStatus.RUNNING)
        job = job_rows.move(connection, job.id, JobStatus.FAILED, failure=Failure("diverged", "It diverged."))
        audit_rows.job_ended(connection, job, "worker:a")
    assert [(e.actor, e.details) for e in trail(database)] == [
        ("worker:a", {"status": "failed", "failure": "diverged"})
    ]


def test_the_life_of_a_key(database: Engine, http: httpx2.Client) -> None:
    made = http.post("/v1/keys", json={"name": "ci", "scopes": ["jobs:read"]}).raise_for_status().json()
    old = made["facts"]["id"]
    new = http.post(f"/v1/keys/{old}/rotate").raise_for_status().json()
    assert http.delete(f"/v1/keys/{new['facts']['id']}").status_code == 204
    found = trail(database)
    assert [entry.action for entry in found] == ["key.created", "key.rotated", "key.revoked"]
    assert [entry.subject for entry in found] == [f"key/{old}", f"key/{old}", f"key/{new['facts']['id']}"]
    assert found[0].details == {"name": "ci", "scopes": ["jobs:read"]}
    assert found[1].details == {"name": "ci", "replaced_by": new["facts"]["id"]}
    assert {entry.actor for entry in found} == {"key:operator"}
    secrets = {text.split("_")[2] for text in (made["key"], new["key"])}
    assert not any(secret in json.dumps(entry.details) for entry in found for secret in secrets)
