"""The API against its own description: a slice of a few hundred cases with every test run, or FUZZ_CASES of them
(`make fuzz-api`). Whatever is sent, no answer is a 5xx or undescribed; the process neither logs a fault nor grows."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import httpx2
import psutil
import pytest
from sqlalchemy import Engine

from tests.api_process import KEY, running_api
from tests.conftest import ROOT
from tests.fuzz_api import campaign
from tests.fuzz_api.stand_in_worker import StandInWorker

CASES = int(os.environ.get("FUZZ_CASES", "300"))
FOUND = ROOT / "var/fuzz/api.json"
MIB = 1024 * 1024
GROWTH_MAX = 64 * MIB
REQUESTS = '"logger": "app.api.request_log"'
FAULTS = re.compile(r"Traceback|unexpected error|internal error|ERROR|CRITICAL")


class Memory:
    """The API's resident memory, looked at as the cases go by."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.readings: list[tuple[int, int]] = []

    def look(self, cases: int) -> None:
        self.readings.append((cases, self._process.memory_info().rss))

    @property
    def growth(self) -> int:
        """From a third of the cases on, when caches are warm, to the end."""
        third = self.readings[-1][0] // 3
        warm = max(size for cases, size in self.readings if cases <= max(third, self.readings[0][0]))
        return self.readings[-1][1] - warm


@pytest.mark.timeout(7200)
def test_whatever_is_sent_the_answer_is_one_that_is_described(
    database: Engine, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    with (
        running_api(database_url, redis_url, tmp_path / "vault") as api,
        api.client() as http,
        StandInWorker(database, api.vault, http) as worker,
    ):
        memory, began = Memory(api.pid), time.monotonic()
        tally = campaign.run(api.url, KEY, worker.known, CASES, memory.look)
        seconds = time.monotonic() - began
        assert httpx2.get(f"{api.url}/readyz").status_code == 200
        lines = [line for line in api.log().splitlines() if REQUESTS not in line]  # whose paths say anything at all
        faults = [line for line in lines if FAULTS.search(line)]
    record(tally, memory, seconds, faults)
    assert faults == []
    assert tally.failures == {}
    assert tally.cases >= CASES
    assert memory.growth < GROWTH_MAX
    assert set(tally.statuses) == calls()
    unreached = sorted(call for call, statuses in tally.statuses.items() if min(statuses) >= 300)
    assert CASES < 5000 or unreached == [], "calls that never succeeded were not really tried"


def calls() -> set[str]:
    paths = json.loads((ROOT / "docs/openapi.json").read_text())["paths"]
    return {f"{method.upper()} {path}" for path, found in paths.items() for method in found}


def record(tally: campaign.Tally, memory: Memory, seconds: float, faults: list[str]) -> None:
    """var/fuzz/api.json, and a table for people."""
    found = {
        "cases": tally.cases,
        "seconds": round(seconds, 1),
        "seed": campaign.SEED,
        "phases": dict(tally.phases),
        "calls": {call: dict(sorted(statuses.items())) for call, statuses in sorted(tally.statuses.items())},
        "memory_mib": {"end": memory.readings[-1][1] // MIB, "growth": memory.growth // MIB},
        "failures": tally.failures,
        "log": faults,
    }
    FOUND.parent.mkdir(parents=True, exist_ok=True)
    FOUND.write_text(json.dumps(found, indent=2) + "\n")
    for call, statuses in sorted(tally.statuses.items()):
        print(f"{call:44} {sum(statuses.values()):6}  {' '.join(f'{s}:{n}' for s, n in sorted(statuses.items()))}")
    print(
        f"{tally.cases} cases in {seconds:.0f} s; {len(tally.failures)} kinds of failure; {found['memory_mib']} MiB"
    )
