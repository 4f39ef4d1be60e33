"""Uploads that were sent side by side, joined to one file (tus concatenation).

Guarantees: each part is finished and was begun as one; its bytes are checked against their hash while they are read;
the file is there whole, under a hash of its own, or not at all. The parts stay, and expire in their time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

from app.domain.errors import BadRequest, Conflict
from app.domain.identity import Caller
from app.domain.ids import new_id
from app.domain.upload import PARTIAL, Upload
from app.intake.receive import BATCH, Receiver


def join(
    receiver: Receiver, caller: Caller, parts: Sequence[UUID], *, name: str, metadata: str, concat: str
) -> Upload:
    """A finished upload of the parts' bytes, one behind the other. `concat` is the header that asked for it.

    Raises NotFound, Gone, BadRequest for what is no part, Conflict for one that lacks bytes, TooLarge and
    QuotaExceeded.
    """
    found = [_finished_part(receiver.find(caller, part)) for part in parts]
    length = sum(part.length for part in found)
    receiver.check_size(length)
    receiver.check_room(caller, length)
    entry = receiver.vault.put(_bytes(receiver, found))
    given: dict[str, Any] = {"name": name, "length": length, "metadata": metadata, "concat": concat}
    return receiver.record(caller, new_id(), entry.sha256, **given)


def _finished_part(upload: Upload) -> Upload:
    if upload.concat != PARTIAL:
        raise BadRequest(f"The upload {upload.id} is no part: begin each part with Upload-Concat: {PARTIAL}.")
    if not upload.finished:
        raise Conflict(f"The upload {upload.id} has {upload.received} of {upload.length} bytes. Finish it first.")
    return upload


def _bytes(receiver: Receiver, parts: Sequence[Upload]) -> Iterator[bytes]:
    for part in parts:
        assert part.sha256 is not None
        with receiver.vault.open_verified(part.sha256) as handle:
            while chunk := handle.read(BATCH):
                yield chunk
