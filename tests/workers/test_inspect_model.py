"""The inspection with a real database, a real vault and the real sandbox."""

from __future__ import annotations

import dataclasses
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, text

from app.domain.errors import ChildFailed, LeaseLost
from app.domain.identity import DEFAULT_TENANT
from app.domain.ids import new_id
from app.domain.manifest import FileEntry, Manifest
from app.domain.model import ARCHIVE, Finding, Model, ModelStatus, Severity
from app.settings import Settings
from app.store import model_rows
from app.store.vault import Vault
from tests.checkpoint_by_hand import CONFIG, TOKENIZER, dumped, tensors
from tests.tiny_model import make_tiny_checkpoint
from workers.inspect_model import RULES, clear_leftovers, inspect_model
from workers.services import Services


@pytest.fixture
def services(database: Engine, tmp_path: Path) -> Services:
    settings = Settings.model_validate({"DATABASE_URL": "postgresql://x", "REDIS_URL": "redis://x"})
    return Services(settings, database, Vault(tmp_path / "vault"), "test")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = make_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))
    return {file.name: file.read_bytes() for file in folder.iterdir()}


HOSTILE = {"config.json": dumped(CONFIG | {"auto_map": {"x": "y"}}), "model.safetensors": tensors({"a": [64]})} | {
    "tokenizer.json": dumped(TOKENIZER)
}


def limited(services: Services, **changes: Any) -> Services:
    return dataclasses.replace(services, settings=services.settings.model_copy(update=changes))


def add(services: Services, files: Mapping[str, bytes]) -> UUID:
    entries = [FileEntry(path, len(data), services.vault.put([data]).sha256) for path, data in files.items()]
    model_id = new_id()
    with services.database.begin() as connection:
        model_rows.create(connection, DEFAULT_TENANT, model_id, "a model", source=Manifest.of(entries), metadata={})
    return model_id


def get(services: Services, model_id: UUID) -> Model:
    with services.database.connect() as connection:
        return model_rows.get(connection, DEFAULT_TENANT, model_id)


def rules(model: Model) -> set[str]:
    return {finding.rule for finding in model.findings}


def left_over(services: Services) -> list[Path]:
    return list(services.vault.incoming.iterdir())


