"""The whole service on one machine: `python -m app.standalone`.

Starts PostgreSQL and Redis (unless DATABASE_URL and REDIS_URL name others), brings the schema up to date, starts the
API and one worker as processes of their own, and keeps them running. Guarantees: one service to a data
folder; the next start finds everything again; Ctrl-C or SIGTERM ends all of it, and nothing is left behind.

In the data folder (LETHE_DATA, by default var/lethe):

    api-key        the generated key, readable by its owner alone
    key-pepper     what the digests of all other keys are made with; without it those keys are void
    signing-key.pem, signing-key.pub    what results are signed with
    webhook-key    what the secrets of webhooks are sealed with
    service.json   while the service runs: address, key, process ids
    vault/ postgres/ redis/ sockets/ logs/
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import psycopg
from pydantic import ValidationError

from app.domain.confinement import Confinement
from app.domain.errors import LetheError, OperatorError
from app.kept_secrets import kept, new_key, new_pepper, signing_key, write_private
from app.settings import Settings, StandaloneSettings
from app.supervisor import Program, Supervisor

ROOT = Path(__file__).resolve().parent.parent
LOOK_SECONDS = 0.2
READY_SECONDS = 120.0
HOPELESS_DEATHS = 6
LOG_TAIL = 15

log = logging.getLogger("lethe")


@dataclass(frozen=True, slots=True)
class Service:
    """What the service is, known before the first process starts."""

    data: Path
    host: str
    port: int
    api_key: str
    key_pepper: str
    vault: Path | str
    worker_slots: int

    @property
    def url(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - an address to call
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def main(arguments: list[str] | None = None) -> int:
    """Runs until it is told to stop. 0: stopped as asked; 1: could not start, with the reason on standard error."""
    options = _parse(arguments)
    logging.basicConfig(format="lethe: %(message)s", level=logging.INFO, stream=sys.stderr)
    stopping, hurry = _on_signals()
    try:
        settings = _read_settings()
        data = _make_private(settings.data.resolve())
        with _only_one(data):
            _run(_plan(settings, data), options.json, stopping, hurry)
    except LetheError as error:
        sys.stderr.write(f"lethe: {error.message}\n")
        return 1
    return 0


def up() -> None:
    """Start the whole service on this machine; Ctrl-C stops it."""
    sys.exit(main([]))


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m app.standalone", description="The whole service on one machine.")
    parser.add_argument("--json", action="store_true", help="print one line of JSON when ready, for programs")
    return parser.parse_args(arguments)


def _on_signals() -> tuple[threading.Event, threading.Event]:
    """The first signal asks for an orderly stop, the second for a fast one."""
    stopping, hurry = threading.Event(), threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        (hurry if stopping.is_set() else stopping).set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    return stopping, hurry


def _read_settings() -> StandaloneSettings:
    """Ours, and a look at those of the other processes. Raises OperatorError naming each that is wrong."""
    servers = {"DATABASE_URL": "postgresql://", "REDIS_URL": "redis://"}
    try:
        Settings.model_validate({name: os.environ.get(name) or stand_in for name, stand_in in servers.items()})
        return StandaloneSettings()
    except ValidationError as error:
        faults = [f"{_variable(fault['loc'])}: {fault['msg']}" for fault in error.errors(include_url=False)]
        raise OperatorError("These settings are wrong. " + "; ".join(faults)) from None


def _variable(place: tuple[int | str, ...]) -> str:
    name = str(place[0])
    return name if name.isupper() else f"LETHE_{name.upper()}"


def _make_private(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("logs", "vault"):
        (folder / name).mkdir(mode=0o700, exist_ok=True)
    return folder


@contextlib.contextmanager
def _only_one(data: Path) -> Iterator[None]:
    """Holds the data folder. The kernel lets go of it when this process ends, however it ends."""
    with (data / "lock").open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OperatorError(f"A service already runs on {data}{_where(data)}.") from None
        yield


def _where(data: Path) -> str:
    with contextlib.suppress(OSError, ValueError, KeyError):
        return f" at {json.loads((data / 'service.json').read_text())['url']}"
    return ""


def _plan(settings: StandaloneSettings, data: Path) -> Service:
    key = settings.api_key.get_secret_value() if settings.api_key else kept(data / "api-key", new_key)
    given = settings.key_pepper
    pepper = given.get_secret_value() if given else kept(data / "key-pepper", new_pepper)
    vault = settings.vault or data / "vault"
    vault = vault.resolve() if isinstance(vault, Path) else vault
    port = _claim_port(settings.host, settings.port)
    return Service(data, settings.host, port, key, pepper, vault, settings.worker_slots)


def _claim_port(host: str, port: int) -> int:
    """The port itself, or a free one for 0. Raises OperatorError when it is taken or the host is not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OperatorError(
                f"Cannot listen on {host}:{port} ({error.strerror}). Set LETHE_PORT: 0 takes a free one."
            ) from None
        chosen: int = probe.getsockname()[1]
        return chosen


