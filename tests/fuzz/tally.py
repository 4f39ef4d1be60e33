"""What came of the mutants of one run: counts by rule, the slowest answer, the most memory, and every finding."""

from __future__ import annotations

import json
import resource
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz.judge import judge

SLOW_SECONDS = 10.0
MEMORY_BYTES = 1024**3
MOST_FINDINGS = 20


@dataclass
class Tally:
    kind: str
    mutants: int = 0
    rules: Counter[str] = field(default_factory=Counter)
    slowest_seconds: float = 0.0
    findings: list[dict[str, str]] = field(default_factory=list)

    def take(self, data: bytes) -> None:
        """Judge one mutant. A finding is kept with its bytes, and the run goes on."""
        self.mutants += 1
        began = time.monotonic()
        try:
            self.rules[judge(self.kind, data)] += 1
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            self._find(f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})", data)
        spent = time.monotonic() - began
        self.slowest_seconds = max(self.slowest_seconds, spent)
        if spent > SLOW_SECONDS:
            self._find(f"took {spent:.1f} s", data)

    def _find(self, what: str, data: bytes) -> None:
        if len(self.findings) < MOST_FINDINGS:
            self.findings.append({"what": what[:500], "mutant": data[:20_000].hex()})

    def to_dict(self) -> dict[str, Any]:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if peak > MEMORY_BYTES:
            self._find(f"took {peak:,} bytes of memory", b"")
        return {
            "kind": self.kind, "mutants": self.mutants, "rules": dict(self.rules.most_common()),
            "slowest_seconds": round(self.slowest_seconds, 3), "peak_bytes": peak, "findings": self.findings,
        }  # fmt: skip

    def write(self, file: Path) -> None:
        part = file.with_suffix(".part")
        part.write_text(json.dumps(self.to_dict()))
        part.replace(file)
