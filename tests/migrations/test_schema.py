"""The migrations and `app.store.tables` say the same, and every migration can be taken back."""

from __future__ import annotations

import os
import subprocess
import sys

import psycopg

from tests.conftest import ROOT, new_database


def alembic(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "alembic", "-c", str(ROOT / "migrations/alembic.ini"), *arguments],
        env=os.environ | {"DATABASE_URL": url},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_migrations_make_exactly_the_declared_tables(postgres_url: str) -> None:
    done = alembic(new_database(postgres_url), "check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_migrations_go_down_and_up_again(postgres_url: str) -> None:
    url = new_database(postgres_url)
    for step in (("downgrade", "base"), ("upgrade", "head"), ("check",)):
        done = alembic(url, *step)
        assert done.returncode == 0, done.stdout + done.stderr


def test_what_there_was_before_tenants_belongs_to_the_default_one(postgres_url: str) -> None:
    url = new_database(postgres_url)
    assert alembic(url, "downgrade", "202611231200").returncode == 0
    with psycopg.connect(url) as connection:
        connection.execute(
            "INSERT INTO uploads (id, name, length, expires_at) VALUES (gen_random_uuid(), 'a', 1, now())"
        )
    assert alembic(url, "upgrade", "head").returncode == 0
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT tenant FROM uploads").fetchone() == ("default",)