def tgz(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(f"model/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def test_a_good_model_is_admitted_from_files_and_from_an_archive(
    services: Services, checkpoint: dict[str, bytes]
) -> None:
    by_files, by_archive = add(services, checkpoint), add(services, {ARCHIVE: tgz(checkpoint)})
    for model_id in (by_files, by_archive):
        inspect_model(services, model_id)
    model = get(services, by_files)
    assert model.status is ModelStatus.ADMITTED
    assert model.facts is not None
    assert (model.facts.model_type, model.facts.labels) == ("bert", ("negative", "positive"))
    assert model.manifest is not None
    assert [entry.path for entry in model.manifest] == [
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    for entry in model.manifest:
        with services.vault.open_verified(entry.sha256) as file:
            assert len(file.read()) == entry.size
    twin = get(services, by_archive)
    assert twin.manifest is not None
    assert twin.manifest.digest == model.manifest.digest
    with services.database.connect() as connection:
        assert model_rows.by_digest(connection, DEFAULT_TENANT, model.manifest.digest).id == by_archive
    assert left_over(services) == []


def test_a_hostile_model_is_rejected_with_its_findings(services: Services) -> None:
    model_id = add(services, HOSTILE)
    inspect_model(services, model_id)
    model = get(services, model_id)
    assert (model.status, rules(model), model.manifest) == (ModelStatus.REJECTED, {"CF-CODE"}, None)
    assert left_over(services) == []


def test_an_inspector_without_an_answer_is_a_refusal(services: Services) -> None:
    cases = {
        "SB-TIMEOUT": limited(services, inspect_seconds=0.001),
        "SB-CRASH": limited(services, inspect_memory_bytes=64 * 1024 * 1024),
    }
    for rule, cramped in cases.items():
        model_id = add(services, HOSTILE)
        inspect_model(cramped, model_id)
        assert (get(services, model_id).status, rules(get(services, model_id))) == (ModelStatus.REJECTED, {rule})


def test_every_way_in_which_a_child_fails_has_its_rule() -> None:
    assert set(RULES) == set(ChildFailed.__subclasses__())
    assert set(RULES.values()) == {"SB-CRASH", "SB-TIMEOUT", "SB-MEMORY", "SB-PROTOCOL"}


def test_a_model_beyond_the_memory_is_a_refusal(services: Services) -> None:
    header = {f"t{number}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(50_000)}
    text_of = json.dumps(header).encode()
    files = HOSTILE | {"model.safetensors": len(text_of).to_bytes(8, "little") + text_of}
    model_id = add(services, files)
    inspect_model(limited(services, inspect_memory_bytes=90 * 1024 * 1024), model_id)
    assert rules(get(services, model_id)) <= {"SB-MEMORY", "SB-CRASH"}
    assert get(services, model_id).status is ModelStatus.REJECTED


def test_a_damaged_store_is_no_verdict_until_the_attempts_are_used_up(services: Services) -> None:
    model_id = add(services, HOSTILE)
    entry = get(services, model_id).source.files[0]
    stored = services.vault.path(entry.sha256)
    stored.chmod(0o600)
    stored.write_bytes(b"x" * entry.size)
    for attempt in range(1, services.settings.max_attempts + 1):
        inspect_model(services, model_id)
        found = get(services, model_id)
        assert (found.status, found.attempts) == (ModelStatus.INSPECTING, attempt)
        end_lease(services, model_id)
        with services.database.begin() as connection:
            due = model_rows.to_send(connection, 0, services.settings.max_attempts)
        assert due == ([model_id] if attempt < services.settings.max_attempts else [])
    found = get(services, model_id)
    assert (found.status, rules(found)) == (ModelStatus.REJECTED, {"SB-ATTEMPTS"})
    assert left_over(services) == []


def end_lease(services: Services, model_id: UUID) -> None:
    with services.database.begin() as connection:
        ended = text("UPDATE models SET lease_until = clock_timestamp() WHERE id = :id")
        connection.execute(ended, {"id": model_id})


def test_only_one_inspection_has_the_claim_and_a_stale_one_writes_nothing(services: Services) -> None:
    model_id = add(services, HOSTILE)
    with services.database.begin() as connection:
        first = model_rows.claim(connection, model_id, 60, 3)
    with services.database.begin() as connection:
        assert model_rows.claim(connection, model_id, 60, 3) is None
        assert model_rows.to_send(connection, 0, 3) == []
    assert first is not None
    end_lease(services, model_id)
    with services.database.begin() as connection:
        second = model_rows.claim(connection, model_id, 60, 3)
    assert second is not None
    assert second.token > first.token
    findings = (Finding("CF-CODE", Severity.REFUSAL, "config.json", "why"),)
    with services.database.begin() as connection, pytest.raises(LeaseLost):
        model_rows.finish_rejected(connection, first, findings)
    with services.database.begin() as connection:
        model_rows.finish_rejected(connection, second, findings)
    with services.database.begin() as connection, pytest.raises(LeaseLost):
        model_rows.heartbeat(connection, second, 60)


def test_an_inspected_or_unknown_model_is_left_alone(services: Services) -> None:
    model_id = add(services, HOSTILE)
    inspect_model(services, model_id)
    before = get(services, model_id)
    inspect_model(services, model_id)
    inspect_model(services, uuid4())
    assert get(services, model_id) == before


def test_the_folders_of_dead_inspections_are_cleared(services: Services) -> None:
    model_id = add(services, HOSTILE)
    with services.database.begin() as connection:
        claimed = model_rows.claim(connection, model_id, 60, 3)
    assert claimed is not None
    living = services.vault.incoming / f"inspect-{model_id}-{claimed.token}"
    dead = services.vault.incoming / f"inspect-{model_id}-{claimed.token - 1}"
    for folder in (living, dead):
        folder.mkdir()
    clear_leftovers(services)
    assert left_over(services) == [living]
