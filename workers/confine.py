"""What the sandboxed child takes from itself before it is told a single untrusted byte.

LAYERS is the one list of them, in the order in which they are applied: a further layer is a function here and a line
there. `confine` gives the reason for each that this machine does not give; the parent then tells no request. A layer
never comes off again.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import struct
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers import file_rules, landlock, seccomp

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Allowance:
    """What the child may have: RLIMIT_ names with bytes, seconds or counts; paths that it may read, and write."""

    limits: Mapping[str, int]
    readable: tuple[str, ...]
    writable: tuple[str, ...]
    gpu: bool

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Allowance:
        return cls(data["limits"], tuple(data["readable"]), tuple(data["writable"]), data["gpu"])


def confine(allowance: Allowance, without: Collection[str]) -> dict[str, str]:
    """Apply every layer but those named. Returns those that could not be applied, with the reason.

    The process must still be single-threaded."""
    missing = {}
    for name, layer in LAYERS.items():
        if name in without:
            continue
        try:
            layer(allowance)
        except OSError as error:
            missing[name] = error.strerror or str(error)
    return missing


def _dies_with_parent(_allowance: Allowance) -> None:
    """The kernel kills the child when the thread that started it ends (that thread waits for the child all along)."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _resource_limits(allowance: Allowance) -> None:
    """And no core file. (No limit on processes: it would count all of the user's; seccomp forbids new ones.)"""
    for name, value in {"CORE": 0, **allowance.limits}.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        soft = value if hard == resource.RLIM_INFINITY else min(value, hard)
        # The soft limit on processor time sends SIGXCPU, which tells the parent why; the hard one follows by SIGKILL.
        later = soft + 5 if name == "CPU" and hard == resource.RLIM_INFINITY else soft
        resource.setrlimit(kind, (soft, later))


def _empty_network(_allowance: Allowance) -> None:
    """A network namespace with no interface up. Without CAP_SYS_ADMIN it needs a user namespace around it."""
    if _libc.unshare(CLONE_NEWNET) == 0:
        return
    user, group = os.getuid(), os.getgid()
    if _libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        raise _last_error()
    with contextlib.suppress(OSError):  # unmapped ids still work; mapped ones look as before
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def _no_capabilities(_allowance: Allowance) -> None:
    """None left, none to be had: a worker that runs as root still has a child that is no administrator."""
    for capability in range(64):
        if _libc.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0) != 0:
            break  # past the last one, or nothing there to drop
    _libc.prctl(PR_CAP_AMBIENT, ctypes.c_ulong(PR_CAP_AMBIENT_CLEAR_ALL), 0, 0, 0)
    if _libc.capset(struct.pack("=Ii", CAPABILITY_VERSION_3, 0), bytes(24)) != 0:
        raise _last_error()


def _no_new_privileges(_allowance: Allowance) -> None:
    """Nor does any other process of the user read this one's memory."""
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    _prctl(PR_SET_DUMPABLE, 0)


def _landlock(allowance: Allowance) -> None:
    own = os.open("/proc/self", os.O_PATH)  # noqa: F841 - held open, so that the kernel keeps what the rule is tied to
    landlock.restrict(
        [
            *file_rules.rules(allowance.gpu),
            *((path, landlock.READ) for path in allowance.readable),
            *((path, landlock.WRITE) for path in allowance.writable),
        ]
    )


def _seccomp(_allowance: Allowance) -> None:
    seccomp.install()


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise _last_error()


def _last_error() -> OSError:
    return OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


# Landlock and seccomp need no_new_privs before them; seccomp forbids what the others do, so it comes last.
LAYERS: Mapping[str, Callable[[Allowance], None]] = {
    "dies-with-parent": _dies_with_parent,
    "resource-limits": _resource_limits,
    "empty-network": _empty_network,
    "no-capabilities": _no_capabilities,
    "no-new-privileges": _no_new_privileges,
    "landlock": _landlock,
    "seccomp": _seccomp,
}
