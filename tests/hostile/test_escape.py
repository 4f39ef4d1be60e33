"""What a child in an attacker's hands can reach: nothing. And each layer is shown to be what stops it.

For each way out BLOCKERS names the layers that close it. Three things are tested: with every layer it is closed; with
one of its blockers and none of the others it is closed; with none of its blockers, and all other layers, it is open.
So a blocker that stops blocking fails a test, and so does an attack that never worked.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from app.domain.errors import ChildCrashed
from tests.hostile.escaping_child import IO_URING_SETUP
from workers import landlock, sandbox
from workers.seccomp import ALLOW, KILL, LOOKED_AT, REFUSE, REFUSED, UNKNOWN, Block, program
from workers.system_calls import NEWEST

VERSION = landlock.version()
LOCK_TCP = ("landlock",) if VERSION >= 4 else ()
LOCK_SCOPES = ("landlock",) if VERSION >= 6 else ()
LOCK_TRUNCATE = ("landlock",) if VERSION >= 3 else ()
# Root without capabilities has no hold on root with them; nor has a process on one outside its user namespace.
LESSER = ("no-capabilities",) if os.geteuid() == 0 else ("empty-network",)

BLOCKERS: Mapping[str, tuple[str, ...]] = {
    "tcp": ("seccomp", "empty-network", *LOCK_TCP),
    "udp": ("seccomp", "empty-network"),
    "abstract_socket": ("seccomp", "empty-network", *LOCK_SCOPES),
    "socket_file": ("seccomp",),
    "password_file": ("landlock",),
    "files_of_a_sibling": ("landlock",),
    "folders_of_the_worker": ("landlock",),
    "write_outside": ("landlock",),
    "make_a_file_outside": ("landlock",),
    "remove_outside": ("landlock",),
    "change_its_input": ("landlock",),
    "link_among_the_results": ("landlock",),
    "truncate_outside": ("seccomp", *LOCK_TRUNCATE),
    "open_up_a_file": ("seccomp",),
    "run_a_program": ("seccomp", "landlock"),
    "fork_bomb": ("seccomp",),
    "trace_the_parent": ("seccomp", "landlock", *LESSER),
    "memory_of_the_parent": ("seccomp", "landlock", *LESSER),
    "memory_through_procfs": ("landlock", *LESSER),
    "environment_through_procfs": ("landlock", *LESSER),
    "descriptors_through_procfs": ("landlock", *LESSER),
    "signal_the_parent": ("seccomp", *LOCK_SCOPES),
    "signal_by_descriptor": ("seccomp", *LOCK_SCOPES),
    "limits_of_the_parent": ("seccomp",),
    "shared_memory": ("seccomp",),
    "io_uring": ("seccomp",),
    "watch_files": ("seccomp",),
    "new_mounts": ("seccomp", "no-capabilities"),
    "outlive_the_worker": ("seccomp",),
}
SECRET = b"secret"
TRACING = {"trace_the_parent", "memory_of_the_parent", "memory_through_procfs"}
SIGNALS = {"signal_the_parent", "signal_by_descriptor"}


@pytest.fixture
def signals() -> Iterator[list[int]]:
    """Those of the attack that came through to this process."""
    heard: list[int] = []

    def hear(number: int, _frame: FrameType | None) -> None:
        heard.append(number)

    before = signal.signal(signal.SIGURG, hear)
    yield heard
    signal.signal(signal.SIGURG, before)


@pytest.fixture
def surroundings(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """What there is to be reached: servers, files, memory."""
    for name in ("in", "out", "sibling"):
        (tmp_path / name).mkdir()
    (tmp_path / "in/config").write_text("{}")
    (tmp_path / "sibling/weights").write_text("weights of another caller")
    held = ctypes.create_string_buffer(SECRET)
    libc, key = ctypes.CDLL(None), int.from_bytes(os.urandom(3), "big") + 1
    shared = libc.shmget(key, 4096, 0o1600)
    libc.shmat.restype = ctypes.c_ssize_t
    ctypes.memmove(libc.shmat(shared, None, 0), SECRET, len(SECRET))
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.socket(socket.AF_UNIX) as in_a_file,
        (tmp_path / "sibling/weights").open() as opened,
    ):
        udp.bind(("127.0.0.1", 0))
        abstract.bind(f"\0lethe-{key}")
        in_a_file.bind(str(tmp_path / "s"))
        for server in (abstract, in_a_file):
            server.listen()
        yield {
            "tcp": tcp.getsockname()[1],
            "udp": udp.getsockname()[1],
            "abstract": f"lethe-{key}",
            "socket_file": str(tmp_path / "s"),
            "inputs": str(tmp_path / "in"),
            "out": str(tmp_path / "out"),
            "sibling": str(tmp_path / "sibling"),
            "address": ctypes.addressof(held),
            "length": len(SECRET),
            "descriptor": opened.fileno(),
            "shared": key,
        }
    libc.shmctl(shared, 0, None)  # IPC_RMID


def escapes(attack: str, surroundings: Mapping[str, Any], signals: list[int], without: tuple[str, ...]) -> bool:
    """Whether the attack gets what it is after."""
    folder = Path(surroundings["out"]).parent
    try:
        answer = sandbox.run(
            attack,
            surroundings,
            limits=sandbox.Limits(wall_seconds=60),
            workdir=folder,
            readable=[folder / "in"],
            writable=[folder / "out"],
            without=without,
            module="tests.hostile.escaping_child",
        )
    except ChildCrashed:
        if attack != "run_a_program":  # that program ends without an answer
            raise
        return True
    assert set(answer) in ({"got"}, {"blocked"})
    if attack in SIGNALS:
        return bool(signals)
    return "got" in answer


def machine_forbids(attack: str) -> bool:
    """Whether this machine refuses it to any process, sandbox or not."""
    if attack == "io_uring":
        return int(ctypes.CDLL(None).syscall(IO_URING_SETUP, 1, bytes(120))) < 0
    yama = Path("/proc/sys/kernel/yama/ptrace_scope")
    restricted = yama.exists() and int(yama.read_text()) > (0 if os.geteuid() else 2)
    return attack in TRACING and restricted


@pytest.mark.parametrize("attack", BLOCKERS)
def test_with_every_layer_it_is_closed(attack: str, surroundings: dict[str, Any], signals: list[int]) -> None:
    assert not escapes(attack, surroundings, signals, ())


@pytest.mark.parametrize(
    ("attack", "layer"),
    [(attack, layer) for attack, layers in BLOCKERS.items() for layer in layers if len(layers) > 1],
)
def test_one_layer_of_those_that_close_it_is_enough(
    attack: str, layer: str, surroundings: dict[str, Any], signals: list[int]
) -> None:
    others = tuple(name for name in BLOCKERS[attack] if name != layer)
    assert not escapes(attack, surroundings, signals, others)


@pytest.mark.parametrize("attack", BLOCKERS)
def test_without_these_layers_it_is_open(attack: str, surroundings: dict[str, Any], signals: list[int]) -> None:
    assert escapes(attack, surroundings, signals, BLOCKERS[attack]) is not machine_forbids(attack)


def test_the_files_that_the_child_may_have_are_open(surroundings: dict[str, Any], tmp_path: Path) -> None:
    """So that the tests above do not pass because nothing works."""
    answer = sandbox.run(
        "use_what_is_given",
        surroundings,
        limits=sandbox.Limits(wall_seconds=60),
        workdir=tmp_path,
        readable=[tmp_path / "in"],
        writable=[tmp_path / "out"],
        module="tests.hostile.escaping_child",
    )
    assert answer == {"got": "{} and a thread"}
    assert (tmp_path / "out/folder/renamed").read_text() == "result"


# --- the filter of system calls, on both architectures ------------------------------------------------------------

MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
PID = 4321


def judge(block: Block, number: int, audited: int, *arguments: int) -> int:
    """What the filter answers: its program carried out."""
    words = {0: number, 4: audited} | {16 + 8 * index: value for index, value in enumerate(arguments)}
    value, at = 0, 0
    while True:
        code, if_true, if_false, operand = block[at]
        at += 1
        match code:
            case 0x20:
                value = words.get(operand, 0)
            case 0x06:
                return operand
            case 0x15:
                at += if_true if value == operand else if_false
            case 0x35:
                at += if_true if value >= operand else if_false
            case 0x45:
                at += if_true if value & operand else if_false


@pytest.mark.parametrize("machine", MACHINES)
def test_the_filter_answers_as_its_lists_say(machine: str) -> None:
    audited, column = MACHINES[machine]
    block = program(machine, PID)
    listed = {numbers[column] for numbers in itertools.chain(REFUSED.values(), LOOKED_AT.values())}
    for number in range(NEWEST + 1):
        if number not in listed:
            assert judge(block, number, audited) == ALLOW
    for numbers in REFUSED.values():
        if (refused := numbers[column]) is not None:
            assert judge(block, refused, audited) == REFUSE
    assert judge(block, NEWEST + 1, audited) == UNKNOWN
    assert judge(block, 0, 0x40000003) == KILL  # another architecture
    if machine == "x86_64":
        assert judge(block, 0x40000000, audited) == KILL


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("call", "arguments", "answer"),
    [
        ("clone", (0x3D0F00,), ALLOW),  # a thread
        ("clone", (17,), REFUSE),  # a process
        ("clone", (0x10000000 | 17,), REFUSE),  # in a namespace of its own
        ("clone3", (), UNKNOWN),
        ("kill", (PID, 9), ALLOW),
        ("kill", (0, 9), ALLOW),
        ("kill", (PID + 1, 9), REFUSE),
        ("kill", (2**32 - 1, 9), REFUSE),  # everybody
        ("tgkill", (PID, 7, 6), ALLOW),
        ("tgkill", (1, 1, 6), REFUSE),
        ("prlimit64", (0, 7), ALLOW),
        ("prlimit64", (1, 7), REFUSE),
        ("sched_setaffinity", (PID,), ALLOW),
        ("sched_setaffinity", (1,), REFUSE),
        ("prctl", (15,), ALLOW),  # a thread's name
        ("prctl", (1, 0), REFUSE),
        ("prctl", (4, 1), REFUSE),
        ("fcntl", (3, 1), ALLOW),
        ("fcntl", (3, 8), REFUSE),
        ("fcntl", (3, 10), REFUSE),
        ("fcntl", (3, 15), REFUSE),
        ("ioctl", (3, 0x5401), ALLOW),
        ("ioctl", (3, 0x5412), REFUSE),
    ],
)
def test_some_calls_are_judged_by_an_argument(
    machine: str, call: str, arguments: tuple[int, ...], answer: int
) -> None:
    audited, column = MACHINES[machine]
    assert judge(program(machine, PID), LOOKED_AT[call][column], audited, *arguments) == answer
