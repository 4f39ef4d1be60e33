"""A child with bad manners, for the tests of the sandbox: started in place of `workers.child`."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from app.domain.errors import ModelRefused
from app.domain.model import Finding, Severity
from workers import child
from workers.channel import Mouth


def main(channel: int) -> None:
    child.VERBS = {name: verb for name, verb in globals().items() if callable(verb)}
    child.main(channel)


def ahead(channel: int) -> None:
    main(channel)


def echo(request: Mapping[str, Any], mouth: Mouth) -> Mapping[str, Any]:
    mouth.phase("one")
    mouth.metric({"step": 1, "phase": "ascent", "loss": float("nan"), "values": {"asr": 0.5}})
    mouth.progress(0.5)
    print("a library prints this")
    return {"got": request["word"]}


def look_around(_request: Mapping[str, Any], _mouth: Mouth) -> Mapping[str, Any]:
    return {
        "pid": os.getpid(),
        "environment": sorted(os.environ),
        "descriptors": sorted(int(item.name) for item in Path("/proc/self/fd").iterdir()),
        "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
        "files": resource.getrlimit(resource.RLIMIT_FSIZE)[0],
        "status": Path("/proc/self/status").read_text(),
        "group": os.getpgid(0) == os.getpid(),
        "temporary": os.environ["TMPDIR"],
    }


def refuse(_request: Mapping[str, Any], _mouth: Mouth) -> NoReturn:
    raise ModelRefused("no", findings=(Finding("XX-TEST", Severity.REFUSAL, "a\x1b[2Jb", "why"),))


def crash(_request: Mapping[str, Any], _mouth: Mouth) -> NoReturn:
    print("last words", file=sys.stderr, flush=True)
    os.abort()


def raise_oddly(_request: Mapping[str, Any], _mouth: Mouth) -> NoReturn:
    raise KeyError("odd")


def leave_early(_request: Mapping[str, Any], _mouth: Mouth) -> NoReturn:
    print("on the way out", file=sys.stderr, flush=True)
    os._exit(0)


def hang(request: Mapping[str, Any], mouth: Mouth) -> NoReturn:
    """Ignores SIGTERM, has a child of its own if it may, and says both process ids."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pids = {"child": os.getpid()}
    with contextlib.suppress(PermissionError):
        pids["grandchild"] = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid
    mouth.metric({"step": 0, "phase": "hang", "loss": None, "values": pids})
    while True:
        time.sleep(1)


def burn(_request: Mapping[str, Any], _mouth: Mouth) -> NoReturn:
    while True:
        pass


def eat(_request: Mapping[str, Any], _mouth: Mouth) -> Mapping[str, Any]:
    return {"size": len(bytes(8 * 1024**3))}


def say(request: Mapping[str, Any], mouth: Mouth) -> Mapping[str, Any]:
    """Sends the line as it is."""
    line = str(request["line"]).replace("*", "x" * 70_000)
    os.write(mouth._fd, line.encode() + b"\n")
    return {}


def print_much(_request: Mapping[str, Any], _mouth: Mouth) -> NoReturn:
    for number in range(200_000):
        print("line", number, file=sys.stderr)
    raise KeyError("after much talk")


def fill(_request: Mapping[str, Any], _mouth: Mouth) -> Mapping[str, Any]:
    Path("big").write_bytes(bytes(4 * 1024 * 1024))
    return {}
