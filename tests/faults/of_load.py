"""Fault of too much at once: a long queue and a crowd that polls it."""

from __future__ import annotations

from benchmarks.load.measure import SIZES, changing, crowd, queue
from tests.faults.outcome import Outcome
from tests.faults.site import site

P99_SECONDS = 0.25
MEMORY_DRIFT = 0.05


def under_load(tries: int, times: dict[str, str], **sizes: int) -> Outcome:
    """11: 5,000 queued jobs and 500 pollers: 99 of 100 GETs are answered within 250 ms, none with a 5xx, every event
    comes once and in order, and memory stays flat. `sizes` as in SIZES, where smaller ones are asked for.
    """
    outcome, sizes = Outcome("11 a queue and a crowd"), SIZES | sizes
    for _ in range(tries):
        with outcome.one(), site(times) as place:
            jobs = queue(place, sizes["jobs"])
            with changing(place, jobs):
                found = crowd(place, [f"{place.api.url}/v1/jobs/{job}" for job in jobs], sizes)
            p99 = found["callers"]["polling"]["p99"]
            assert sum(each["server_errors"] + each["broken"] for each in found["callers"].values()) == 0, found
            assert p99 <= P99_SECONDS, f"p99 {p99:.3f} s"
            assert found["memory_drift"] <= MEMORY_DRIFT, f"memory grew by {found['memory_drift']:.1%}"
    return outcome
