"""What `make load` measures, at a small size: that it counts what it says. No speed is held against anything here."""

from __future__ import annotations

from benchmarks.load.measure import changing, crowd, queue
from tests.faults.site import SHORT, site

SIZES = {"jobs": 60, "pollers": 8, "streams": 4, "uploads": 2, "seconds": 4}


def test_a_crowd_is_answered_without_an_error_and_hears_each_event_once() -> None:
    with site(SHORT) as place:
        jobs = queue(place, SIZES["jobs"])
        with changing(place, jobs):
            found = crowd(place, [f"{place.api.url}/v1/jobs/{job}" for job in jobs], SIZES)
    callers = found["callers"]
    assert [(each["server_errors"], each["broken"]) for each in callers.values()] == [(0, 0)] * 3
    assert set(callers["polling"]["statuses"]) <= {"200", "304"}
    assert callers["waiting"]["statuses"]
    assert callers["streams"]["events"] > 0
    assert min(size for _, size in found["memory"]) > 0
