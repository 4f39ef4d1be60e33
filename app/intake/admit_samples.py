"""A file of samples from the network to a set that jobs may name: received, read strictly, and written anew.

Guarantees: memory holds one row at a time, whatever the file; what is stored is JSONL in ASCII that Lethe wrote; a
file with any bad row leaves nothing behind.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool

from app.domain.audit import Action
from app.domain.errors import BadSamples, TooLarge
from app.domain.identity import Caller
from app.domain.ids import new_id
from app.domain.quota import Quota
from app.domain.samples import SampleKind, SampleRow, SampleSet, SampleSummary
from app.intake.receive import drain
from app.intake.sample_files import Columns, SampleFormat, read_rows
from app.store import audit_rows, quota_rows, sample_rows
from app.store.vault import Vault

PREVIEW_ROWS = 5
PREVIEW_CHARACTERS = 300
MOST_LABELS = 1000
FIELDS = tuple(each.name for each in fields(SampleRow))


@dataclass(frozen=True, slots=True)
class SampleFile:
    """Who sends the file, and what they say of it."""

    caller: Caller
    name: str
    kind: SampleKind
    form: SampleFormat
    columns: Columns


@dataclass(frozen=True, slots=True)
class SampleLimits:
    bytes: int
    rows: int
    quota: Quota


async def admit_samples(
    database: Engine, vault: Vault, given: SampleFile, chunks: AsyncIterator[bytes], limits: SampleLimits
) -> SampleSet:
    """Raises TooLarge, QuotaExceeded, BodyInterrupted, and BadSamples with every fault by line."""
    received = vault.incoming / str(new_id())
    try:
        with received.open("xb") as out:
            await drain(chunks, _Capped(out, limits.bytes).write)
        return await run_in_threadpool(_store, database, vault, given, received, limits)
    finally:
        received.unlink(missing_ok=True)


@dataclass
class _Capped:
    out: BinaryIO
    left: int

    def write(self, batch: bytes) -> None:
        self.left -= len(batch)
        if self.left < 0:
            raise TooLarge("The file is too large for samples. Send a part of the rows.")
        self.out.write(batch)


def _store(database: Engine, vault: Vault, given: SampleFile, received: Path, limits: SampleLimits) -> SampleSet:
    tally = _Tally()
    with received.open("rb") as file:
        rows = read_rows(file, given.form, given.kind, given.columns, limits.rows)
        stored = vault.put(_line(row) for row in tally.counted(rows))
    with database.begin() as connection:
        limits.quota.check_bytes(quota_rows.hold(connection, given.caller.tenant), stored.size)
        made = sample_rows.create(
            connection,
            given.caller.tenant,
            new_id(),
            name=given.name,
            kind=given.kind,
            file=stored,
            rows=tally.rows,
            summary=tally.summary(),
        )
        details = {"name": made.name, "kind": made.kind, "rows": made.rows, "sha256": made.sha256}
        subject = audit_rows.subject("samples", made.id)
        audit_rows.by_caller(connection, given.caller, Action.SAMPLES_CREATED, subject, **details)
    return made


@dataclass
class _Tally:
    """What is said of the rows that went by."""

    rows: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    columns: set[str] = field(default_factory=set)
    preview: list[SampleRow] = field(default_factory=list)

    def counted(self, rows: Iterator[SampleRow]) -> Iterator[SampleRow]:
        for row in rows:
            self.rows += 1
            self.labels[str(row.label)] += 1
            if len(self.labels) > MOST_LABELS:
                raise BadSamples(f"There are over {MOST_LABELS} different labels: is this the column of the label?")
            self.columns |= {name for name in ("clean_text", "true_label") if getattr(row, name) is not None}
            if len(self.preview) < PREVIEW_ROWS:
                self.preview.append(_shortened(row))
            yield row

    def summary(self) -> SampleSummary:
        return SampleSummary(dict(self.labels.most_common()), tuple(sorted(self.columns)), tuple(self.preview))


def _shortened(row: SampleRow) -> SampleRow:
    twin = row.clean_text and row.clean_text[:PREVIEW_CHARACTERS]
    return replace(row, text=row.text[:PREVIEW_CHARACTERS], clean_text=twin)


def _line(row: SampleRow) -> bytes:
    """One JSON object and a line end; in ASCII, so that no reader sees another line end inside."""
    present = {name: value for name in FIELDS if (value := getattr(row, name)) is not None}
    return json.dumps(present, separators=(",", ":")).encode() + b"\n"
