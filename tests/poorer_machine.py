"""A machine that lacks a layer of the sandbox: its kernel answers as one that does not have it, or as a container
runtime that forbids it. Real, and of this thread and its children alone: a filter of system calls takes the part."""

from __future__ import annotations

import ctypes
import errno
import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from workers import sandbox, seccomp
from workers.seccomp import ALLOW, EQUAL, LOAD, RETURN, Block

Got = TypeVar("Got")
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 38, 22
# The system call that a layer needs, on x86_64 and aarch64, and its first argument where that matters.
NEEDED = {
    "empty-network": (272, 97, None),  # unshare
    "no-capabilities": (126, 91, None),  # capset
    "landlock": (444, 444, None),  # landlock_create_ruleset
    "seccomp": (157, 167, PR_SET_SECCOMP),  # prctl
}


def on_a_machine_without(layer: str, do: Callable[[], Got]) -> Got:
    """What `do` returns; it runs in a thread on which the layer cannot be had."""
    came: list[Got] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            _forbid(layer)
            came.append(do())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return came[0]


@contextmanager
def tried_anew() -> Iterator[None]:
    """What this process knows of its sandbox is forgotten, before and after."""
    sandbox.probe.cache_clear()
    yield
    sandbox.probe.cache_clear()


def _forbid(layer: str) -> None:
    on_x86, on_arm, argument = NEEDED[layer]
    number = on_x86 if platform.machine() == "x86_64" else on_arm
    refuse: Block = [(RETURN, 0, 0, 0x00050000 | errno.EPERM)]
    if argument is not None:
        refuse = [(LOAD, 0, 0, 16), (EQUAL, 0, 1, argument), *refuse]
    block: Block = [(LOAD, 0, 0, 0), (EQUAL, 0, len(refuse), number), *refuse, (RETURN, 0, 0, ALLOW)]
    ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    seccomp.load(block)
