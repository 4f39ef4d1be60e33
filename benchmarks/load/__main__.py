"""The service under load: `make load`. Prints a table and writes var/load/report.json.

Sizes by environment: LOAD_JOBS, LOAD_POLLERS, LOAD_STREAMS, LOAD_UPLOADS, LOAD_SECONDS. Exit status 1 where a goal is
missed.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from benchmarks.efficacy.machine import describe, in_words
from benchmarks.load.measure import SIZES, bare, changing, crowd, queue, rates, uploads
from tests.conftest import ROOT
from tests.faults.site import REAL, site

REPORT = ROOT / "var/load/report.json"
GOALS = {
    "polling_share_of_bare": (0.5, "at least"),
    "upload_share_of_slower": (0.7, "at least"),
    "get_p99_seconds": (0.25, "at most"),
    "server_errors": (0, "at most"),
    "memory_drift": (0.05, "at most"),
}


def main() -> int:
    sizes = {name: int(os.environ.get(f"LOAD_{name.upper()}") or default) for name, default in SIZES.items()}
    report = run(sizes)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=1))
    sys.stdout.write(table(report))
    return 0 if all(each["met"] for each in report["goals"].values()) else 1


def run(sizes: dict[str, int]) -> dict[str, Any]:
    """All three measurements on one installation. Sizes as in SIZES."""
    with site(REAL) as place, bare() as bare_url:
        jobs = queue(place, sizes["jobs"])
        urls = [f"{place.api.url}/v1/jobs/{job_id}" for job_id in jobs]
        with changing(place, jobs):
            rate = rates(bare_url, urls[: sizes["pollers"]])
        upload = uploads(place, sizes["uploads"])
        with changing(place, jobs):
            full = crowd(place, urls, sizes)
    report = {"sizes": sizes, "machine": in_words(describe()), "rate": rate, "upload": upload, "all": full}
    return report | {"goals": _goals(report)}


def _goals(report: dict[str, Any]) -> dict[str, Any]:
    everything = [report["rate"]["service"], *report["all"]["callers"].values()]
    found = {
        "polling_share_of_bare": report["rate"]["share"],
        "upload_share_of_slower": report["upload"]["share"],
        "get_p99_seconds": report["all"]["callers"]["polling"]["p99"],
        "server_errors": sum(each["server_errors"] + each["broken"] for each in everything),
        "memory_drift": report["all"]["memory_drift"],
    }
    return {
        name: {
            "found": found[name],
            "limit": limit,
            "met": found[name] >= limit if how == "at least" else found[name] <= limit,
        }
        for name, (limit, how) in GOALS.items()
    }


def table(report: dict[str, Any]) -> str:
    rate, upload = report["rate"], report["upload"]["megabytes_per_second"]
    speeds = ", ".join(f"{name} {speed:.0f}" for name, speed in upload.items())
    lines = [
        report["machine"],
        f"polls a second: {rate['service_per_second']:.0f}, of a bare endpoint {rate['bare_per_second']:.0f}",
        f"MB/s: {speeds}",
        f"{'callers':10} {'requests':>9} {'a second':>9} {'p50 ms':>8} {'p99 ms':>8} {'5xx':>4} {'events':>7}",
    ]
    for name, each in report["all"]["callers"].items():
        p50, p99 = ("-" if each[key] is None else f"{1000 * each[key]:.0f}" for key in ("p50", "p99"))
        counts = f"{each['requests']:>9} {each['per_second']:>9.0f} {p50:>8} {p99:>8} {each['server_errors']:>4}"
        lines.append(f"{name:10} {counts} {each['events']:>7}")
    lines.append(f"{'goal':26} {'found':>9} {'limit':>7}")
    for name, each in report["goals"].items():
        lines.append(f"{name:26} {each['found']:>9.3f} {each['limit']:>7}  {'met' if each['met'] else 'MISSED'}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
