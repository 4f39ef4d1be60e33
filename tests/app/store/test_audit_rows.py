"""The audit trail in PostgreSQL: with its change or not at all, in the order of commits, and never changed."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from app.domain.audit import NO_HASH, Action, Entry, Head, faults
from app.store import audit_rows


def add(connection: Connection, subject: str = "job/1", **details: Any) -> Entry:
    return audit_rows.append(
        connection, tenant="default", actor="key:1", action=Action.JOB_CREATED, subject=subject, details=details
    )


def everything(database: Engine) -> list[Entry]:
    with database.connect() as connection:
        return list(audit_rows.read(connection))


def test_what_is_appended_is_read_again_and_is_whole(database: Engine) -> None:
    hostile = {"name": "a\0b\ud800\n\u202e", "n": 2**52, "deep": [{"x": None}, True]}
    with database.begin() as connection:
        made = [add(connection, f"job/{number}", **hostile) for number in range(3)]
    found = everything(database)
    assert found == made
    assert list(faults(found)) == []
    with database.connect() as connection:
        assert audit_rows.head(connection) == Head(3, made[2].hash)
        assert [entry.seq for entry in audit_rows.read(connection, after=1, tenant="default")] == [2, 3]
        assert list(audit_rows.read(connection, tenant="other")) == []


def test_an_entry_goes_with_its_transaction(database: Engine) -> None:
    with pytest.raises(RuntimeError), database.begin() as connection:  # noqa: PT012 - both belong to the case
        add(connection)
        raise RuntimeError
    assert everything(database) == []
    with database.connect() as connection:
        assert audit_rows.head(connection) == Head(0, NO_HASH)


def test_whoever_appends_at_the_same_time_gets_the_next_place(database: Engine) -> None:
    ready = threading.Barrier(8)

    def work(number: int) -> None:
        ready.wait()
        for turn in range(5):
            with database.begin() as connection:
                add(connection, f"job/{number}.{turn}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    found = everything(database)
    assert [entry.seq for entry in found] == list(range(1, 41))
    assert list(faults(found)) == []


@pytest.mark.parametrize(
    "statement",
    ["UPDATE audit SET actor = 'x'", "DELETE FROM audit", "TRUNCATE audit", "DELETE FROM audit WHERE seq=1"],
)
def test_the_table_refuses_to_be_changed(database: Engine, statement: str) -> None:
    with database.begin() as connection:
        add(connection)
    with pytest.raises(DBAPIError, match="append-only"), database.begin() as connection:
        connection.execute(text(statement))
    assert len(everything(database)) == 1
