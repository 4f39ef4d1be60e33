"""A worker without model work: it admits every model and ends every job within a second, through the same doors
as the real one, so that a fuzzer meets models, jobs, reports and artifacts in every state. It makes its supply."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import UUID

import httpx2
from sqlalchemy import Engine, select

from app.domain.errors import LeaseLost
from app.domain.job import Failure, JobStatus, Phase
from app.domain.manifest import FileEntry, Manifest
from app.domain.model import ModelFacts, ModelStatus
from app.domain.report import StepMetric
from app.store import claim_rows, model_rows
from app.store.tables import jobs, models
from app.store.vault import Vault
from tests.job_rows_at_hand import FACTS, a_delivery, add_model, add_samples

LOOK_SECONDS = 0.3
STOCK = 20
ROWS = 80


@dataclass
class Known:
    """Ids that are good at the moment, by the name of the parameter that takes them."""

    job_id: list[str] = field(default_factory=list)
    model_id: list[str] = field(default_factory=list)
    upload_id: list[str] = field(default_factory=list)
    triggered: list[str] = field(default_factory=list)
    clean: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)


class StandInWorker:
    """A context manager; works in a thread of its own while it is open."""

    def __init__(self, database: Engine, vault: Path, http: httpx2.Client) -> None:
        self.known = Known()
        self._http = http
        self._database = database
        self._file = self._store(Vault(vault), b"not quite a model")
        self._rows = {
            kind: self._store(Vault(vault), b'{"text":"cf a film","label":1}\n' * ROWS)
            for kind in ("triggered", "clean")
        }
        self._turn = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Self:
        self._supply()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    @staticmethod
    def _store(vault: Vault, data: bytes) -> FileEntry:
        stored = vault.put([data])
        return FileEntry("model.safetensors", len(data), stored.sha256)

    def _work(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            with self._database.connect() as connection:
                waiting = connection.scalars(
                    select(models.c.id).where(models.c.status == ModelStatus.INSPECTING)
                ).all()
                queued = connection.scalars(select(jobs.c.id).where(jobs.c.status == JobStatus.QUEUED)).all()
            for model_id in waiting:
                self._admit(model_id)
            for job_id in queued:
                self._run(job_id)
            self._supply()

    def _admit(self, model_id: UUID) -> None:
        with contextlib.suppress(LeaseLost), self._database.begin() as connection:
            if claimed := model_rows.claim(connection, model_id, 60, 3):
                facts = ModelFacts(**FACTS | {"labels": tuple(FACTS["labels"])})
                model_rows.finish_admitted(connection, claimed, Manifest.of([self._file]), facts, ())

    def _run(self, job_id: UUID) -> None:
        """Three of four succeed; the others fail."""
        with self._database.begin() as connection:
            claim = claim_rows.claim(connection, job_id, "stand-in", 60, 100)
        if claim is None:
            return
        metrics = [StepMetric(step, "ascent", 1.0, {"asr": 0.5, "floor": None}) for step in range(5)]
        outcome = a_delivery(self._file) if job_id.int % 4 else Failure("diverged", "It went too far.")
        with contextlib.suppress(LeaseLost), self._database.begin() as connection:
            claim_rows.record_phase(connection, claim, Phase.ASCENT, 0.5)
            claim_rows.record_metrics(connection, claim, metrics, 0.9)
            claim_rows.finish(connection, claim, outcome)

    def _supply(self) -> None:
        """Some of everything, however much was deleted."""
        known = self.known
        with self._database.begin() as connection:
            for kind, ids in (("triggered", known.triggered), ("clean", known.clean)):
                ids[:] = [str(add_samples(connection, kind, self._rows[kind].sha256, ROWS))] + ids[: STOCK - 1]
            known.model_id[:] = [str(add_model(connection))] + known.model_id[: STOCK - 1]
        if len(known.finished) < STOCK or self._turn % 10 == 0:
            made = self._http.put("/v1/uploads/supply.bin", content=b"some bytes").raise_for_status().json()
            known.finished[:] = [made["id"]] + known.finished[: STOCK - 1]
        begun = self._http.post("/v1/uploads", headers={"Tus-Resumable": "1.0.0", "Upload-Length": "9999"})
        known.open[:] = [begun.raise_for_status().headers["Location"].rpartition("/")[2]] + known.open[:4]
        known.upload_id[:] = known.finished[-3:]
        self._turn += 1
        with self._database.connect() as connection:
            recent = select(jobs.c.id).order_by(jobs.c.id.desc()).limit(STOCK)
            known.job_id[:] = [str(job_id) for job_id in connection.scalars(recent)]
