"""Which files of the system a sandboxed child may open: those that Python and torch are made of, and no others.

Tables only, so that a further library or driver is one line. What the request is about (its inputs, its output
folder) is named by the caller of `sandbox.run`. Nothing here holds a secret: not /etc as a whole, not the project's
folder (its var/ and .env), no home, and of /proc only the child's own part and facts of the machine.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from workers import landlock

PROJECT = Path(__file__).resolve().parent.parent
ROOMS = ("app", "workers")

READABLE = (
    "/usr", "/lib", "/lib64", "/nix/store",
    "/etc/ld.so.cache", "/etc/localtime", "/etc/mime.types", "/etc/ssl/openssl.cnf",
    "/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/version", "/proc/filesystems",
    "/proc/sys/vm/overcommit_memory",
    "/sys/devices/system/cpu", "/sys/devices/system/node", "/sys/fs/cgroup", "/sys/kernel/mm/transparent_hugepage",
)  # fmt: skip
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")

# What NVIDIA's driver and CUDA open beside that.
GPU_READABLE = (
    "/proc/driver/nvidia", "/proc/driver/nvidia-caps", "/proc/devices", "/proc/modules",
    "/proc/sys/vm/mmap_min_addr", "/proc/sys/kernel/osrelease",
    "/sys/bus/pci", "/sys/devices", "/sys/module/nvidia", "/sys/module/nvidia_uvm", "/sys/class/drm",
    "/etc/nvidia", "/opt/nvidia", "/opt/cuda",
)  # fmt: skip
GPU_DEVICES = ("/dev/nvidia*", "/dev/nvidia-caps/*")
GPU_SHARED = ("/dev/shm",)  # noqa: S108 - named to be opened, not written to here


def rules(gpu: bool) -> Iterator[tuple[str, int]]:
    """Paths and their rights, for any request."""
    for path in (*READABLE, *_python()):
        yield path, landlock.READ
    for path in DEVICES:
        yield path, landlock.DEVICE
    if gpu:
        yield from _gpu_rules()


def _python() -> set[str]:
    """The interpreter, its packages, and the two rooms of the project that a child imports from."""
    return {sys.prefix, sys.exec_prefix, sys.base_prefix, *(str(PROJECT / room) for room in ROOMS)}


def _gpu_rules() -> Iterator[tuple[str, int]]:
    libraries = filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":"))
    for path in (*GPU_READABLE, *libraries):
        yield path, landlock.READ
    for pattern in GPU_DEVICES:
        for device in Path("/").glob(pattern.lstrip("/")):
            yield str(device), landlock.DEVICE
    for path in GPU_SHARED:
        yield path, landlock.WRITE
