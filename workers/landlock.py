"""Landlock: which files this process may still open, for reading or for writing. It needs no privilege.

What the running kernel's version can forbid is forbidden, and only the given paths are opened again:

    version 1 (Linux 5.13)   opening, listing, making, removing, executing: nowhere else; ptrace of others
    version 4 (Linux 6.7)    TCP, all of it
    version 6 (Linux 6.12)   signals to others, and abstract unix sockets of others

Nothing may be executed at all. Landlock does not see stat, chmod, chown and their like: `workers.seccomp` does.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterable

# The same numbers on every architecture.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
ASK_VERSION = 1
PATH_BENEATH = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << bit for bit in range(6))
MAKE_DIR, MAKE_REG = 1 << 7, 1 << 8
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
RIGHTS_OF_VERSION = {1: 13, 2: 14, 3: 15, 4: 15}  # how many of the bits it knows
RIGHTS_SINCE_5 = 16

READ = READ_FILE | READ_DIR
# Files and folders, but no links, sockets, pipes or devices.
WRITE = READ | WRITE_FILE | TRUNCATE | MAKE_DIR | MAKE_REG | REMOVE_DIR | REMOVE_FILE | REFER
DEVICE = READ_FILE | WRITE_FILE | IOCTL_DEV
_OF_A_FILE = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV

TCP = 0b11
# Some kernels call themselves version 6 and know the first scope alone.
SCOPES = (0b11, 0b01, 0b00)

_libc = ctypes.CDLL(None, use_errno=True)


def version() -> int:
    """Of the running kernel; 0 where it has no Landlock, or does not let this process use it."""
    return max(0, int(_libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), ASK_VERSION)))


def restrict(rules: Iterable[tuple[str, int]]) -> None:
    """From here on only the paths of the rules, each with its rights and all that lies beneath. A path that is not
    there is passed over. Needs no_new_privs. Raises OSError where the kernel has no Landlock."""
    known = version()
    if not known:
        raise OSError(errno.EOPNOTSUPP, "this kernel has no Landlock, or a filter forbids it")
    handled = (1 << RIGHTS_OF_VERSION.get(known, RIGHTS_SINCE_5)) - 1
    ruleset = _create(handled, known)
    try:
        for path, rights in rules:
            _open_up(ruleset, path, rights & handled)
        _call(RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _create(handled: int, known: int) -> int:
    network = TCP if known >= 4 else 0
    for scopes in SCOPES if known >= 6 else (0,):
        attributes = struct.pack("=QQQ", handled, network, scopes)
        try:
            return _call(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
        except OSError as error:
            if error.errno != errno.EINVAL or not scopes:
                raise
    raise AssertionError("the last of the scopes is none")


def _open_up(ruleset: int, path: str, rights: int) -> None:
    try:
        target = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # not there, or not for this user
        return
    try:
        if not stat.S_ISDIR(os.fstat(target).st_mode):
            rights &= _OF_A_FILE
        _call(ADD_RULE, ruleset, PATH_BENEATH, struct.pack("=Qi", rights, target), 0)
    finally:
        os.close(target)


def _call(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(number, *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
