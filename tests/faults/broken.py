"""Deliberately broken builds: the same processes with one guarantee taken out, to see that the check finds out.

    python -m tests.faults.broken WHAT celery -A workers.celery_app ...
    python -m tests.faults.broken WHAT app.server --port ...

What is taken out is replaced in the process before its module runs; the product knows no such switch.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path
from typing import Any


def no_fencing() -> None:
    """A worker's write goes through whoever holds the job by now."""
    from sqlalchemy import true

    from app.store import claim_rows
    from workers import pulse

    claim_rows._held_by = lambda claim: (claim_rows.t.c.id == claim.job.id) & true()
    pulse.Pulse.check = lambda self: None  # type: ignore[method-assign]


def no_sweeper() -> None:
    """Nobody looks for what was lost."""
    from workers import sweep, watch

    sweep.sweep = watch.sweep = lambda services, send: None  # type: ignore[assignment]


def acknowledge_first() -> None:
    """An upload's offset is said to the caller while the bytes are still in this process's memory."""
    from app.intake import receive

    waiting: dict[str, list[tuple[int, bytes]]] = {}
    seal = receive._Hold.seal

    def hold_back(descriptor: int, data: bytes, _at: int) -> None:
        place = waiting.setdefault(str(Path(f"/proc/self/fd/{descriptor}").readlink()), [])
        place.append((os.lseek(descriptor, 0, os.SEEK_CUR), data))
        os.lseek(descriptor, len(data), os.SEEK_CUR)

    def write_at_last(hold: receive._Hold, *arguments: Any) -> Any:
        with hold.file.open("r+b") as out:
            for offset, data in waiting.pop(str(hold.file), []):
                out.seek(offset)
                out.write(data)
        return seal(hold, *arguments)

    receive.to_disk.write = hold_back
    receive._Hold.seal = write_at_last  # type: ignore[method-assign]


BUILDS = {"no-fencing": no_fencing, "no-sweeper": no_sweeper, "acknowledge-first": acknowledge_first}


if __name__ == "__main__":
    BUILDS[sys.argv[1]]()
    module, sys.argv = sys.argv[2], sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
