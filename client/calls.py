"""Every call of the service, as steps: what is asked, and what the answer means. `client.api` and `client.async_api`
give them their two faces.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from client.answers import JobFacts, Key, Model, Samples, Upload
from client.downloads import FileProgress
from client.errors import ApiError
from client.places import Places
from client.steps import Call, Pause, Steps, ask
from client.uploads import send_file

WAIT_SECONDS = 30
LOOK_SECONDS = 0.2
REPORT_FORMS = ("json", "html", "sarif", "cyclonedx", "ocsf")
SAMPLE_TYPES = {".jsonl": "application/jsonl", ".csv": "text/csv", ".tsv": "text/tab-separated-values"}


# Models


def push(folder: Path, name: str | None, on_progress: FileProgress, places: Places | None) -> Steps[Model]:
    """A model of every file below `folder`: the one that was admitted of just these files before, or a new one."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    known = yield from model_by_digest(digest_of(files))
    if known is not None:
        return known
    uploads: dict[str, str] = {}
    for path, file in files.items():
        uploads[path] = yield from upload(file, path, on_progress, places)
    made = yield from add_model(uploads, name or folder.resolve().name)
    if places is not None:
        places.forget(uploads.values())
    return made


def digest_of(files: Mapping[str, Path]) -> str:
    """What the service calls the digest of a manifest: SHA-256 over the canonical JSON of path, size and SHA-256."""
    rows = []
    for path, file in sorted(files.items()):
        with file.open("rb") as source:
            digest = hashlib.file_digest(source, "sha256").hexdigest()
        rows.append({"path": path, "size": file.stat().st_size, "sha256": digest})
    return hashlib.sha256(json.dumps(rows, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def model_by_digest(digest: str) -> Steps[Model | None]:
    try:
        answer = yield from ask(Call("GET", f"/v1/models/by-digest/{digest}"))
    except ApiError as error:
        if error.status == 404:
            return None
        raise
    return Model.of(answer.json())


def upload(file: Path, name: str, on_progress: FileProgress, places: Places | None = None) -> Steps[str]:
    """The id of a finished upload, begun now or, where `places` knows it, in an earlier run."""
    key = places.key_of(file, name) if places is not None else ""
    return (
        yield from send_file(
            file,
            name,
            place=places.get(key) if places is not None else None,
            on_place=lambda place: places.keep(key, place) if places is not None else None,
            on_progress=lambda done, total: on_progress(name, done, total),
        )
    )


def put(file: Path, name: str) -> Steps[Upload]:
    content = file.read_bytes()
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    headers = {"Repr-Digest": f"sha-256=:{digest}:"}
    return Upload.of((yield from ask(Call("PUT", f"/v1/uploads/{name}", headers, content=content))).json())


def add_model(files: Mapping[str, str], name: str) -> Steps[Model]:
    return Model.of((yield from ask(Call("POST", "/v1/models", json={"name": name, "files": dict(files)}))).json())


def add_archive(upload_id: str, name: str) -> Steps[Model]:
    return Model.of((yield from ask(Call("POST", "/v1/models", json={"name": name, "archive": upload_id}))).json())


def model(model_id: str) -> Steps[Model]:
    return Model.of((yield from ask(Call("GET", f"/v1/models/{model_id}"))).json())


def wait_for_model(model_id: str, seconds: float) -> Steps[Model]:
    """Until it is admitted or rejected. Raises TimeoutError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := (yield from model(model_id))).done:
        if time.monotonic() > deadline:
            raise TimeoutError(f"model {model_id} is still being inspected after {seconds:.0f} s")
        yield Pause(LOOK_SECONDS)
    return found


# Samples


def add_samples(file: Path, kind: str, parameters: Mapping[str, str]) -> Steps[Samples]:
    headers = {"Content-Type": SAMPLE_TYPES.get(file.suffix, "application/jsonl")}
    query = {"kind": kind, "name": file.name, **parameters}
    answer = yield from ask(Call("POST", "/v1/samples", headers, query, content=file.read_bytes()))
    return Samples.of(answer.json())


# Jobs


def submit(order: Mapping[str, Any], idempotency_key: str | None) -> Steps[JobFacts]:
    """One job of that order (the body of POST /v1/jobs), however often the network makes us ask."""
    headers = {"Idempotency-Key": idempotency_key or str(uuid4())}
    return JobFacts.read((yield from ask(Call("POST", "/v1/jobs", headers, json=order), repeatable=True)))


def job(job_id: str) -> Steps[JobFacts]:
    return JobFacts.read((yield from ask(Call("GET", f"/v1/jobs/{job_id}"))))


def jobs(limit: int) -> Steps[list[Mapping[str, Any]]]:
    """The newest first, as the service tells them."""
    found: list[Mapping[str, Any]] = []
    more: dict[str, str] = {}
    while len(found) < limit:
        query = {"limit": str(min(100, limit - len(found))), **more}
        page = (yield from ask(Call("GET", "/v1/jobs", params=query))).json()
        found += page["data"]
        if not page["has_more"]:
            break
        more = {"after": found[-1]["id"]}
    return found


def wait(job_id: str, on_change: Callable[[JobFacts], None]) -> Steps[JobFacts]:
    """Until the job is done. `on_change` sees each version that was met on the way."""
    known = yield from job(job_id)
    on_change(known)
    while not known.done:
        headers = {"If-None-Match": known.etag, "Prefer": f"wait={WAIT_SECONDS}"}
        answer = yield from ask(Call("GET", f"/v1/jobs/{job_id}", headers))
        if answer.status_code != 304:
            known = JobFacts.read(answer)
            on_change(known)
    return known


def cancel(job_id: str) -> Steps[JobFacts]:
    return JobFacts.read((yield from ask(Call("POST", f"/v1/jobs/{job_id}/cancel"), repeatable=True)))


def retry(job_id: str) -> Steps[JobFacts]:
    return JobFacts.read((yield from ask(Call("POST", f"/v1/jobs/{job_id}/retry"))))


def delete(kind: str, row_id: str) -> Steps[None]:
    """`kind` is jobs, models, samples or keys."""
    yield from ask(Call("DELETE", f"/v1/{kind}/{row_id}"))


def report(job_id: str, form: str) -> Steps[bytes]:
    """The report in one of REPORT_FORMS, byte for byte as the service gives it."""
    answer = yield from ask(Call("GET", f"/v1/jobs/{job_id}/report.{form}"))
    return bytes(answer.content)


# The service


def workers() -> Steps[Mapping[str, Any]]:
    answer: Mapping[str, Any] = (yield from ask(Call("GET", "/v1/workers"))).json()
    return answer


def signing_key() -> Steps[str]:
    """The public key (PEM) that results are signed with."""
    return str((yield from ask(Call("GET", "/v1/signing-key"))).json()["pem"])


def make_key(name: str, scopes: Sequence[str], days: int | None) -> Steps[Key]:
    order = {"name": name, "scopes": list(scopes), "days": days}
    made = (yield from ask(Call("POST", "/v1/keys", json=order))).json()
    return Key.of({**made["facts"], "key": made["key"]})


def keys() -> Steps[list[Key]]:
    return [
        Key.of(each) for each in (yield from ask(Call("GET", "/v1/keys", params={"limit": "100"}))).json()["data"]
    ]
