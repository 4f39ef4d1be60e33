"""The whole service as `python -m app.standalone` runs it: started, asked, stopped and killed by tests."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil

from tests.api_process import NO_TLS
from tests.conftest import ROOT

START_SECONDS = 120.0
PATIENCE_SECONDS = 120.0  # only a hang takes so long, on a busy machine too
INHERITED = (
    "DATABASE_URL", "REDIS_URL", "LETHE_DATA", "LETHE_VAULT", "LETHE_API_KEY", "LETHE_KEY_PEPPER", "LETHE_HOST",
    "LETHE_PORT",
)  # fmt: skip


@dataclass
class Service:
    """One data folder, and the process that runs on it. `environment` is laid over the tests' own."""

    data: Path
    environment: dict[str, str] = field(default_factory=dict)
    said: str = ""
    _process: subprocess.Popen[str] | None = None

    def launch(self) -> subprocess.Popen[str]:
        """Start a process on the data folder and return at once."""
        settings = {"LETHE_DATA": str(self.data), "LETHE_PORT": "0", "PYTHONPATH": str(ROOT)}
        inherited = {name: value for name, value in os.environ.items() if name not in INHERITED}
        command = [sys.executable, "-m", "app.standalone", "--json"]
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=inherited | settings | self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def start(self) -> None:
        """Returns once the service says that it is ready; its words are in `facts`."""
        self._process = self.launch()
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise AssertionError(f"the service did not start:\n{self._process.communicate()[1]}\n{self.logs()}")

    @property
    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.data / "service.json").read_text())
        return found

    @property
    def url(self) -> str:
        return str(self.facts["url"])

    def client(self) -> httpx2.Client:
        """With the address and the key set; close it."""
        headers = {"Authorization": f"Bearer {self.facts['api_key']}"}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=60, verify=NO_TLS)

    def processes(self) -> list[psutil.Process]:
        """The service's process and everything below it."""
        assert self._process is not None
        top = psutil.Process(self._process.pid)
        return [top, *top.children(recursive=True)]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, and return the exit status; `said` is then what it wrote to stderr."""
        assert self._process is not None
        self._process.send_signal(number)
        self.said = self._process.communicate(timeout=60)[1]
        return self._process.returncode

    def logs(self) -> str:
        """The end of every process's log."""
        files = sorted((self.data / "logs").glob("*.log"))
        return "\n".join(f"== {file.name}\n{file.read_text(errors='replace')[-3000:]}" for file in files)


def until(true: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> Any:
    """What `true` returns, once it is something. AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(httpx2.TransportError):
            if found := true():
                return found
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds} s in vain")


@contextmanager
def data_folder() -> Iterator[Path]:
    """Outside pytest's own folder: its parents must stay open to the system user that runs PostgreSQL for root."""
    folder = Path(tempfile.mkdtemp(prefix="lethe-data-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running_service(**environment: str) -> Iterator[Service]:
    with data_folder() as data:
        service = Service(data, environment)
        service.start()
        try:
            yield service
        finally:
            with suppress(psutil.NoSuchProcess, subprocess.TimeoutExpired):
                service.stop()
