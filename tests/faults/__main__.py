"""The faults of a whole installation, at their full counts: `make faults`. Writes var/faults/report.json.

    FAULTS="1 4 9"    those alone; the others keep their last result in the report
    SCALE=0.1         a tenth of the tries, for a quick look (the report says so)

The last part runs deliberately broken builds: there a fault must be found, or the check is worth nothing.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from tests.conftest import ROOT
from tests.faults.of_files import flipped_bits
from tests.faults.of_jobs import cancelled_everywhere, claimers_race
from tests.faults.of_load import under_load
from tests.faults.of_servers import postgres_away, redis_away
from tests.faults.of_uploads import api_killed, disk_full
from tests.faults.of_workers import (
    asleep_past_its_lease,
    crashes_every_time,
    older_version_beside,
    runner_killed,
    worker_lost,
)
from tests.faults.outcome import Outcome
from tests.faults.site import REAL, SHORT

REPORT = ROOT / "var/faults/report.json"
# Fault, how often at its full count, and with which times. Real times where recovery is timed.
FAULTS: dict[str, tuple[Callable[..., Outcome], int, dict[str, str]]] = {
    "1": (runner_killed, 50, REAL),
    "2": (asleep_past_its_lease, 10, SHORT),
    "3": (claimers_race, 2000, SHORT),
    "4": (redis_away, 1, REAL),
    "5": (postgres_away, 2, REAL),
    "6": (api_killed, 50, SHORT),
    "7": (disk_full, 3, SHORT),
    "8": (cancelled_everywhere, 5, REAL),
    "9": (crashes_every_time, 3, SHORT),
    "10": (flipped_bits, 2, SHORT),
    "11": (under_load, 1, REAL),
    "12": (older_version_beside, 2, SHORT),
}
BROKEN: dict[str, tuple[Callable[..., Outcome], int, dict[str, str]]] = {
    "no-fencing": (asleep_past_its_lease, 2, SHORT),
    "acknowledge-first": (api_killed, 6, SHORT),
    "no-sweeper": (worker_lost, 1, SHORT),
}


def main() -> int:
    asked = os.environ.get("FAULTS", "").split() or [*FAULTS, *BROKEN]
    scale = float(os.environ.get("SCALE") or 1.0)
    report: dict[str, Any] = json.loads(REPORT.read_text()) if REPORT.exists() else {"faults": {}, "broken": {}}
    for name in asked:
        kind, (fault, tries, times) = ("faults", FAULTS[name]) if name in FAULTS else ("broken", BROKEN[name])
        sys.stdout.write(f"{name}: {fault.__name__} ...\n")
        sys.stdout.flush()
        began = time.monotonic()
        more = {"build": name} if kind == "broken" else {}
        outcome = fault(max(1, round(tries * scale)), times, **more)
        report[kind][name] = {**outcome.to_dict(), "scale": scale, "wall_seconds": time.monotonic() - began}
        REPORT.parent.mkdir(parents=True, exist_ok=True)
        REPORT.write_text(json.dumps(report, indent=1))
        for lost in outcome.lost[:5]:
            sys.stdout.write(f"   {lost}\n")
    sys.stdout.write(table(report))
    return 0 if _fine(report, asked) else 1


def table(report: dict[str, Any]) -> str:
    lines = ["", f"{'fault':36} {'tries':>6} {'survived':>9} {'lost':>5} {'recovery s':>16}  result"]
    for each in report["faults"].values():
        median, most = each["recovery_seconds_median"], each["recovery_seconds_max"]
        span = f"{median:.1f} (max {most:.1f})" if median is not None else "-"
        word = "skipped: " + each["skipped"] if each["skipped"] else "passed" if each["passed"] else "FAILED"
        lines.append(
            f"{each['fault']:36} {each['tries']:>6} {each['survived']:>9} {len(each['lost']):>5} {span:>16}  {word}"
        )
    for name, each in report["broken"].items():
        word = "NOT FOUND: the check is worth nothing" if each["passed"] else "found, as it must be"
        lines.append(f"{'broken build: ' + name:36} {each['tries']:>6} {each['survived']:>9} {'':>22}  {word}")
    return "\n".join(lines) + "\n"


def _fine(report: dict[str, Any], asked: list[str]) -> bool:
    return all(report["faults"][name]["passed"] if name in FAULTS else not report["broken"][name]["passed"]
               for name in asked)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
