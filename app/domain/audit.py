"""The audit trail as a chain of hashes, whatever keeps it: who did what to what, and that nobody changed it since.

An entry's hash is the SHA-256 of its canonical form, which holds the hash of the entry before it. The canonical form
is JSON as in RFC 8785, of a subset in which there is nothing to argue about: UTF-8, no white space, keys sorted by
code point, and of values only text without NUL or lone surrogates, whole numbers below 2^53, true, false, null, lists
and objects.

    {"action":...,"actor":...,"at":"2026-11-25T03:00:00.000000Z","details":{...},"previous":"<64 hex>","seq":1,
     "subject":...,"tenant":...}

`faults` finds any edit, deletion, insertion or reorder in a chain, and with a head that was exported before (the last
seq and hash at that time) also a cut at its end and a chain that was made anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

NO_HASH = "0" * 64  # what comes before the first entry
MOST_EXACT = 2**53


class Action(StrEnum):
    UPLOAD_FINISHED = "upload.finished"
    MODEL_CREATED = "model.created"
    MODEL_ADMITTED = "model.admitted"
    MODEL_REJECTED = "model.rejected"
    MODEL_DELETED = "model.deleted"
    SAMPLES_CREATED = "samples.created"
    SAMPLES_DELETED = "samples.deleted"
    JOB_CREATED = "job.created"
    JOB_CANCELLED = "job.cancelled"
    JOB_RETRIED = "job.retried"
    JOB_ENDED = "job.ended"
    JOB_DELETED = "job.deleted"
    ARTIFACT_DOWNLOADED = "artifact.downloaded"
    FILE_DAMAGED = "file.damaged"
    KEY_CREATED = "key.created"
    KEY_ROTATED = "key.rotated"
    KEY_REVOKED = "key.revoked"
    WEBHOOK_CREATED = "webhook.created"
    WEBHOOK_CHANGED = "webhook.changed"
    WEBHOOK_ROTATED = "webhook.rotated"
    WEBHOOK_DELETED = "webhook.deleted"
    WEBHOOK_DISABLED = "webhook.disabled"


@dataclass(frozen=True, slots=True)
class Head:
    """How far the chain goes: its last entry's number and hash. An empty chain has 0 and NO_HASH."""

    seq: int
    hash: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the trail. `subject` is kind/id, such as job/019ab1c2-...; `previous` is the hash before it."""

    seq: int
    at: datetime
    tenant: str
    actor: str
    action: str
    subject: str
    details: Mapping[str, Any]
    previous: str
    hash: str

    @classmethod
    def after(cls, head: Head, **said: Any) -> Entry:
        """The entry that follows the head; `said` are the fields from `at` to `details`."""
        said["details"] = cleaned(said["details"])
        texts = {name: cleaned(said[name]) for name in ("tenant", "actor", "action", "subject")}
        entry = cls(seq=head.seq + 1, previous=head.hash, hash="", **said | texts)
        return cls(**{name: getattr(entry, name) for name in cls.__slots__} | {"hash": entry.digest()})

    def digest(self) -> str:
        """What its hash must be. Raises ValueError where it holds what has no canonical form."""
        return hashlib.sha256(canonical(self.covered())).hexdigest()

    def covered(self) -> dict[str, Any]:
        """What the hash covers: everything but the hash."""
        names = ("seq", "tenant", "actor", "action", "subject", "details", "previous")
        return {name: getattr(self, name) for name in names} | {"at": written(self.at)}

    def to_dict(self) -> dict[str, Any]:
        return self.covered() | {"hash": self.hash}


def written(at: datetime) -> str:
    """RFC 3339 in UTC with microseconds: one way to write a time."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def canonical(value: Any) -> bytes:
    """Raises ValueError for what has no canonical form."""
    _check(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def cleaned(value: Any) -> Any:
    """The value with every text made fit for UTF-8 and PostgreSQL: no lone surrogate, no NUL."""
    if isinstance(value, str):
        return str(value).encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
    if isinstance(value, Mapping):
        return {cleaned(str(key)): cleaned(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [cleaned(each) for each in value]
    return value


def faults(entries: Iterable[Entry], head: Head | None = None) -> Iterator[str]:
    """What is wrong with a chain that is read by seq, entry by entry; nothing where it is whole.

    With a head that was exported earlier the chain must still go through it.
    """
    last, seen = Head(0, NO_HASH), head is None or head == Head(0, NO_HASH)
    for entry in entries:
        if entry.seq != last.seq + 1:
            yield f"after entry {last.seq} comes {entry.seq}: entries are missing, doubled or out of order"
        elif entry.previous != last.hash:
            yield f"entry {entry.seq} does not follow the entry before it: one of them was changed or exchanged"
        if not _is_whole(entry):
            yield f"entry {entry.seq} was changed: its hash is another"
        if head is not None and entry.seq == head.seq:
            seen = True
            if entry.hash != head.hash:
                yield f"entry {entry.seq} is not the one of the exported head: the chain was made anew"
        last = Head(entry.seq, entry.hash)
    if not seen and head is not None:
        yield f"the chain ends at entry {last.seq}, before the exported head at {head.seq}: its end was cut off"


def _is_whole(entry: Entry) -> bool:
    try:
        return entry.digest() == entry.hash
    except ValueError:
        return False


def _check(value: Any) -> None:
    match value:
        case None | bool() | str():
            return
        case int() if abs(value) < MOST_EXACT:
            return
        case list():
            for each in value:
                _check(each)
        case dict() if all(isinstance(key, str) for key in value):
            for each in value.values():
                _check(each)
        case _:
            raise ValueError(f"{type(value).__name__} has no canonical form here")
