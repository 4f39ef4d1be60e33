"""Bytes into a file, so that the fsync at its end finds little left to do."""

from __future__ import annotations

import os

STRETCH = 8 * 1024 * 1024


def write(descriptor: int, data: bytes, at: int) -> None:
    """Write all of it where the file stands, which is `at`. Whenever a stretch is complete the kernel is told to
    begin with it: by itself it waits long, and then the network rests while the disk works."""
    with memoryview(data) as view:
        written = 0
        while written < len(view):
            written += os.write(descriptor, view[written:])
    begun, complete = at // STRETCH * STRETCH, (at + len(data)) // STRETCH * STRETCH
    if complete > begun:
        # Of pages that are not written yet this starts the writing, and drops none (posix_fadvise(2), Linux).
        os.posix_fadvise(descriptor, begun, complete - begun, os.POSIX_FADV_DONTNEED)
