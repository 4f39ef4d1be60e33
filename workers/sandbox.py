"""The one door through which untrusted content is parsed, loaded or trained on.

`run` has a freshly exec'd child (`workers.start`, `workers.child`) in its own session with a clean environment and
nothing inherited but three pipes: the request goes down stdin as one line of JSON, messages come up a pipe of their
own as lines of at most 64 KiB, and what libraries print is kept only as a tail for the operator's log.

The child confines itself first (`workers.confine`) and says which layers it could not have; unless each of them was
named as one to go without, it is told no request, and SandboxUnavailable says what is missing and how to mend it.

Guarantees: no request, and so no untrusted byte, for a child that is less confined than the operator wants; `run`
returns what the child answered, or raises; a crash, a time-out, a memory kill or a word outside the protocol is never
an answer. When it returns or raises, no process of the child's group is left, and none of its temporary files. A
worker that dies takes its child along: the child's stdin ends, and the kernel signals it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import selectors
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from app.domain.confinement import LAYERS, Confinement
from app.domain.errors import (
    ChildCrashed,
    ChildFailed,
    ChildMisspoke,
    ChildOutOfMemory,
    ChildTimeout,
    SandboxUnavailable,
)
from workers.channel import Ear, Final
from workers.start import MODULE, Ahead, Started, start

log = logging.getLogger(__name__)

TAIL_BYTES = 16 * 1024
GRACE_SECONDS = 3.0
PROBE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Limits:
    """`memory_bytes` caps the address space, and is left off where the child sees a GPU (CUDA maps far more than it
    uses). `file_bytes` caps each file that is written."""

    wall_seconds: float
    memory_bytes: int | None = None
    cpu_seconds: int | None = None
    file_bytes: int | None = None
    open_files: int = 256
    message_bytes: int = 256 * 1024 * 1024

    def rlimits(self, gpu: bool) -> dict[str, int]:
        wanted = {
            "AS": None if gpu else self.memory_bytes,
            "CPU": self.cpu_seconds,
            "FSIZE": self.file_bytes,
            "NOFILE": self.open_files,
        }
        return {name: value for name, value in wanted.items() if value is not None}


def run(
    verb: str,
    request: Mapping[str, Any],
    *,
    limits: Limits,
    workdir: Path,
    readable: Iterable[Path] = (),
    writable: Iterable[Path] = (),
    without: Collection[str] = (),
    on_message: Callable[[Mapping[str, Any]], None] = lambda _message: None,
    on_tick: Callable[[], None] = lambda: None,
    tick_seconds: float = 5.0,
    device: str = "cpu",
    module: str = MODULE,
    ahead: Ahead | None = None,
) -> Mapping[str, Any]:
    """Carry out `verb` (inspect or train) on `request` in a child, and return its result.

    Beside what Python is made of, the child may open what is `readable` and `writable`, each with all that lies
    beneath, and its own temporary folder. `without` names the layers to go without.
    `on_message` gets each {"kind": "phase" | "metric" | "progress", ...}; `on_tick` is called every `tick_seconds`.
    Whatever they raise ends the child and goes on to the caller. `workdir` is the caller's private folder.
    A `device` other than cpu lets the child see the GPU, where one is. `ahead` may have a child ready.
    Raises the child's own error (ModelRefused, BadSamples, Diverged, ...), a ChildFailed, or SandboxUnavailable.
    """
    gpu = sees_gpu(device)
    home = workdir / "home"
    home.mkdir(mode=0o700)
    try:
        with _child(module, gpu, ahead) as child:
            child.tell(
                {
                    "verb": verb,
                    "home": str(home),
                    "limits": limits.rlimits(gpu),
                    "readable": [str(path) for path in readable],
                    "writable": [str(path) for path in (home, *writable)],
                    "gpu": gpu,
                    "without": sorted(without),
                }
            )
            child.listen(limits, _Ordered(child, request, without, on_message), on_tick, tick_seconds)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return child.answer()


@lru_cache(maxsize=1)
def probe(without: frozenset[str]) -> Confinement:
    """What this machine gives a child, tried once by starting one that has nothing to do.

    Raises SandboxUnavailable where no child could be started (another try may come to more)."""
    gone = tuple(name for name in LAYERS if name in without)
    try:
        with tempfile.TemporaryDirectory(prefix="lethe-probe-") as folder:
            run("probe", {}, limits=Limits(wall_seconds=PROBE_SECONDS), workdir=Path(folder), without=without)
    except SandboxUnavailable as error:
        if "missing" not in error.details:
            raise
        return Confinement(gone, error.details["missing"])
    except ChildFailed as error:
        log.error("a child cannot work in the sandbox: %s %r", error.message, error.log_tail)
        return Confinement(gone, fault=f"{error.message} The worker's log says more.")
    return Confinement(gone)


def allows(without: frozenset[str]) -> bool:
    """Whether untrusted work may be done here; if not, the log says why. Asked before anything is claimed."""
    try:
        lack = probe(without).lack()
    except SandboxUnavailable as error:
        lack = error.message
    if lack:
        log.error("left waiting: %s", lack)
    return not lack


def sees_gpu(device: str) -> bool:
    """Whether a child for this device is let see a GPU."""
    return device != "cpu" and Path("/dev/nvidiactl").exists()


@contextlib.contextmanager
def _child(module: str, gpu: bool, ahead: Ahead | None) -> Iterator[_Child]:
    """A started child; on the way out its whole group is gone."""
    ready = ahead.take(gpu) if ahead else None
    child = _Child(ready or start(module, "main", gpu))
    try:
        yield child
    finally:
        child.end()
        if ahead:
            ahead.renew()


class _Ordered:
    """Takes the child's messages: on its word that it is confined it gets the request, the rest goes on."""

    def __init__(
        self,
        child: _Child,
        request: Mapping[str, Any],
        without: Collection[str],
        on_message: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self._child, self._request, self._on_message = child, request, on_message
        self._without = tuple(name for name in LAYERS if name in without)

    def __call__(self, message: Mapping[str, Any]) -> None:
        if message["kind"] != "confined":
            self._on_message(message)
            return
        found = Confinement(self._without, message["missing"])
        if not found.holds:
            raise SandboxUnavailable(found.lack(), missing=found.missing)
        self._child.tell(self._request)


class _Child:
    """The parent's side of one child."""

    def __init__(self, started: Started) -> None:
        self._process = started.process
        self._pipe = started.ear
        self._ear = Ear()
        self._tail = b""
        self._final: Final | None = None

    def tell(self, line: Mapping[str, Any]) -> None:
        """Send one line. stdin stays open: its end tells the child that this process is gone."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died at once: `listen` and `answer` say how
            self._process.stdin.write(json.dumps(line).encode() + b"\n")
            self._process.stdin.flush()

    def listen(
        self,
        limits: Limits,
        on_message: Callable[[Mapping[str, Any]], None],
        on_tick: Callable[[], None],
        tick_seconds: float,
    ) -> None:
        """Until the child has closed its pipes. Raises ChildTimeout, ChildMisspoke and what the callbacks raise."""
        assert self._process.stderr is not None
        ends = time.monotonic() + limits.wall_seconds
        next_tick = time.monotonic() + tick_seconds
        self._ear.budget = limits.message_bytes
        with selectors.DefaultSelector() as selector:
            selector.register(self._pipe, selectors.EVENT_READ, on_message)
            selector.register(self._process.stderr, selectors.EVENT_READ, None)
            while selector.get_map():
                now = time.monotonic()
                if now >= ends:
                    raise ChildTimeout(f"It did not end within {limits.wall_seconds:g} s.", self._text())
                if now >= next_tick:
                    on_tick()
                    next_tick = time.monotonic() + tick_seconds
                for key, _ in selector.select(min(ends, next_tick) - now):
                    if not self._read(key.fd, key.data):
                        selector.unregister(key.fileobj)
                    if self._final is not None and key.fd == self._pipe:
                        return

    def _read(self, fd: int, on_message: Callable[[Mapping[str, Any]], None] | None) -> bool:
        """Take what has come; False at the end of the pipe."""
        chunk = os.read(fd, 64 * 1024)
        if on_message is None:
            self._tail = (self._tail + chunk)[-TAIL_BYTES:]
            return bool(chunk)
        try:
            for message in self._ear.hear(chunk):
                if isinstance(message, Final):
                    self._final = message
                else:
                    on_message(message)
        except ChildMisspoke as error:
            raise ChildMisspoke(error.message, self._text()) from None
        return bool(chunk)

    def answer(self) -> Mapping[str, Any]:
        """The result, once the child is gone."""
        if self._final is not None:
            return self._final.unwrap()
        raise self._obituary()

    def _obituary(self) -> ChildFailed:
        code = self._process.returncode
        if code == -signal.SIGXCPU:
            return ChildTimeout("It used up its processor time.", self._text())
        if code == -signal.SIGKILL:
            return ChildOutOfMemory("It was killed, most likely for its use of memory.", self._text())
        if code is not None and code < 0:
            return ChildCrashed(f"It ended by signal {signal.Signals(-code).name}.", self._text())
        return ChildCrashed(f"It ended with status {code} and without an answer.", self._text())

    def end(self) -> None:
        """Ask the group to end, then make it, then reap the leader: until then its number stays taken."""
        if self._final is not None or not _gone_within(self._process.pid, 0.2):
            self._signal(signal.SIGTERM)
        _gone_within(self._process.pid, GRACE_SECONDS)
        self._signal(signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stderr):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        os.close(self._pipe)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _text(self) -> str:
        return self._tail.decode(errors="backslashreplace")


def _gone_within(pid: int, seconds: float) -> bool:
    """Whether the process ends within that time. It is left as a zombie, not reaped."""
    deadline = time.monotonic() + seconds
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)
    return True
