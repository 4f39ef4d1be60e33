"""The migrations and `app.store.tables` say the same, and every migration can be taken back."""

from __future__ import annotations

import os
import subprocess
import sys
from uuid import UUID

import psycopg
from sqlalchemy import Connection, create_engine

from app.domain.identity import DEFAULT_TENANT
from app.domain.job import Failure, JobStatus
from app.settings import sqlalchemy_url
from app.store import claim_rows, job_rows
from tests.conftest import ROOT, new_database
from tests.job_rows_at_hand import a_delivery, add_job


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


def test_jobs_of_every_status_survive_the_way_down_and_up(postgres_url: str) -> None:
    """As for an operator who must go back to an earlier release, and later forward again."""
    url = new_database(postgres_url)
    engine = create_engine(sqlalchemy_url(url))
    for status in JobStatus:
        with engine.begin() as connection:
            bring_to(connection, add_job(connection).id, status)
    engine.dispose()
    seen = "SELECT id, status, model_id, report, artifact, failure, finished_at FROM jobs ORDER BY id"
    with psycopg.connect(url) as plain:
        before = plain.execute(seen).fetchall()
    assert {row[1] for row in before} == set(JobStatus)
    for step in (("downgrade", "202611231200"), ("upgrade", "head")):
        done = alembic(url, *step)
        assert done.returncode == 0, done.stdout + done.stderr
        with psycopg.connect(url) as plain:
            assert plain.execute(seen).fetchall() == before


def bring_to(connection: Connection, job_id: UUID, status: JobStatus) -> None:
    if status is JobStatus.CANCELLED:
        job_rows.cancel(connection, DEFAULT_TENANT, job_id)
    if status in (JobStatus.QUEUED, JobStatus.CANCELLED):
        return
    claim = claim_rows.claim(connection, job_id, "w", 300, 1)
    assert claim is not None
    failure = Failure("lost", "It was lost.")
    if status is JobStatus.CANCELLING:
        job_rows.cancel(connection, DEFAULT_TENANT, job_id)
    elif status is JobStatus.QUARANTINED:
        claim_rows.give_back(connection, claim, failure, 1, 0.0)
    elif status is not JobStatus.RUNNING:
        claim_rows.finish(connection, claim, a_delivery() if status is JobStatus.SUCCEEDED else failure)
