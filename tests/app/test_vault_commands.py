"""The drill: all is lost, and comes back from a backup; and the operator's other commands on what is stored."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from sqlalchemy import Engine

from app.domain.job import Job
from app.domain.manifest import FileEntry
from app.store import audit_rows, claim_rows
from app.store.vault import Vault
from tests.api_process import running_api
from tests.installed import lethe
from tests.job_rows_at_hand import a_delivery, add_job
from tests.s3_server import Bucket

Run = Callable[..., Any]


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path / "vault")


@pytest.fixture
def done(database: Engine, vault: Vault) -> Job:
    """A job that has delivered one file; what its order names is stored, too."""
    file, given = vault.put([b"weights" * 1000]), vault.put([b"rows"])
    model = vault.put([b"another model"])
    with database.begin() as connection:
        job = add_job(connection)
        connection.exec_driver_sql("UPDATE samples SET sha256 = %(given)s", {"given": given.sha256})
        claim = claim_rows.claim(connection, job.id, "w", 60, 3)
        assert claim is not None
        delivery = a_delivery(FileEntry("model.safetensors", file.size, file.sha256))
        audit_rows.job_ended(connection, claim_rows.finish(connection, claim, delivery), "worker:w")
        connection.exec_driver_sql(
            "UPDATE models SET source = %(m)s, manifest = %(m)s",
            {"m": f'{{"files": [{{"path": "m", "size": 13, "sha256": "{model.sha256}"}}]}}'},
        )
    return job


@pytest.fixture
def run(database_url: str, vault: Vault, tmp_path: Path) -> Run:
    def command(*words: str | Path, **environment: str) -> Any:
        places = {"DATABASE_URL": database_url, "LETHE_VAULT": str(vault.incoming.parent)} | environment
        return lethe(tmp_path / "installed", *words, environment=places)

    return command


@pytest.fixture
def empty_database(postgres_url: str) -> str:
    name = f"lethe_test_{uuid.uuid4().hex}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        info = connection.info
        return f"postgresql://{info.user}:{info.password}@/{name}?host={quote(info.host)}&port={info.port}"


@pytest.fixture(params=["folder", "bucket"])
def new_vault(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """Where all comes back to."""
    if request.param == "folder":
        return {"LETHE_VAULT": str(tmp_path / "new")}
    bucket: Bucket = request.getfixturevalue("bucket")
    return {"LETHE_VAULT": bucket.address, "LETHE_SCRATCH": str(tmp_path / "scratch"), **bucket.environment}


def test_all_is_lost_and_comes_back(  # noqa: PLR0917 - one for each thing that is lost or comes back
    run: Run, done: Job, empty_database: str, new_vault: dict[str, str], redis_url: str, tmp_path: Path
) -> None:
    head = run("audit", "head").stdout
    (tmp_path / "head.json").write_text(head)
    said = run("backup", tmp_path / "kept")
    assert said.returncode == 0, said.stderr
    new = {"DATABASE_URL": empty_database} | new_vault
    said = run("restore", tmp_path / "kept", **new)
    assert said.returncode == 0, said.stderr
    assert run("audit", "verify", "--head", tmp_path / "head.json", **new).returncode == 0
    assert run("vault", "scrub", **new).returncode == 0
    with running_api(empty_database, redis_url, tmp_path / "new", **new_vault) as api, api.client() as http:
        path = f"/v1/jobs/{done.id}"
        assert http.get(path).json()["status"] == "succeeded"
        assert http.get(f"{path}/artifacts/model.safetensors").content == b"weights" * 1000
    again = run("restore", tmp_path / "kept", **new)
    assert again.returncode == 2
    assert "empty" in again.stderr


@pytest.mark.usefixtures("done")
def test_a_second_backup_copies_what_is_new_and_holds_all(run: Run, vault: Vault, tmp_path: Path) -> None:
    assert run("backup", tmp_path / "kept").returncode == 0
    files = Vault(tmp_path / "kept/vault")
    before = {name: files.path(name).stat().st_mtime_ns for name in files.after("", 100)}
    assert len(before) == 3
    assert run("backup", tmp_path / "kept").returncode == 0
    assert {name: files.path(name).stat().st_mtime_ns for name in files.after("", 100)} == before


@pytest.mark.usefixtures("done")
def test_a_damaged_file_makes_no_backup_and_is_found_by_scrub(run: Run, vault: Vault, tmp_path: Path) -> None:
    name = vault.after("", 1)[0]
    vault.path(name).chmod(0o600)
    vault.path(name).write_bytes(b"other")
    said = run("backup", tmp_path / "kept")
    assert (said.returncode, "damaged" in said.stderr) == (2, True)
    assert run("restore", tmp_path / "kept").returncode == 2
    said = run("vault", "scrub")
    assert (said.returncode, name in said.stderr) == (1, True)
    assert run("vault", "scrub").returncode == 0


@pytest.mark.usefixtures("done")
def test_collect_takes_only_what_nothing_speaks_of(run: Run, vault: Vault) -> None:
    from tests.app.store.test_vault_care import age

    stray = vault.put([b"stray"]).sha256
    for name in vault.after("", 100):
        age(vault, name)
    assert run("vault", "collect").stdout == "1 of 4 stored files were removed.\n"
    assert not vault.has(stray)


def test_an_address_that_is_none_is_said(run: Run) -> None:
    said = run("vault", "collect", LETHE_VAULT="s3:/bucket")
    assert (said.returncode, "s3://bucket/prefix" in said.stderr) == (2, True)