def _run(service: Service, as_json: bool, stopping: threading.Event, hurry: threading.Event) -> None:
    supervisor = Supervisor(service.data / "logs")
    start = _Start(service, supervisor, stopping)
    try:
        environment = start.servers()
        start.processes(environment)
        if not stopping.is_set():
            start.announce(environment, as_json)
        while not stopping.wait(LOOK_SECONDS):
            if supervisor.tend():
                start.record(environment)
        log.info("stopping")
    finally:
        supervisor.stop(hurry.is_set)
        (service.data / "service.json").unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _Start:
    """The steps of a start, in order. Each returns early once a stop was asked for."""

    service: Service
    supervisor: Supervisor
    stopping: threading.Event

    def servers(self) -> dict[str, str]:
        """Bring up what no variable names, and the schema. Returns the environment of our own processes."""
        own = {name: os.environ[name] for name in ("DATABASE_URL", "REDIS_URL") if os.environ.get(name)}
        if len(own) < 2:
            self._private_servers(own)
        environment = own | {"LETHE_VAULT": str(self.service.vault)}
        if isinstance(self.service.vault, str) and not os.environ.get("LETHE_SCRATCH"):
            environment["LETHE_SCRATCH"] = str(self.service.data / "scratch")
        if not self.stopping.is_set():
            _migrate(environment)
        return environment

    def _private_servers(self, own: dict[str, str]) -> None:
        from app import private_servers as private  # noqa: PLC0415 - needs the `standalone` extra

        data = self.service.data
        sockets = private.socket_folder(data)
        if "DATABASE_URL" not in own:
            self.supervisor.start(private.prepare_postgres(data / "postgres", sockets))
            self._wait("postgres", lambda: _done(private.create_database, sockets))
            own["DATABASE_URL"] = private.postgres_url(sockets)
        if "REDIS_URL" not in own:
            self.supervisor.start(private.redis_program(data / "redis", sockets))
            self._wait("redis", lambda: private.redis_answers(sockets))
            own["REDIS_URL"] = private.redis_url(sockets)

    def processes(self, environment: dict[str, str]) -> None:
        with psycopg.connect(environment["DATABASE_URL"]) as connection:
            connection.execute("DELETE FROM workers")  # of an earlier run: the start waits for the new one's word
        for program in _programs(self.service, environment):
            self.supervisor.start(program)
        self.record(environment)
        self._wait("api", lambda: _is_ready(self.service.url))
        self._wait("worker", lambda: bool(_sandboxes(self.service.url)))

    def announce(self, environment: dict[str, str], as_json: bool) -> None:
        self.record(environment)
        for lack in filter(None, (each.lack() for each in _sandboxes(self.service.url))):
            log.error(lack)
        if as_json:
            facts = {"url": self.service.url, "data": str(self.service.data)}
            sys.stdout.write(json.dumps(facts) + "\n")
        else:
            sys.stdout.write(_block(self.service, _sandboxes(self.service.url)))
        sys.stdout.flush()

    def record(self, environment: dict[str, str]) -> None:
        """Write service.json anew: programs find the service by it."""
        facts = {
            "url": self.service.url,
            "api_key": self.service.api_key,
            "data": str(self.service.data),
            "database_url": environment["DATABASE_URL"],
            "redis_url": environment["REDIS_URL"],
            "vault": str(self.service.vault),
            "pids": {"standalone": os.getpid(), **self.supervisor.pids()},
        }
        write_private(self.service.data / "service.json", json.dumps(facts, indent=2) + "\n")

    def _wait(self, name: str, answers: Callable[[], bool]) -> None:
        """Raises OperatorError, with the end of the program's log, when it does not answer in time or keeps dying."""
        deadline = time.monotonic() + READY_SECONDS
        while not self.stopping.is_set() and not answers():
            if time.monotonic() > deadline or self.supervisor.deaths(name) >= HOPELESS_DEATHS:
                file = self.supervisor.log_of(name)
                tail = "\n".join(file.read_text(errors="replace").splitlines()[-LOG_TAIL:])
                raise OperatorError(
                    f"{name} did not come up in {READY_SECONDS:.0f} s. Its log, {file}, ends:\n{tail}"
                )
            self.supervisor.tend()
            self.stopping.wait(LOOK_SECONDS)


