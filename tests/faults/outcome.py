"""What came of a fault: how often it was tried, what survived, what was lost, how long recovery took."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Outcome:
    """`seconds`: of each recovery that was timed. `lost`: in words. `skipped`: why it could not be tried here."""

    fault: str
    tries: int = 0
    survived: int = 0
    lost: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    most_seconds: float | None = None
    skipped: str = ""

    @property
    def passed(self) -> bool:
        slow = self.most_seconds is not None and max(self.seconds, default=0.0) > self.most_seconds
        return not self.skipped and self.tries > 0 and self.survived == self.tries and not self.lost and not slow

    @contextmanager
    def one(self) -> Iterator[None]:
        """One try: it survived if the block ends, and if not, the reason is kept and the next try goes on."""
        self.tries += 1
        try:
            yield
        except Exception as error:
            self.lost.append(f"try {self.tries}: {type(error).__name__}: {str(error)[:300]}")
        else:
            self.survived += 1

    @contextmanager
    def timed(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds.append(time.monotonic() - began)

    def to_dict(self) -> dict[str, Any]:
        return {
            "fault": self.fault, "tries": self.tries, "survived": self.survived, "lost": self.lost,
            "recovery_seconds_median": statistics.median(self.seconds) if self.seconds else None,
            "recovery_seconds_max": max(self.seconds, default=None), "most_seconds": self.most_seconds,
            "skipped": self.skipped, "passed": self.passed,
        }  # fmt: skip
