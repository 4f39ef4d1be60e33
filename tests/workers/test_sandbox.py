"""The sandbox: what comes back, and that nothing but an answer ever counts as one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from app.domain.errors import (
    ChildCrashed,
    ChildFailed,
    ChildMisspoke,
    ChildOutOfMemory,
    ChildTimeout,
    LeaseLost,
    ModelRefused,
)
from workers import sandbox

ROOT = Path(__file__).resolve().parent.parent.parent
GIB = 1024**3
# The layers that keep a child from having children.
CHILDLESS = ("landlock", "seccomp")


def run(verb: str, tmp_path: Path, **more: Any) -> Mapping[str, Any]:
    request = more.pop("request", {})
    limits = more.pop("limits", sandbox.Limits(wall_seconds=60))
    return sandbox.run(verb, request, limits=limits, workdir=tmp_path, module="tests.workers.odd_child", **more)


def gone(pid: int) -> bool:
    """Whether no such process runs any more (a zombie has ended too)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


def test_messages_then_the_result(tmp_path: Path) -> None:
    heard: list[Mapping[str, Any]] = []
    assert run("echo", tmp_path, request={"word": "straße"}, on_message=heard.append) == {"got": "straße"}
    assert heard == [
        {"kind": "phase", "phase": "one"},
        {"kind": "metric", "metric": {"step": 1, "phase": "ascent", "loss": None, "values": {"asr": 0.5}}},
        {"kind": "progress", "progress": 0.5},
    ]
    assert list(tmp_path.iterdir()) == []


def test_the_child_sees_nothing_of_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:secret@host/name")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    with (tmp_path / "open").open("w") as held:
        os.set_inheritable(held.fileno(), True)
        limits = sandbox.Limits(wall_seconds=60, file_bytes=1024, memory_bytes=4 * GIB)
        seen = run("look_around", tmp_path, limits=limits)
    assert "DATABASE_URL" not in seen["environment"]
    assert "PYTHONPATH" not in seen["environment"]
    assert len(seen["descriptors"]) <= 6, "three standard ones, the message pipe, its part of /proc, the listing"
    assert (seen["core"], seen["files"], seen["group"]) == (0, 1024, True)
    assert "NoNewPrivs:\t1" in seen["status"]
    assert seen["temporary"] == str(tmp_path / "home")


def test_a_refusal_arrives_as_one_with_its_findings_made_plain(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused) as caught:
        run("refuse", tmp_path)
    (finding,) = caught.value.details["findings"]
    assert (finding.rule, finding.file, finding.message) == ("XX-TEST", "a�[2Jb", "why")


@pytest.mark.parametrize(
    ("verb", "error", "word"),
    [
        ("crash", ChildCrashed, "last words"),
        ("raise_oddly", ChildCrashed, "KeyError"),
        ("print_much", ChildCrashed, "after much talk"),
        ("leave_early", ChildCrashed, "on the way out"),
        ("no_such_verb", ChildCrashed, "KeyError"),
    ],
)
def test_an_end_without_an_answer_is_a_crash(verb: str, error: type[ChildFailed], word: str, tmp_path: Path) -> None:
    with pytest.raises(error) as caught:
        run(verb, tmp_path)
    assert word in caught.value.log_tail
    assert word not in caught.value.message
    assert len(caught.value.log_tail) <= sandbox.TAIL_BYTES
    assert list(tmp_path.iterdir()) == []


def test_limits_on_memory_time_and_files(tmp_path: Path) -> None:
    with pytest.raises(ChildOutOfMemory):
        run("eat", tmp_path, limits=sandbox.Limits(60, memory_bytes=2 * GIB))
    with pytest.raises(ChildTimeout):
        run("burn", tmp_path, limits=sandbox.Limits(60, cpu_seconds=1))
    with pytest.raises(ChildTimeout):
        run("burn", tmp_path, limits=sandbox.Limits(0.5))
    with pytest.raises(ChildCrashed, match="status 1"):
        run("fill", tmp_path, limits=sandbox.Limits(60, file_bytes=1024 * 1024))


@pytest.mark.parametrize(
    "line",
    [
        "not JSON",
        '{"kind": "metric", "metric": {"loss": NaN}}',
        '{"kind": "metric", "metric": {"loss": [1]}}',
        '{"kind": "metric", "metric": {"step": 1, "phase": "a", "loss": null, "values": {"asr": "x"}}}',
        '{"kind": "metric", "metric": {"step": 1, "phase": "a", "loss": 1e999, "values": {}}}',
        '{"kind": "progress", "progress": 7}',
        '{"kind": "phase", "phase": "a\\u001b"}',
        '{"kind": "phase", "phase": "*"}',
        '{"kind": "other"}',
        '{"kind": "error", "code": "lease-lost", "message": "fooled"}',
        '{"kind": "error", "code": "model-refused", "message": "m", "findings": [{"rule": "x"}]}',
        '{"kind": "result", "result": {}}\n{"kind": "result", "result": {"second": 1}}',
        "[" * 60_000,
    ],
)
def test_a_word_outside_the_protocol_is_no_answer(line: str, tmp_path: Path) -> None:
    with pytest.raises(ChildMisspoke):
        run("say", tmp_path, request={"line": line})


def test_too_much_talk_is_no_answer(tmp_path: Path) -> None:
    with pytest.raises(ChildMisspoke, match="more messages"):
        run("echo", tmp_path, request={"word": "x" * 500}, limits=sandbox.Limits(60, message_bytes=300))


def test_what_a_tick_raises_ends_the_whole_group(tmp_path: Path) -> None:
    heard: list[Mapping[str, Any]] = []

    def tick() -> None:
        if heard:
            raise LeaseLost("another worker has it")

    with pytest.raises(LeaseLost):
        run("hang", tmp_path, on_message=heard.append, on_tick=tick, tick_seconds=0.05, without=CHILDLESS)
    pids = heard[0]["metric"]["values"]
    assert gone(pids["child"])
    wait_until(lambda: gone(pids["grandchild"]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("without", [(), ("dies-with-parent",), CHILDLESS])
def test_a_killed_worker_leaves_no_child(without: tuple[str, ...], tmp_path: Path) -> None:
    code = (
        "import sys, json; from pathlib import Path; from workers import sandbox\n"
        "sandbox.run('hang', {}, limits=sandbox.Limits(60), workdir=Path(sys.argv[1]), without=sys.argv[2:],\n"
        "    module='tests.workers.odd_child', on_message=lambda m: print(json.dumps(m), flush=True))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), *without], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout is not None
        pids = json.loads(worker.stdout.readline())["metric"]["values"]
        worker.send_signal(signal.SIGKILL)
    assert ("grandchild" in pids) is (without == CHILDLESS)
    wait_until(lambda: gone(pids["child"]))
