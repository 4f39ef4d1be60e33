"""Bytes from the network into the vault. Never looks at what they are: a worker's sandboxed child does that.

Guarantees, for any number of API processes over one vault and one database:

- The offset told to a caller never passes what is safely on disk: a crash costs a repeat at most.
- One request at a time writes to an upload: a lock on its file, which ends with its process.
- Memory stays flat whatever the size: bytes are hashed and written in batches as they come.
- An upload is finished when, and only when, the vault holds its bytes under the hash of what was received.

An unfinished upload lies in `incoming/<id>`; bytes there beyond the row's `received` are void. At the end the vault
takes the file under a second name, the row learns the hash, the first name goes; the next request ends the rest.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from io import FileIO
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy import Connection, Engine
from starlette.concurrency import run_in_threadpool

from app import measures
from app.domain.audit import Action
from app.domain.errors import BodyInterrupted, ChecksumMismatch, Forbidden, Locked, NotFound, OffsetMismatch, TooLarge
from app.domain.identity import Caller
from app.domain.ids import new_id
from app.domain.quota import Quota, Usage
from app.domain.upload import Checksum, Upload
from app.intake import to_disk
from app.store import audit_rows, quota_rows, upload_rows
from app.store.vault import Vault, hash_file, sync

# Bytes are handed to the disk in batches of this size and acknowledged in steps of CHECKPOINT.
BATCH = 1024 * 1024
CHECKPOINT = 32 * 1024 * 1024
REMEMBERED_HASHES = 1024


class Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def digest(self) -> bytes: ...
    def hexdigest(self) -> str: ...
    def copy(self) -> Hash: ...


class Receiver:
    """The uploads of one process. Times are seconds and sizes are bytes."""

    def __init__(self, database: Engine, vault: Vault, ttl: float, max_bytes: int, quota: Quota) -> None:
        self.database = database
        self.vault = vault
        self.ttl = ttl
        self.max_bytes = max_bytes
        self.quota = quota
        self._hashes: OrderedDict[UUID, tuple[int, Hash]] = OrderedDict()

    def create(self, caller: Caller, name: str, length: int, metadata: str = "", concat: str = "") -> Upload:
        """A new, resumable upload of `length` bytes. Raises TooLarge, QuotaExceeded and TooMany."""
        self.check_size(length)
        upload_id = new_id()
        sha256 = None if length else self.vault.put(()).sha256
        if length:
            self.place(upload_id).touch(exist_ok=False)
            sync(self.vault.incoming)
        given = {"name": name, "length": length, "metadata": metadata, "concat": concat}
        try:
            return self.record(caller, upload_id, sha256, **given)
        except BaseException:
            self.place(upload_id).unlink(missing_ok=True)
            raise

    def find(self, caller: Caller, upload_id: UUID) -> Upload:
        """The upload with the offset at which it goes on. Raises NotFound and Gone."""
        with self.database.connect() as connection:
            upload = upload_rows.get(connection, caller.tenant, upload_id)
        if upload.finished or not self._was_disturbed(upload):
            return upload
        try:
            with _Hold(self, caller, upload_id) as hold:
                return hold.upload
        except Locked:
            return upload

    async def append(
        self,
        caller: Caller,
        upload_id: UUID,
        offset: int,
        chunks: AsyncIterator[bytes],
        checksum: Checksum | None = None,
    ) -> Upload:
        """Write the chunks at `offset`, which must be where the upload stands.

        With a checksum the bytes count only as a whole and only if they hash to it. Without one, what arrived before
        the body was interrupted is kept. Raises NotFound, Gone, Locked, OffsetMismatch, TooLarge, ChecksumMismatch,
        BodyInterrupted.
        """
        hold = await run_in_threadpool(_Hold, self, caller, upload_id)
        try:
            writing = await run_in_threadpool(_Writing, hold, offset, checksum)
            try:
                await drain(chunks, writing.write)
            except BodyInterrupted:
                await run_in_threadpool(writing.interrupted)
                raise
            return await run_in_threadpool(writing.finish)
        finally:
            hold.close()

    async def receive_whole(
        self, caller: Caller, name: str, chunks: AsyncIterator[bytes], checksums: Sequence[Checksum], declared: int
    ) -> Upload:
        """An upload in one request: finished, or nothing is left. One too long by its `declared` length is not read.

        Raises TooLarge, QuotaExceeded, ChecksumMismatch and BodyInterrupted.
        """
        used = await run_in_threadpool(self.check_room, caller, declared)
        upload_id = new_id()
        file = self.place(upload_id)
        try:
            with file.open("xb", buffering=0) as out:
                whole = _Whole(out.fileno(), self, used, checksums)
                await drain(chunks, whole.write)
            sha256 = whole.verified()
            await run_in_threadpool(self.check_room, caller, whole.size)  # others came meanwhile
            await run_in_threadpool(self.vault.adopt, file, sha256)
        except BaseException:
            file.unlink(missing_ok=True)
            raise
        return await run_in_threadpool(lambda: self.record(caller, upload_id, sha256, name=name, length=whole.size))

    def discard(self, caller: Caller, upload_id: UUID) -> None:
        """Forget the upload and its bytes, unless the vault has them already. Raises NotFound, Gone and Locked."""
        with self.database.connect() as connection:
            upload_rows.get(connection, caller.tenant, upload_id)
        with _Hold(self, caller, upload_id) as hold:
            with self.database.begin() as connection:
                upload_rows.remove(connection, upload_id)
            hold.file.unlink(missing_ok=True)

    def place(self, upload_id: UUID) -> Path:
        return self.vault.incoming / str(upload_id)

    def remember(self, upload: Upload, digest: Hash) -> None:
        """Keep a copy of the hash of the first `received` bytes, so that the end needs no second reading."""
        self._hashes[upload.id] = (upload.received, digest.copy())
        self._hashes.move_to_end(upload.id)
        while len(self._hashes) > REMEMBERED_HASHES:
            self._hashes.popitem(last=False)

    def recall(self, upload: Upload) -> Hash | None:
        """A copy of the hash of the first `received` bytes, if this very process wrote them all."""
        if upload.received == 0:
            return hashlib.sha256()
        at, digest = self._hashes.get(upload.id, (-1, None))
        return digest.copy() if digest and at == upload.received else None

    def record(self, caller: Caller, upload_id: UUID, sha256: str | None, **columns: Any) -> Upload:
        """The row of a new upload, with its line in the audit trail if it is finished from the start."""
        with self.database.begin() as connection:
            used = quota_rows.hold(connection, caller.tenant)
            self.quota.check_bytes(used, columns["length"])
            if sha256 is None:
                self.quota.check_uploads(used)
            upload = upload_rows.create(connection, caller.tenant, upload_id, ttl=self.ttl, sha256=sha256, **columns)
            if sha256 is not None:
                _note_finished(connection, caller, upload)
        return upload

    def check_room(self, caller: Caller, more: int) -> Usage:
        """What the tenant uses now. Asked before the vault takes anything; what counts is the check in `record`.

        Raises QuotaExceeded where `more` bytes do not fit."""
        with self.database.connect() as connection:
            used = quota_rows.usage(connection, caller.tenant)
        self.quota.check_bytes(used, more)
        return used

    def check_size(self, size: int) -> None:
        if size > self.max_bytes:
            raise TooLarge(f"An upload has at most {self.max_bytes} bytes.", limit=self.max_bytes)

    def _was_disturbed(self, upload: Upload) -> bool:
        """True if a crash came between the last steps, or bytes that were there are gone."""
        try:
            status = self.place(upload.id).stat()
        except FileNotFoundError:
            return True
        return status.st_nlink > 1 or status.st_size < upload.received


class _Hold:
    """The sole right to write to an upload, and its row as it stands. A context manager; `close` ends it."""

    def __init__(self, receiver: Receiver, caller: Caller, upload_id: UUID) -> None:
        self.receiver = receiver
        self.file = receiver.place(upload_id)
        self._caller = caller
        with receiver.database.connect() as connection:
            upload_rows.get(connection, caller.tenant, upload_id)
        self._lock = os.fdopen(_create(self.file), "rb", buffering=0)
        self.out: FileIO | None = None
        try:
            self.upload = self._enter(caller, upload_id)
        except BaseException:
            self.close()
            raise

    def _enter(self, caller: Caller, upload_id: UUID) -> Upload:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Locked(
                f"Another request is writing to the upload {upload_id}. Try again when it is done."
            ) from None
        try:
            with self.receiver.database.connect() as connection:
                upload = upload_rows.get(connection, caller.tenant, upload_id)
        except NotFound:
            self.file.unlink(missing_ok=True)
            raise
        return self._mended(upload)

    def _mended(self, upload: Upload) -> Upload:
        """Complete or take back what a crash left half done."""
        if upload.finished:
            self.file.unlink(missing_ok=True)
            return upload
        status = os.fstat(self._lock.fileno())
        if status.st_nlink > 1:
            return self.seal(upload, None)
        if status.st_size < upload.received:
            return self.keep(upload, status.st_size)
        return upload

    def open_at(self, offset: int) -> int:
        """A descriptor to write at `offset`; what lies beyond is cut off. It lasts as long as the hold."""
        self.out = self.file.open("r+b", buffering=0)
        self.out.truncate(offset)
        self.out.seek(offset)
        return self.out.fileno()

    def keep(self, upload: Upload, received: int) -> Upload:
        with self.receiver.database.begin() as connection:
            return upload_rows.set_received(connection, upload.id, received, self.receiver.ttl)

    def seal(self, upload: Upload, digest: Hash | None) -> Upload:
        """The file is whole and on disk: the vault takes it. Without `digest` it is read once more."""
        sha256 = digest.hexdigest() if digest else hash_file(self.file)[0]
        self.receiver.vault.share(self.file, sha256)
        with self.receiver.database.begin() as connection:
            finished = upload_rows.finish(connection, upload.id, sha256, self.receiver.ttl)
            _note_finished(connection, self._caller, finished)
        self.file.unlink(missing_ok=True)
        return finished

    def close(self) -> None:
        if self.out is not None:
            self.out.close()
        self._lock.close()

    def __enter__(self) -> _Hold:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Writing:
    """One request's bytes on their way into an upload that it holds. Blocking: its methods run in a thread."""

    def __init__(self, hold: _Hold, offset: int, checksum: Checksum | None) -> None:
        upload = hold.upload
        if upload.joined:
            raise Forbidden(f"The upload {upload.id} was joined from parts: it takes no bytes of its own.")
        if offset != upload.received:
            message = f"The upload goes on at {upload.received}, not at {offset}."
            raise OffsetMismatch(message, offset=upload.received)
        self._hold = hold
        self._upload = upload
        self._checksum = checksum
        self._body_hash = hashlib.new(checksum.algorithm) if checksum else None
        self._whole_hash = hold.receiver.recall(upload)
        self._at = offset
        self._out = -1 if upload.finished else hold.open_at(offset)

    def write(self, batch: bytes) -> None:
        if self._at + len(batch) > self._upload.length:
            raise TooLarge(
                f"The body goes beyond the upload's {self._upload.length} bytes.", limit=self._upload.length
            )
        to_disk.write(self._out, batch, self._at)
        for digest in filter(None, (self._whole_hash, self._body_hash)):
            digest.update(batch)
        self._at += len(batch)
        if self._checksum is None and self._at - self._upload.received >= CHECKPOINT:
            self._keep()

    def interrupted(self) -> None:
        """The body stopped. Without a checksum to fail, the bytes so far are as good as any."""
        if self._checksum is None:
            self._keep()

    def finish(self) -> Upload:
        """The body is complete."""
        if self._checksum and self._body_hash and self._body_hash.digest() != self._checksum.digest:
            raise ChecksumMismatch(
                f"The {self._checksum.algorithm} of the body is another. It was discarded: send it again.",
                offset=self._upload.received,
            )
        self._keep()
        return self._upload

    def _keep(self) -> None:
        """Make the bytes so far durable, and then say so; the last ones go into the vault."""
        if self._upload.finished:
            return
        os.fsync(self._out)
        if self._at == self._upload.length:
            self._upload = self._hold.seal(self._upload, self._whole_hash)
            return
        self._upload = self._hold.keep(self._upload, self._at)
        if self._whole_hash:
            self._hold.receiver.remember(self._upload, self._whole_hash)


