"""How the process of a sandboxed child begins: freshly exec'd for a request, or a little before there is one.

Either way it has a clean environment, its own session and nothing inherited but three pipes, and it is told nothing
yet. Each serves one request and ends: what was started ahead has imported its libraries and no more, so a request
that comes finds them there and waits for no import (docs/decisions/0040).
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from app.domain.errors import SandboxUnavailable

log = logging.getLogger(__name__)

PROJECT = Path(__file__).resolve().parent.parent
MODULE = "workers.child"
# -I: no PYTHON* variables, no user site, no current folder on the path; so the project's folder is named.
BOOT = """
import sys
from importlib import import_module
project, module, entry, channel = sys.argv[1:]
sys.path.insert(0, project)
getattr(import_module(module), entry)(int(channel))
"""
# One thread until it is confined: the layers are laid on the calling thread alone.
CLEAN = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}
GPU_VARIABLES = ("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES")


@dataclass(frozen=True, slots=True)
class Started:
    """A process that waits for its first line on stdin; `ear` is the parent's end of its message pipe."""

    process: subprocess.Popen[bytes]
    ear: int

    def discard(self) -> None:
        """It was told nothing, so there is nothing to wait for."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()
        os.close(self.ear)


def start(module: str, entry: str, gpu: bool) -> Started:
    """Raises SandboxUnavailable."""
    ear, mouth = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-B", "-c", BOOT, str(PROJECT), module, entry, str(mouth)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(mouth,),
            env=_environment(gpu),
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        os.close(ear)
        raise SandboxUnavailable(f"The sandboxed child could not be started: {error.strerror}.") from error
    finally:
        os.close(mouth)
    return Started(process, ear)


def _environment(gpu: bool) -> dict[str, str]:
    if not gpu:
        return CLEAN | {"CUDA_VISIBLE_DEVICES": ""}
    return CLEAN | {name: os.environ[name] for name in GPU_VARIABLES if name in os.environ}


class Ahead:
    """Keeps one child ready, once `begin` was called.

    A thread of its own starts them all: the kernel ends a confined child with the thread that started it, so that
    must be one that stays."""

    def __init__(self, module: str = MODULE) -> None:
        self._module = module
        self._wanted = threading.Condition()
        self._ready: Started | None = None
        self._gpu = False
        self._over = True

    def begin(self, gpu: bool) -> None:
        """`gpu`: whether the requests of this process are for children that see one."""
        self._gpu, self._over = gpu, False
        threading.Thread(target=self._keep, daemon=True, name="ahead").start()

    @property
    def ready(self) -> bool:
        return self._ready is not None

    def take(self, gpu: bool) -> Started | None:
        """The one that is ready, now the caller's; None where there is none of that kind."""
        with self._wanted:
            if gpu != self._gpu or self._ready is None:
                return None
            taken, self._ready = self._ready, None
        if taken.process.poll() is None:
            return taken
        log.warning("a child that was started ahead has ended with status %s", taken.process.returncode)
        taken.discard()
        return None

    def renew(self) -> None:
        """Start the next one: called when a request has ended, so that it takes no time of one that runs."""
        with self._wanted:
            self._wanted.notify()

    def end(self) -> None:
        with self._wanted:
            self._over = True
            if self._ready is not None:
                self._ready.discard()
            self._ready = None
            self._wanted.notify()

    def _keep(self) -> None:
        with self._wanted:
            while not self._over:
                if self._ready is None:
                    with contextlib.suppress(SandboxUnavailable):  # the request will start its own, or say so
                        self._ready = start(self._module, "ahead", self._gpu)
                self._wanted.wait()
