"""A filter of system calls: what computing does not need is refused with EPERM, for this process and for good.

Torch needs threads, memory and files; it needs no sockets, no other program, no other process. The lists and their
reasons are in `workers.system_calls`. Some calls are judged by an argument: `clone` makes threads only, signals and
limits reach only this process, a descriptor sends no signals. Calls of another architecture kill the process; calls
newer than the lists are answered as if the kernel did not have them.

The filter is a program in classic BPF (Linux, Documentation/userspace-api/seccomp_filter.rst) over `struct
seccomp_data`: number at 0, architecture at 4, arguments of 8 bytes from 16, little-endian on both architectures.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterable

from workers.system_calls import LOOKED_AT, NEWEST, REFUSED

PR_SET_SECCOMP = 22
MODE_FILTER = 2
# Architecture as the kernel audits it, and the column of the tables.
ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
X32 = 0x40000000  # on x86_64: this bit marks a second set of numbers for the same calls

LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL = 0x7FFF0000, 0x80000000
REFUSE, UNKNOWN = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS

CLONE_THREAD = 0x00010000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4
F_SETOWN, F_SETSIG, F_SETOWN_EX = 8, 10, 15
TIOCSTI, TIOCLINUX, FIOSETOWN, SIOCSPGRP = 0x5412, 0x541C, 0x8901, 0x8902

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand
Block = list[Instruction]


def install() -> None:
    """Needs no_new_privs. Raises OSError where the kernel or the architecture has no filter."""
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        raise OSError(errno.EOPNOTSUPP, f"no filter is written for {machine}")
    load(program(machine, os.getpid()))


def load(block: Block) -> None:
    """The filter is this thread's and of what it starts from now on. Raises OSError."""
    code = assemble(block)
    held = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("@HP", len(code) // 8, ctypes.addressof(held))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(MODE_FILTER), header, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def program(machine: str, pid: int) -> Block:
    """The filter for a process of that number."""
    audited, column = ARCHITECTURES[machine]
    found: Block = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, audited), _end(KILL), (LOAD, 0, 0, 0)]
    if machine == "x86_64":
        found += [(AT_LEAST, 0, 1, X32), _end(KILL)]
    found += [(AT_LEAST, 0, 1, NEWEST + 1), _end(UNKNOWN)]
    for numbers in REFUSED.values():
        if (number := numbers[column]) is not None:
            found += _when(number, [_end(REFUSE)])
    for name, block in _looked_at(pid).items():
        found += _when(LOOKED_AT[name][column], block)
    return [*found, _end(ALLOW)]


def _looked_at(pid: int) -> dict[str, Block]:
    return {
        "clone": [_argument(0), (ANY_BIT, 1, 0, CLONE_THREAD), _end(REFUSE), _end(ALLOW)],
        "clone3": [_end(UNKNOWN)],  # its flags lie in memory, out of sight; the C library then takes `clone`
        "kill": _only(0, (pid, 0)),  # 0: its own group, which is itself
        "tgkill": _only(0, (pid,)),
        "prlimit64": _only(0, (pid, 0)),
        "sched_setaffinity": _only(0, (pid, 0)),
        "prctl": _never(0, (PR_SET_PDEATHSIG, PR_SET_DUMPABLE)),
        "fcntl": _never(1, (F_SETOWN, F_SETSIG, F_SETOWN_EX)),
        "ioctl": _never(1, (TIOCSTI, TIOCLINUX, FIOSETOWN, SIOCSPGRP)),
    }


def assemble(block: Iterable[Instruction]) -> bytes:
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in block)


def _when(number: int, block: Block) -> Block:
    """The block, which ends the program, for this call alone."""
    return [(EQUAL, 0, len(block), number), *block]


def _only(index: int, values: tuple[int, ...]) -> Block:
    """Allowed where the argument is one of these."""
    tests: Block = [(EQUAL, len(values) - at, 0, value) for at, value in enumerate(values)]
    return [_argument(index), *tests, _end(REFUSE), _end(ALLOW)]


def _never(index: int, values: tuple[int, ...]) -> Block:
    """Refused where the argument is one of these."""
    tests: Block = [(EQUAL, len(values) - at, 0, value) for at, value in enumerate(values)]
    return [_argument(index), *tests, _end(ALLOW), _end(REFUSE)]


def _argument(index: int) -> Instruction:
    """Its lower half: the kernel itself reads no more of these arguments, which are ints."""
    return (LOAD, 0, 0, 16 + 8 * index)


def _end(answer: int) -> Instruction:
    return (RETURN, 0, 0, answer)
