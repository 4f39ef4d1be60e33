"""A child started before there was a request for it: as confined as any other, used once, never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.workers.test_sandbox import ROOT, gone, run, wait_until
from workers.start import Ahead

ODD = "tests.workers.odd_child"


@pytest.fixture
def ahead() -> Iterator[Ahead]:
    ready = Ahead(ODD)
    ready.begin(gpu=False)
    yield ready
    ready.end()


def waiting(parent: int | None = None) -> list[int]:
    """The children that wait for a request or serve one."""
    found = []
    for process in psutil.Process(parent).children():
        if process.status() != psutil.STATUS_ZOMBIE and "ahead" in process.cmdline():
            found.append(process.pid)
    return found


def look_around(folder: Path, **more: Any) -> dict[str, Any]:
    folder.mkdir()
    return dict(run("look_around", folder, **more))


def test_it_serves_one_request_and_the_next_has_another(ahead: Ahead, tmp_path: Path) -> None:
    served = []
    for name in ("one", "two"):
        wait_until(lambda: ahead.ready)
        (first,) = waiting()
        served.append(look_around(tmp_path / name, ahead=ahead)["pid"])
        assert served[-1] == first
        assert gone(first)
    assert served[0] != served[1]


def test_it_is_confined_as_one_that_was_started_for_the_request(ahead: Ahead, tmp_path: Path) -> None:
    wait_until(lambda: ahead.ready)
    early, late = look_around(tmp_path / "early", ahead=ahead), look_around(tmp_path / "late")
    assert early["temporary"] == str(tmp_path / "early/home")
    assert list((tmp_path / "early").iterdir()) == []
    for name in ("environment", "core", "files", "group"):
        assert early[name] == late[name]
    assert len(early["descriptors"]) == len(late["descriptors"])
    for line in ("NoNewPrivs", "Seccomp", "CapEff", "CapBnd", "Threads"):
        assert value_of(line, early["status"]) == value_of(line, late["status"])


def value_of(name: str, status: str) -> list[str]:
    return [line for line in status.splitlines() if line.startswith(f"{name}:")]


def test_where_none_is_ready_the_request_starts_its_own(ahead: Ahead, tmp_path: Path) -> None:
    wait_until(lambda: ahead.ready)
    (killed,) = waiting()
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: gone(killed))
    assert look_around(tmp_path / "own", ahead=ahead)["pid"] != killed
    assert Ahead(ODD).take(gpu=False) is None, "it was never begun"


def test_one_of_the_other_kind_is_left_alone(ahead: Ahead) -> None:
    wait_until(lambda: ahead.ready)
    assert ahead.take(gpu=True) is None
    assert waiting()


def test_at_the_end_none_is_left(ahead: Ahead, tmp_path: Path) -> None:
    wait_until(lambda: ahead.ready)
    (last,) = waiting()
    ahead.end()
    assert gone(last)
    assert look_around(tmp_path / "after", ahead=ahead)["pid"] != last
    assert waiting() == []


def test_a_killed_worker_leaves_none_waiting() -> None:
    code = (
        "import json; from workers.start import Ahead\n"
        f"ahead = Ahead({ODD!r}); ahead.begin(gpu=False)\n"
        "while (ready := ahead.take(False)) is None: pass\n"
        "print(ready.process.pid, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout is not None
        pid = int(worker.stdout.readline())
        assert not gone(pid)
        worker.send_signal(signal.SIGKILL)
    wait_until(lambda: gone(pid))