class _Whole:
    """A file that comes in one request. Blocking: `write` runs in a thread."""

    def __init__(self, out: int, receiver: Receiver, used: Usage, checksums: Sequence[Checksum]) -> None:
        self.size = 0
        self._out = out
        self._receiver = receiver
        self._used = used
        self._checksums = checksums
        names = {"sha256", *(checksum.algorithm for checksum in checksums)}
        self._hashes: dict[str, Hash] = {name: hashlib.new(name) for name in names}

    def write(self, batch: bytes) -> None:
        self.size += len(batch)
        self._receiver.check_size(self.size)
        self._receiver.quota.check_bytes(self._used, self.size)
        to_disk.write(self._out, batch, self.size - len(batch))
        for digest in self._hashes.values():
            digest.update(batch)

    def verified(self) -> str:
        """The SHA-256 in hex, once every promised digest was found true."""
        for checksum in self._checksums:
            if self._hashes[checksum.algorithm].digest() != checksum.digest:
                raise ChecksumMismatch(f"The {checksum.algorithm} of the body is another. Nothing was kept.")
        return self._hashes["sha256"].hexdigest()


async def drain(chunks: AsyncIterator[bytes], write: Callable[[bytes], None]) -> None:
    """Hand the chunks to `write` in batches, in a thread. A body that was interrupted is handed over as far as it
    came before BodyInterrupted goes on."""
    interruption: BodyInterrupted | None = None
    batch, size = list[bytes](), 0
    try:
        async for chunk in chunks:
            batch.append(chunk)
            size += len(chunk)
            if size >= BATCH:
                await run_in_threadpool(write, b"".join(batch))
                measures.UPLOAD_BYTES.inc(size)
                batch, size = [], 0
    except BodyInterrupted as error:
        interruption = error
    if batch:
        await run_in_threadpool(write, b"".join(batch))
        measures.UPLOAD_BYTES.inc(size)
    if interruption:
        raise interruption


def _note_finished(connection: Connection, caller: Caller, upload: Upload) -> None:
    """In the trail it is the deed of whoever sent the last byte, or asked for what a crash had left half done."""
    subject = audit_rows.subject("upload", upload.id)
    details = {"name": upload.name, "size": upload.length, "sha256": upload.sha256}
    audit_rows.by_caller(connection, caller, Action.UPLOAD_FINISHED, subject, **details)


def _create(file: Path) -> int:
    """A descriptor of the file, which is made if it is not there; one that the vault shares may be read-only."""
    return os.open(file, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
