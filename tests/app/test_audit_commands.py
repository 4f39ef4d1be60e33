"""`lethe audit` over a real database, whose owner has tampered with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from app.domain.audit import Action, Entry, canonical, faults
from app.store import audit_rows
from tests.installed import lethe


@pytest.fixture
def trail(database: Engine, database_url: str, tmp_path: Path) -> Any:
    """Five entries in the database; the result is the command on it."""
    for number in range(5):
        with database.begin() as connection:
            audit_rows.append(
                connection,
                tenant="default" if number else "other",
                actor="key:1",
                action=Action.JOB_CREATED,
                subject=f"job/{number}",
                details={"method": "lya"},
            )

    def run(*arguments: str | Path) -> Any:
        return lethe(tmp_path / "installed", "audit", *arguments, environment={"DATABASE_URL": database_url})

    return run


def tamper(database: Engine, statement: str) -> None:
    """As the database's owner can, past the trigger."""
    with database.begin() as connection:
        connection.execute(text("ALTER TABLE audit DISABLE TRIGGER USER"))
        connection.execute(text(statement))
        connection.execute(text("ALTER TABLE audit ENABLE TRIGGER USER"))


def test_a_whole_trail_is_verified_and_exported(trail: Any, tmp_path: Path) -> None:
    said = trail("head")
    head = json.loads(said.stdout)
    assert (said.returncode, head["seq"], len(head["hash"])) == (0, 5, 64)
    (tmp_path / "head.json").write_text(said.stdout)
    said = trail("verify", "--head", tmp_path / "head.json")
    assert (said.returncode, "whole: 5 entries" in said.stdout) == (0, True), said.stderr
    lines = trail("export").stdout.splitlines()
    rows = [json.loads(line) for line in lines]
    assert [canonical(row).decode() for row in rows] == lines
    assert [row["seq"] for row in rows] == [1, 2, 3, 4, 5]
    assert list(faults(Entry(**row | {"at": _time(row["at"])}) for row in rows)) == []
    assert len(trail("export", "--tenant", "default", "--after", "2").stdout.splitlines()) == 3


def _time(text_of: str) -> Any:
    from datetime import datetime

    return datetime.fromisoformat(text_of)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET actor = 'key:2' WHERE seq = 3",
        "UPDATE audit SET details = '{}' WHERE seq = 5",
        "DELETE FROM audit WHERE seq = 1",
        "DELETE FROM audit WHERE seq = 5",
        "UPDATE audit SET seq = 99 - seq WHERE seq IN (2, 3)",
    ],
)
def test_tampering_is_found(database: Engine, trail: Any, tmp_path: Path, statement: str) -> None:
    (tmp_path / "head.json").write_text(trail("head").stdout)
    tamper(database, statement)
    said = trail("verify", "--head", tmp_path / "head.json")
    assert (said.returncode, said.stdout) == (1, "")
    assert said.stderr.splitlines()[-1] == "The audit trail was changed."


def test_what_cannot_be_read_is_an_error_of_one_line(trail: Any, tmp_path: Path) -> None:
    (tmp_path / "head.json").write_text("{}")
    for said in (
        trail("verify", "--head", tmp_path / "head.json"),
        lethe(
            tmp_path / "installed", "audit", "verify", environment={"DATABASE_URL": "postgresql://x@127.0.0.1:1/x"}
        ),
        lethe(tmp_path / "installed", "audit", "head", environment={"DATABASE_URL": "", "LETHE_DATA": str(tmp_path)}),
    ):
        assert (said.returncode, said.stdout, len(said.stderr.splitlines())) == (2, "", 1), said.stderr
