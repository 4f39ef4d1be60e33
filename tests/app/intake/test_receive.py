"""What a crash between the last steps of an upload leaves, and what becomes of it."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from app.domain.errors import BodyInterrupted, NotFound
from app.domain.identity import DEFAULT_TENANT, Caller
from app.domain.quota import Quota
from app.domain.upload import Checksum, Upload
from app.intake.receive import Receiver
from app.store.vault import Vault

CALLER = Caller(DEFAULT_TENANT, "key:test", frozenset())
DATA = os.urandom(5000)
SHA256 = hashlib.sha256(DATA).hexdigest()


QUOTA = Quota(1_000_000, 100, 100, 0)


@pytest.fixture
def receiver(database: Engine, tmp_path: Path) -> Receiver:
    return Receiver(database, Vault(tmp_path / "vault"), ttl=60, max_bytes=10_000, quota=QUOTA)


def again(receiver: Receiver) -> Receiver:
    """The receiver of a new process."""
    return Receiver(receiver.database, receiver.vault, receiver.ttl, receiver.max_bytes, QUOTA)


async def body(*chunks: bytes, cut: bool = False) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
    if cut:
        raise BodyInterrupted("cut")


def append(receiver: Receiver, upload: Upload, at: int, data: bytes) -> Upload:
    return asyncio.run(receiver.append(CALLER, upload.id, at, body(data)))


def test_a_crash_after_the_vault_took_the_file_is_completed_by_the_next_look(receiver: Receiver) -> None:
    upload = append(receiver, receiver.create(CALLER, "a", len(DATA)), 0, DATA[:1000])
    with receiver.place(upload.id).open("ab") as file:
        file.write(DATA[1000:])
    receiver.vault.share(receiver.place(upload.id), SHA256)
    found = again(receiver).find(CALLER, upload.id)
    assert (found.received, found.sha256) == (len(DATA), SHA256)
    assert not receiver.place(upload.id).exists()
    assert receiver.vault.has(SHA256)


def test_a_crash_before_the_first_name_went_is_tidied(receiver: Receiver) -> None:
    upload = append(receiver, receiver.create(CALLER, "a", len(DATA)), 0, DATA)
    receiver.place(upload.id).write_bytes(b"left over")
    assert append(again(receiver), upload, len(DATA), b"").finished
    assert not receiver.place(upload.id).exists()


def test_a_new_process_goes_on_where_the_old_one_stopped(receiver: Receiver) -> None:
    upload = append(receiver, receiver.create(CALLER, "a", len(DATA)), 0, DATA[:1000])
    assert append(again(receiver), upload, 1000, DATA[1000:]).sha256 == SHA256


def test_the_hash_is_right_when_two_processes_take_turns(receiver: Receiver) -> None:
    other = again(receiver)
    upload = receiver.create(CALLER, "a", len(DATA))
    for at, process in zip(range(0, 5000, 1000), (receiver, other, receiver, other, receiver), strict=True):
        upload = append(process, upload, at, DATA[at : at + 1000])
    assert upload.sha256 == SHA256


@pytest.mark.parametrize("left", [0, 400, None])
def test_bytes_lost_from_the_disk_are_asked_for_again(receiver: Receiver, left: int | None) -> None:
    upload = append(receiver, receiver.create(CALLER, "a", len(DATA)), 0, DATA[:1000])
    if left is None:
        receiver.place(upload.id).unlink()
    else:
        os.truncate(receiver.place(upload.id), left)
    at = receiver.find(CALLER, upload.id).received
    assert at == (left or 0)
    assert append(receiver, upload, at, DATA[at:]).sha256 == SHA256


def test_bytes_beyond_the_acknowledged_are_void(receiver: Receiver) -> None:
    upload = append(receiver, receiver.create(CALLER, "a", len(DATA)), 0, DATA[:1000])
    with receiver.place(upload.id).open("ab") as file:
        file.write(b"x" * 9000)
    assert receiver.find(CALLER, upload.id).received == 1000
    assert append(receiver, upload, 1000, DATA[1000:]).sha256 == SHA256
    with receiver.vault.open_verified(SHA256) as stored:
        assert stored.read() == DATA


def test_with_a_checksum_a_cut_body_counts_for_nothing(receiver: Receiver) -> None:
    upload = receiver.create(CALLER, "a", len(DATA))
    checksum = Checksum("sha256", hashlib.sha256(DATA).digest())
    with pytest.raises(BodyInterrupted):
        asyncio.run(receiver.append(CALLER, upload.id, 0, body(DATA[:1000], cut=True), checksum))
    assert receiver.find(CALLER, upload.id).received == 0


def test_a_cut_after_the_last_byte_still_finishes(receiver: Receiver) -> None:
    upload = receiver.create(CALLER, "a", len(DATA))
    with pytest.raises(BodyInterrupted):
        asyncio.run(receiver.append(CALLER, upload.id, 0, body(DATA, cut=True)))
    assert receiver.find(CALLER, upload.id).sha256 == SHA256


def test_an_upload_deleted_under_a_writer_stays_deleted(receiver: Receiver) -> None:
    upload = receiver.create(CALLER, "a", len(DATA))
    receiver.discard(CALLER, upload.id)
    with pytest.raises(NotFound):
        append(receiver, upload, 0, DATA)
    assert list(receiver.vault.incoming.iterdir()) == []
