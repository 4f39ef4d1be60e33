"""The API as a real process: started, killed and started again on the same port over the same database and vault."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from tests.conftest import ROOT, free_port

KEY = "lethe_test_0123456789abcdef"
PEPPER = "a pepper for tests, which no key of a real service was made with"
START_SECONDS = 60.0
# For clients of these tests, which speak plain HTTP: to read the authorities takes 20 ms each time.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@dataclass
class ApiProcess:
    """`environment` is laid over the process's own. The log is kept in `vault`'s folder as api.log."""

    database_url: str
    redis_url: str
    vault: Path
    environment: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    wrapper: tuple[str, ...] = ("-m",)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Returns once /livez answers."""
        command = [sys.executable, *self.wrapper, "app.server"]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        settings = {
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis_url,
            "LETHE_VAULT": str(self.vault),
            "LETHE_API_KEY": KEY,
            "LETHE_KEY_PEPPER": PEPPER,
            "LETHE_WEBHOOK_KEY": PEPPER,
        }
        environment = os.environ | settings | self.environment
        with (self.vault / "api.log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        self._wait_until_alive()

    def _wait_until_alive(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                httpx2.get(f"{self.url}/livez", timeout=5, verify=NO_TLS).raise_for_status()
            except httpx2.HTTPError:
                time.sleep(0.05)
            else:
                return
        raise AssertionError(f"the API did not start:\n{self.log()}")

    def log(self) -> str:
        return (self.vault / "api.log").read_text()

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.kill()

    def client(self) -> httpx2.Client:
        """With the address and the key set; close it."""
        return httpx2.Client(base_url=self.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=60, verify=NO_TLS)


@contextmanager
def running_api(database_url: str, redis_url: str, vault: Path, **environment: str) -> Iterator[ApiProcess]:
    vault.mkdir(parents=True, exist_ok=True)
    process = ApiProcess(database_url, redis_url, vault, environment)
    process.start()
    try:
        yield process
    finally:
        process.stop()
