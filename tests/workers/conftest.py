"""A worker's services over the tests' database and a vault of their own; a tiny admitted model and its samples."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine

from app.domain.identity import DEFAULT_TENANT
from app.domain.ids import new_id
from app.domain.job import Job
from app.domain.manifest import FileEntry, Manifest
from app.domain.recipe import Recipe
from app.settings import Settings
from app.store import job_rows
from app.store.tables import models
from app.store.vault import Vault
from tests.job_rows_at_hand import FACTS, add_samples, an_order
from tests.tiny_model import make_tiny_checkpoint
from tests.tiny_samples import write_tiny_samples
from workers.services import Services

MakeJob = Callable[..., Job]


@pytest.fixture
def services(database: Engine, database_url: str, tmp_path: Path) -> Services:
    settings = Settings.model_validate(
        {
            "DATABASE_URL": database_url,
            "REDIS_URL": "redis://127.0.0.1:1/0",
            "vault": tmp_path / "vault",
            "lease_seconds": 60,
            "heartbeat_seconds": 0.1,
            "max_attempts": 2,
            "torch_threads": 1,
            "device": "cpu",
        }
    )
    return Services(settings, database, Vault(settings.vault), "worker-under-test")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a tiny classifier, and triggered.jsonl and clean.jsonl beside its folder."""
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_samples(folder)
    return make_tiny_checkpoint(folder / "model")


@pytest.fixture
def make_job(services: Services, checkpoint: Path) -> MakeJob:
    """A queued job on the tiny model. `recipe` overrides knobs; `triggered` and `clean` replace the rows."""

    def make(
        recipe: dict[str, Any] | None = None, triggered: list[dict[str, Any]] | None = None, **changes: Any
    ) -> Job:
        knobs = Recipe.of("lya", {"steps": 6, "eval_every": 3, "fisher_samples": 8} | (recipe or {})).to_dict()
        del knobs["method"]
        with services.database.begin() as connection:
            order = an_order(
                connection,
                model_id=_admit(services, checkpoint),
                triggered_id=_keep(services, "triggered", checkpoint.parent, triggered),
                clean_id=_keep(services, "clean", checkpoint.parent, None),
                recipe=knobs,
                **changes,
            )
            job = job_rows.insert(connection, DEFAULT_TENANT, new_id(), order, "0" * 64)
        assert job is not None
        return job

    return make


def _admit(services: Services, checkpoint: Path) -> UUID:
    entries = []
    for file in sorted(checkpoint.iterdir()):
        stored = services.vault.put([file.read_bytes()])
        entries.append(FileEntry(file.name, stored.size, stored.sha256))
    manifest, model_id = Manifest.of(entries), new_id()
    row = {
        "id": model_id, "tenant": DEFAULT_TENANT, "name": "tiny", "status": "admitted",
        "source": manifest.to_dict(), "facts": FACTS,
        "digest": manifest.digest, "manifest": manifest.to_dict(),
    }  # fmt: skip
    with services.database.begin() as connection:
        connection.execute(models.insert().values(**row))
    return model_id


def _keep(services: Services, kind: str, folder: Path, rows: list[dict[str, Any]] | None) -> UUID:
    text = (folder / f"{kind}.jsonl").read_bytes()
    if rows is not None:
        text = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    entry = services.vault.put([text])
    with services.database.begin() as connection:
        return add_samples(connection, kind, entry.sha256, text.count(b"\n"))