def _programs(service: Service, environment: dict[str, str]) -> Iterator[Program]:
    """Our own processes. Only the API gets the key and the pepper, and only the worker what signs. A worker that is
    stopped mid-job hands it back: it goes on at the next start."""
    listen = ("--host", service.host, "--port", str(service.port))
    secret, public = _signing(service.data)
    environment = environment | _webhooks(service.data)
    keyed = environment | {"LETHE_API_KEY": service.api_key, "LETHE_KEY_PEPPER": service.key_pepper} | public
    yield _python("api", "app.server", *listen, environment=keyed)
    celery = ("celery", "-A", "workers.celery_app", "--quiet")
    alone = ("--loglevel", "INFO", "--without-gossip", "--without-mingle", "--without-heartbeat")
    slots = {"LETHE_WORKER_SLOTS": str(service.worker_slots), "LETHE_DRAIN_SECONDS": "0"}
    yield _python("worker", *celery, "worker", *alone, environment=environment | slots | secret)


def _webhooks(data: Path) -> dict[str, str]:
    """What API and worker seal webhooks' secrets with."""
    given = os.environ.get("LETHE_WEBHOOK_KEY")
    return {} if given else {"LETHE_WEBHOOK_KEY": kept(data / "webhook-key", new_pepper)}


def _signing(data: Path) -> tuple[dict[str, str], dict[str, str]]:
    """What the worker and what the API is told of the key of results: ours, unless the operator has named one."""
    if os.environ.get("LETHE_SIGNING_KEY"):
        return {}, {}
    private, public = signing_key(data)
    return {"LETHE_SIGNING_KEY": str(private)}, {"LETHE_SIGNING_PUBLIC_KEY": str(public)}


def _python(name: str, *arguments: str, environment: dict[str, str]) -> Program:
    """A module run by this interpreter."""
    return Program(name, (sys.executable, "-m", *arguments), environment, patience=8)


def _migrate(environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "alembic", "-c", str(ROOT / "migrations/alembic.ini"), "upgrade", "head"]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OperatorError(f"The database could not be brought up to date:\n{done.stderr[-2000:]}")


def _done(step: Callable[[Path], None], sockets: Path) -> bool:
    try:
        step(sockets)
    except psycopg.OperationalError:
        return False
    return True


def _is_ready(url: str) -> bool:
    """Whether everything but the sandbox is: without that the service takes uploads and jobs, and lets them wait."""
    parts: dict[str, bool] = _readiness(url).get("parts", {})
    return bool(parts) and all(fine for name, fine in parts.items() if name != "sandbox")


def _sandboxes(url: str) -> list[Confinement]:
    return [Confinement.from_dict(each) for each in _readiness(url).get("sandboxes", [])]


def _readiness(url: str) -> dict[str, Any]:
    """What /readyz tells, ready or not; nothing while it does not answer."""
    try:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:  # noqa: S310 - our own address
                body = answer.read()
        except urllib.error.HTTPError as refusal:
            body = refusal.read()
        found: dict[str, Any] = json.loads(body)
    except (OSError, ValueError):
        return {}
    return found


def _block(service: Service, sandboxes: list[Confinement]) -> str:
    layers = "; ".join(each.in_words() for each in sandboxes)
    return (
        f"\n  Lethe is ready\n\n"
        f"  address   {service.url}\n"
        f"  API key   {service.api_key}\n"
        f"  data      {service.data}\n"
        f"  logs      {service.data / 'logs'}\n"
        f"  sandbox   {layers}\n\n"
        f"  Stop with Ctrl-C.\n\n"
    )


if __name__ == "__main__":
    sys.exit(main())
