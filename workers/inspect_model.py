"""One upload, top to bottom: claim it, lay out its files, inspect and rewrite them in a sandboxed child, admit it.

Guarantees: the model is admitted only with files that the child wrote anew and this process hashed; whatever the
child does otherwise (a refusal, a crash, a time-out, too much memory, an answer outside the protocol) rejects the
model with a rule id. A fault of ours or of the machine is no verdict: the model waits for another attempt. Without a
whole sandbox nothing is begun, and no attempt is used up.
"""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from uuid import UUID

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app.domain.audit import Action
from app.domain.errors import LeaseLost, SandboxUnavailable
from app.domain.manifest import Manifest
from app.domain.model import ARCHIVE, Finding, Model, ModelFacts
from app.intake.admit import Order
from app.store import audit_rows, model_rows
from workers import sandbox
from workers.drain import Stopped
from workers.judge import INPUTS, Refused, judge, new_order
from workers.services import Services

log = logging.getLogger(__name__)

PAUSE_SECONDS = 5.0
_FOLDER = re.compile(r"inspect-([0-9a-f-]{36})-(\d+)")


@dataclass(frozen=True, slots=True)
class _Admitted:
    manifest: Manifest
    facts: ModelFacts
    notes: tuple[Finding, ...]


def inspect_model(services: Services, model_id: UUID) -> None:
    """Inspect the model if it waits for that. Returns in any case: the row says what came of it."""
    known = services.settings
    if not sandbox.allows(known.sandbox_gone_without):
        return
    with services.database.begin() as connection:
        claimed = model_rows.claim(connection, model_id, known.lease_seconds, known.max_attempts)
    if claimed is None:
        return
    log.info("model %s: inspection %d", model_id, claimed.attempts)
    try:
        with _private_folder(services, claimed) as folder, _Heart(services, claimed) as heart:
            _finish(services, claimed, _verdict(services, claimed, folder, heart))
    except LeaseLost:
        log.warning("model %s: the lease of token %d is lost; stopped", model_id, claimed.token)
    except Stopped:
        _give_back(services, claimed, counts=False)
    except SandboxUnavailable as error:
        log.error("model %s waits: %s", model_id, error.message)
        _give_back(services, claimed, counts=False)
    except Exception:
        log.exception("model %s: the inspection broke off; it will be tried again", model_id)
        _give_back(services, claimed)


def _give_back(services: Services, claimed: Model, *, counts: bool = True) -> None:
    with contextlib.suppress(LeaseLost), services.database.begin() as connection:
        model_rows.give_back(connection, claimed, PAUSE_SECONDS, counts=counts)


class _Heart:
    """Keeps the claim alive from a thread of its own until the block ends: hashing a large file takes a while."""

    def __init__(self, services: Services, claimed: Model) -> None:
        self._services, self._claimed = services, claimed
        self._lost = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name=f"heart-{claimed.id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def check(self) -> None:
        """Raises LeaseLost and Stopped. (The last write, too, goes through only while the lease is good.)"""
        self._services.drain.check()
        if self._lost:
            raise LeaseLost(f"The claim {self._claimed.token} on model {self._claimed.id} has ended.")

    def _beat_on(self) -> None:
        known = self._services.settings
        while not self._lost and not self._end.wait(known.heartbeat_seconds):
            try:
                with self._services.database.begin() as connection:
                    model_rows.heartbeat(connection, self._claimed, known.lease_seconds)
            except LeaseLost:
                self._lost = True
            except (DBAPIError, PoolTimeout) as error:
                log.warning("no heartbeat for model %s: %s", self._claimed.id, type(error).__name__)


@contextlib.contextmanager
def _private_folder(services: Services, claimed: Model) -> Iterator[Path]:
    """On the vault's file system, so that admitting is a rename; named so that the sweeper can clear it away."""
    folder = services.vault.incoming / f"inspect-{claimed.id}-{claimed.token}"
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def clear_leftovers(services: Services) -> None:
    """Remove the folders of inspections that ended without clearing up, as a killed worker's do."""
    for folder in services.vault.incoming.iterdir():
        match = _FOLDER.fullmatch(folder.name)
        if match is None:
            continue
        with services.database.connect() as connection:
            held = model_rows.holds(connection, UUID(match[1]), int(match[2]))
        if not held:
            shutil.rmtree(folder, ignore_errors=True)


def _verdict(services: Services, claimed: Model, folder: Path, heart: _Heart) -> _Admitted | tuple[Finding, ...]:
    """What came of it: an admission, or the findings that refuse the model. Any other error is no verdict."""
    order = _lay_out(services, claimed, folder, heart)
    verdict = judge(order, folder, services.settings, heart.check, services.ahead)
    if isinstance(verdict, Refused):
        if (failed := verdict.failure) is not None:
            log.warning("model %s: %s: %s %r", claimed.id, failed.code, failed.message, failed.log_tail)
        return verdict.findings
    entries = [services.vault.adopt(file) for file in verdict.files]
    return _Admitted(Manifest.of(entries), verdict.facts, verdict.notes)


def _lay_out(services: Services, claimed: Model, folder: Path, heart: _Heart) -> Order:
    """Copy what was uploaded into the folder, checked byte by byte, under names that we chose."""
    inputs = folder / INPUTS
    inputs.mkdir()
    files: dict[str, Path] = {}
    for number, entry in enumerate(claimed.source):
        files[entry.path] = inputs / f"{number:04d}"
        services.vault.copy_verified(entry.sha256, files[entry.path])
        heart.check()
    archive = files.pop(ARCHIVE, None)
    return new_order(folder, files, archive, services.settings.model_max_bytes)


def _finish(services: Services, claimed: Model, verdict: _Admitted | tuple[Finding, ...]) -> None:
    with services.database.begin() as connection:
        if isinstance(verdict, _Admitted):
            model_rows.finish_admitted(connection, claimed, verdict.manifest, verdict.facts, verdict.notes)
        else:
            model_rows.finish_rejected(connection, claimed, verdict)
        said = verdict.manifest if isinstance(verdict, _Admitted) else verdict
        note_verdict(services, connection, claimed.tenant, claimed.id, said)
    log.info("model %s: %s", claimed.id, "admitted" if isinstance(verdict, _Admitted) else "rejected")


def note_verdict(
    services: Services, connection: Connection, tenant: str, model_id: UUID, said: Manifest | Sequence[Finding]
) -> None:
    """The audit trail's line: the digest of what was admitted, or the rules that keep the model out."""
    details: dict[str, Any] = {}
    if isinstance(said, Manifest):
        action, details["digest"] = Action.MODEL_ADMITTED, said.digest
    else:
        action, details["rules"] = Action.MODEL_REJECTED, sorted({finding.rule for finding in said})
    audit_rows.append(
        connection,
        tenant=tenant,
        actor=services.actor,
        action=action,
        subject=audit_rows.subject("model", model_id),
        details=details,
    )
