"""A worker as a process of its own, over the tests' database and Redis, for tests that stop, kill or starve it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.conftest import ROOT
from tests.service import until

QUICK = {"LEASE": "4", "HEARTBEAT": "0.5", "SWEEP": "0.3", "RESEND": "1"}


@dataclass
class Worker:
    process: subprocess.Popen[bytes]
    log: Path

    def children(self) -> list[psutil.Process]:
        """Those that treat or inspect a model now."""
        found = []
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.Error):
                if "workers.child" in child.cmdline():
                    found.append(child)
        return found

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = 60.0) -> int:
        self.process.send_signal(number)
        return self.process.wait(seconds)


@contextlib.contextmanager
def worker(
    database_url: str, redis_url: str, vault: Path, wrapper: tuple[str, ...] = ("-m",), **environment: str
) -> Iterator[Worker]:
    """Killed at the end, if it has not ended by then. Its watch runs when this returns, broker or not."""
    ours = {f"LETHE_{name}_SECONDS": value for name, value in QUICK.items()} | {
        "DATABASE_URL": database_url, "REDIS_URL": redis_url, "LETHE_VAULT": str(vault),
        "LETHE_TORCH_THREADS": "1", "LETHE_DEVICE": "cpu",
    }  # fmt: skip
    command = [
        sys.executable,
        *wrapper,
        "celery",
        "-A",
        "workers.celery_app",
        "--quiet",
        "worker",
        "--without-gossip",
    ]
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        process = subprocess.Popen(
            [*command, "--without-mingle"], cwd=ROOT, env=os.environ | ours | environment, start_new_session=True,
            stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            yield Worker(process, Path(log.name))
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def ready(one: Worker) -> None:
    until(lambda: "ready" in one.said())
