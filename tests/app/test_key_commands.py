"""`lethe keys` on a real database: what it prints is a key that the API takes, and nothing else."""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from click.testing import Result
from sqlalchemy import Engine
from typer.testing import CliRunner

from app.domain.errors import Unauthenticated
from app.domain.identity import Scope
from app.domain.ids import new_id
from app.identity.gate import Gate
from app.key_commands import keys
from app.store import audit_rows
from tests.conftest import ROOT

PEPPER = "a pepper of the command line, long enough"
JOBS_READ = ("--scope", "jobs:read")


@pytest.fixture
def run(database: Engine, database_url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("LETHE_KEY_PEPPER", PEPPER)
    return lambda *arguments: CliRunner().invoke(keys, arguments)


def admitted(database: Engine, key: str) -> bool:
    try:
        Gate(database, None, PEPPER).admit([f"Bearer {key}"])
    except Unauthenticated:
        return False
    return True


def made(result: Result) -> str:
    assert result.exit_code == 0, result.output
    (line,) = result.stdout.splitlines()
    return line


def test_a_key_is_printed_alone_and_is_good(run, database: Engine) -> None:
    result = run("create", "ci", *JOBS_READ, "--scope", "models:write", "--tenant", "blue", "--days", "7")
    caller = Gate(database, None, PEPPER).admit([f"Bearer {made(result)}"])
    assert (caller.tenant, caller.scopes) == ("blue", {Scope.JOBS_READ, Scope.MODELS_WRITE})
    with database.connect() as connection:
        (entry,) = audit_rows.read(connection)
    assert (entry.action, entry.actor, entry.tenant) == ("key.created", "command-line", "blue")
    assert "not shown again" in result.stderr
    assert made(result).split("_")[2] not in result.stderr


def test_the_list_tells_every_tenant_and_no_secret(run) -> None:
    texts = [made(run("create", "ci", *JOBS_READ, "--tenant", tenant)) for tenant in ("blue", "red")]
    listed = run("list", "--json")
    found = json.loads(listed.stdout)
    assert [(key["tenant"], key["scopes"], key["last_used_at"]) for key in found] == [
        ("blue", ["jobs:read"], None),
        ("red", ["jobs:read"], None),
    ]
    (red,) = run("list", "--tenant", "red").stdout.splitlines()
    assert red.startswith(found[1]["id"])
    for text in texts:
        assert text.split("_")[2] not in listed.output


def test_a_revoked_key_is_void_and_still_listed(run, database: Engine) -> None:
    text = made(run("create", "ci", *JOBS_READ, "--days", "0"))
    assert run("list").stdout.strip().endswith("without an end")
    (key,) = json.loads(run("list", "--json").stdout)
    assert admitted(database, text)
    assert run("revoke", key["id"]).exit_code == 0
    assert not admitted(database, text)
    assert "revoked" in run("list").stdout


def test_a_rotated_key_overlaps_with_the_new_one(run, database: Engine) -> None:
    old = made(run("create", "ci", *JOBS_READ, "--tenant", "blue"))
    (key,) = json.loads(run("list", "--json").stdout)
    new = made(run("rotate", key["id"]))
    assert [admitted(database, text) for text in (old, new)] == [True, True]
    newest = made(run("rotate", json.loads(run("list", "--json").stdout)[1]["id"], "--overlap-hours", "0"))
    assert [admitted(database, text) for text in (new, newest)] == [False, True]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("revoke", "7"), "There is no key"),
        (("revoke", str(new_id())), "There is no key"),
        (("rotate", str(new_id())), "There is no key"),
        (("create", "ci", *JOBS_READ, "--tenant", "../x"), "A tenant is named"),
        (("create", "a\nb", *JOBS_READ), "printable"),
    ],
)
def test_what_cannot_be_done_is_said_with_status_2(run, arguments: tuple[str, ...], said: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr


def test_without_a_database_or_a_service_it_says_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("LETHE_DATA", str(tmp_path))
    result = CliRunner().invoke(keys, ["list"])
    assert (result.exit_code, "DATABASE_URL" in result.stderr) == (2, True)


def test_a_database_that_is_away_is_named_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://lethe:secret@127.0.0.1:9/lethe")
    result = CliRunner().invoke(keys, ["list"])
    assert (result.exit_code, "database" in result.stderr) == (2, True)
    assert "secret" not in result.output


def test_a_pepper_that_is_missing_is_asked_for(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LETHE_KEY_PEPPER")
    result = run("create", "ci", *JOBS_READ)
    assert (result.exit_code, "LETHE_KEY_PEPPER" in result.stderr) == (2, True)


def test_a_running_service_is_found_by_its_data_folder(
    run, database: Engine, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.delenv("LETHE_KEY_PEPPER")
    monkeypatch.setenv("LETHE_DATA", str(tmp_path))
    (tmp_path / "service.json").write_text(json.dumps({"database_url": database_url}))
    (tmp_path / "key-pepper").write_text(PEPPER + "\n")
    assert admitted(database, made(run("create", "ci", *JOBS_READ)))


def test_it_is_a_group_of_the_lethe_command() -> None:
    declared = (ROOT / "pyproject.toml").read_text()
    assert 'keys = "app.key_commands:keys"' in declared.split('[project.entry-points."lethe.commands"]')[1]
    for found in entry_points(group="lethe.commands", name="keys"):
        assert found.load() is keys
