"""Faults on the way of bytes to the disk: the API killed in the middle of an upload, and a disk that is full."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2

from client.errors import LetheError
from tests.api_process import KEY
from tests.faults.invariants import broken
from tests.faults.ledger import Customer, customer
from tests.faults.outcome import Outcome
from tests.faults.site import Site, site, small_disk
from tests.service import until

TUS = {"Authorization": f"Bearer {KEY}", "Tus-Resumable": "1.0.0"}
SIZE, CHUNK = 6_000_000, 500_000


def api_killed(tries: int, times: dict[str, str], seed: int = 0, build: str | None = None) -> Outcome:
    """6: kill -9 of the API in the middle of an upload: what HEAD says was received is on the disk, and the file is
    byte-exact in the end.
    """
    outcome, draw = Outcome("6 API killed mid-upload"), random.Random(seed)
    with site(times, build=build) as place:
        who = customer(place)
        for number in range(tries):
            content = draw.randbytes(SIZE)
            with outcome.one():
                upload_id = _created(place, len(content))
                killer = threading.Timer(draw.uniform(0.0, 0.15), place.api.kill)
                killer.start()
                acknowledged = _send_all(place, upload_id, content)
                killer.join()
                place.api.start()
                offset = _offset(place, upload_id)
                assert acknowledged <= offset, f"{acknowledged} bytes were acknowledged, {offset} are known"
                assert _on_disk(place, upload_id, content) >= offset, f"{offset} bytes are known, fewer are there"
                with outcome.timed():
                    assert _send_all(place, upload_id, content, offset) == len(content)
                who.ledger.uploads[upload_id] = hashlib.sha256(content).hexdigest()
            if number % 10 == 9:
                outcome.lost += broken(place, who.ledger)
        outcome.lost += broken(place, who.ledger)
    return outcome


def _created(place: Site, length: int) -> str:
    headers = {**TUS, "Upload-Length": str(length)}
    answer = httpx2.post(f"{place.api.url}/v1/uploads", headers=headers, timeout=30)
    assert answer.status_code == 201, answer.text
    return answer.headers["Location"].rsplit("/", 1)[1]


def _send_all(place: Site, upload_id: str, content: bytes, offset: int = 0) -> int:
    """Chunk by chunk, until the connection breaks or all is there. Returns the last offset that was acknowledged."""
    with contextlib.suppress(httpx2.TransportError), httpx2.Client(base_url=place.api.url, timeout=30) as http:
        while offset < len(content):
            headers = {**TUS, "Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream"}
            body = content[offset : offset + CHUNK]
            answer = http.patch(f"/v1/uploads/{upload_id}", headers=headers, content=body)
            if answer.status_code != 204:
                raise AssertionError(f"PATCH at {offset}: {answer.status_code} {answer.text[:200]}")
            offset = int(answer.headers["Upload-Offset"])
    return offset


def _offset(place: Site, upload_id: str) -> int:
    answer = httpx2.head(f"{place.api.url}/v1/uploads/{upload_id}", headers=TUS, timeout=30)
    return int(answer.headers["Upload-Offset"])


def _on_disk(place: Site, upload_id: str, content: bytes) -> int:
    """Bytes of the upload that are on the disk and right."""
    kept = place.vault / "incoming" / upload_id
    if not kept.exists():  # whole, and an object by now
        kept = place.vault / "objects" / hashlib.sha256(content).hexdigest()[:2] / hashlib.sha256(content).hexdigest()
    there = kept.read_bytes()
    if content.startswith(there):
        return len(there)
    return next(place for place, (one, other) in enumerate(zip(there, content, strict=False)) if one != other)


def disk_full(tries: int, times: dict[str, str]) -> Outcome:
    """7: the disk is full at an upload, at a resume point and at publishing: a 507, or a job that goes on or says why
    it failed; all goes on once there is room.
    """
    outcome = Outcome("7 disk full")
    with small_disk(64) as disk:
        if disk is None:
            outcome.skipped = "this user may not mount a file system of a bounded size: run it as root"
            return outcome
        with site(times, vault=disk / "vault") as place:
            place.worker(LETHE_WORKER_SLOTS="1")
            who = customer(place)
            (disk / "samples").mkdir()
            who.bring(disk / "samples")
            for _ in range(tries):
                for meet in (_full_at_upload, _full_in_the_middle, _full_at_the_end):
                    with outcome.one():
                        meet(place, who, disk)
            outcome.lost += broken(place, who.ledger)
    return outcome


@contextlib.contextmanager
def _full(disk: Path) -> Iterator[None]:
    """No byte is left on it as long as the context lasts."""
    filler = disk / "filler"
    with filler.open("wb") as out, contextlib.suppress(OSError):
        while True:
            out.write(b"\0" * 65536)
            out.flush()
    try:
        yield
    finally:
        filler.unlink()


def _full_at_upload(place: Site, who: Customer, disk: Path) -> None:
    content = os.urandom(SIZE)
    upload_id = _created(place, len(content))
    with _full(disk):
        headers = {**TUS, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
        answer = httpx2.patch(f"{place.api.url}/v1/uploads/{upload_id}", headers=headers, content=content, timeout=60)
        assert answer.status_code == 507, answer.status_code
    assert _send_all(place, upload_id, content, _offset(place, upload_id)) == len(content)
    who.ledger.uploads[upload_id] = hashlib.sha256(content).hexdigest()


def _full_in_the_middle(place: Site, who: Customer, disk: Path) -> None:
    """While the job takes its steps, and writes its resume points."""
    job_id = who.order(600)
    until(lambda: place.sql("SELECT max(step) >= 8 FROM job_events WHERE job_id = %s", job_id)[0][0])
    with _full(disk):
        step = (
            "SELECT max(step) >= 300 OR (SELECT status <> 'running' FROM jobs WHERE id = %s)"
            " FROM job_events WHERE job_id = %s"
        )
        until(lambda: place.sql(step, job_id, job_id)[0][0], 120)
    _ends_well_or_says_why(place, who, job_id)


def _full_at_the_end(place: Site, who: Customer, disk: Path) -> None:
    job_id = who.order(60)
    until(lambda: place.sql("SELECT max(step) >= 8 FROM job_events WHERE job_id = %s", job_id)[0][0])
    with _full(disk):
        until(lambda: who.look(job_id).done, 120)
    _ends_well_or_says_why(place, who, job_id)


def _ends_well_or_says_why(place: Site, who: Customer, job_id: str) -> None:
    done = who.end(job_id)
    if done.status == "succeeded":
        return
    assert done.status == "failed", done.status
    assert done.failure is not None
    assert done.failure[0] == "storage-full", done.failure
    answer = httpx2.post(f"{place.api.url}/v1/jobs/{job_id}/retry", headers=TUS, timeout=30)
    assert answer.status_code == 202, answer.text
    with contextlib.suppress(LetheError):
        assert who.end(job_id).status == "succeeded"
