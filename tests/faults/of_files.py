"""One flipped bit in each kind of stored file: found when it is read, never served, never loaded."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path

import httpx2

from app.store.vault import Vault
from client.errors import ApiError
from tests.api_process import KEY
from tests.faults.invariants import broken
from tests.faults.ledger import Customer
from tests.faults.of_workers import ENOUGH, _step, open_site
from tests.faults.outcome import Outcome
from tests.faults.site import Site
from tests.service import until

DAMAGED = "corrupt-object"
MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json")


def flipped_bits(tries: int, times: dict[str, str], seed: int = 0) -> Outcome:
    """10: an upload, the admitted files, both sets of samples, a delivered file, a resume point."""
    outcome, draw = Outcome("10 flipped bit"), random.Random(seed)
    with open_site(times, LETHE_WORKER_SLOTS="1") as (place, who, one):
        done = who.end(who.order(20)).id
        for _ in range(tries):
            for sha256 in _inputs(place, who):
                with outcome.one(), _flipped(place, sha256, draw):
                    assert _refused(who) == DAMAGED
            for path, sha256 in _delivered(place, done):
                with outcome.one(), _flipped(place, sha256, draw):
                    _is_not_served(place, done, path)
            with outcome.one():
                _upload_is_not_admitted(place, who, draw)
            with outcome.one():
                _point_is_passed_over(place, who, one, draw)
        outcome.lost += broken(place, who.ledger)
    return outcome


def _refused(who: Customer) -> str | None:
    """The code with which a job is refused at once (samples are read at the order), or fails."""
    try:
        ended = who.end(who.order(20))
    except ApiError as error:
        return error.code
    return ended.failure[0] if ended.failure and ended.status == "failed" else None


def _inputs(place: Site, who: Customer) -> list[str]:
    """Of the admitted model and the samples: each is read at the start of a job."""
    files = place.sql(
        "SELECT f ->> 'sha256' FROM models, jsonb_array_elements(manifest -> 'files') f WHERE id = %s"
        " AND f ->> 'path' = ANY(%s) UNION SELECT sha256 FROM samples", who.model, list(MODEL_FILES),
    )  # fmt: skip
    return sorted(str(row[0]) for row in files)


def _delivered(place: Site, job_id: str) -> list[tuple[str, str]]:
    """Those that no input shares its bytes with."""
    rows = place.sql(
        "SELECT f ->> 'path', f ->> 'sha256' FROM jobs, jsonb_array_elements(artifact -> 'files') f WHERE id = %s",
        job_id,
    )
    return [(str(path), str(sha256)) for path, sha256 in rows]


@contextlib.contextmanager
def _flipped(place: Site, sha256: str, draw: random.Random) -> Iterator[None]:
    """One bit of the object is another as long as the context lasts."""
    file = Vault(place.vault).path(sha256)
    good = file.read_bytes()
    _flip(file, draw)
    try:
        yield
    finally:
        file.write_bytes(good)
        file.chmod(0o444)


def _flip(file: Path, draw: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.chmod(0o600)
    file.write_bytes(content)


def _is_not_served(place: Site, job_id: str, path: str) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    for more in ({}, {"Range": "bytes=0-3"}):
        answer = httpx2.get(
            f"{place.api.url}/v1/jobs/{job_id}/artifacts/{path}", headers={**headers, **more}, timeout=30
        )
        assert answer.status_code >= 500, (path, more, answer.status_code)
    with contextlib.suppress(httpx2.TransportError):
        whole = httpx2.get(f"{place.api.url}/v1/jobs/{job_id}/artifacts?format=tar", headers=headers, timeout=30)
        assert whole.status_code >= 500, whole.status_code


def _upload_is_not_admitted(place: Site, who: Customer, draw: random.Random) -> None:
    uploads = {}
    for file in sorted((who.folder / "model").iterdir()):
        fresh = file.read_bytes()
        if file.name == "config.json":
            fresh = fresh.rstrip() + b" " * draw.randrange(1, 1000)  # other bytes than any that was admitted
        with httpx2.Client(base_url=place.api.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=30) as http:
            answer = http.put(f"/v1/uploads/{file.name}", content=fresh).json()
        uploads[file.name] = answer["id"]
        if file.name == "config.json":
            damaged = Vault(place.vault).path(answer["sha256"])
    good = damaged.read_bytes()
    _flip(damaged, draw)
    model = who.lethe.add_model(uploads, "damaged").id
    who.ledger.models.append(model)
    until(lambda: place.sql("SELECT attempts > 0 AND lease_until IS NOT NULL FROM models WHERE id = %s", model)[0][0])
    assert who.lethe.model(model).status != "admitted"
    damaged.write_bytes(good)
    assert who.lethe.wait_for_model(model).status in ("admitted", "rejected")


def _point_is_passed_over(place: Site, who: Customer, one: object, draw: random.Random) -> None:
    job_id = who.order(600)
    _step(place, job_id, ENOUGH)
    points = "SELECT f ->> 'sha256' FROM resume_points, jsonb_array_elements(manifest -> 'files') f WHERE job_id = %s"
    until(lambda: place.sql(points, job_id), 120)
    for child in one.children():  # type: ignore[attr-defined]
        child.kill()
    for (sha256,) in place.sql(points, job_id):
        with contextlib.suppress(FileNotFoundError):
            _flip(Vault(place.vault).path(str(sha256)), draw)
    assert who.end(job_id).status == "succeeded"
