"""Mutants of every kind before the readers, for FUZZ_SECONDS: `make fuzz`.

Pass: no exception but a refusal, nothing let in that a second look reads otherwise, no answer over 10 s, no process
over 1 GiB, and at least 10,000 mutants. The report says how many there were, by kind and by rule.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.fuzz.seeds import KINDS

ROOT = Path(__file__).resolve().parents[2]
REPORT = ROOT / "var/fuzz/report.json"
ENOUGH = 10_000
STYLES = ("structure", "coverage")
START_SECONDS = 60.0


def main() -> int:
    seconds, number = float(os.environ.get("FUZZ_SECONDS", "120")), int(os.environ.get("FUZZ_SEED", "1"))
    lanes = min(os.cpu_count() or 1, 8)
    each = max(seconds * lanes / (len(KINDS) * len(STYLES)), 1.0)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(lanes) as pool:
        runs = list(pool.map(lambda job: _run(*job, each, number, Path(folder)), _jobs()))
    report = _report(runs, seconds, number)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=2) + "\n")
    _say(report)
    return 1 if report["findings"] or (report["mutants"] < ENOUGH and seconds >= 120) else 0


def _jobs() -> Iterator[tuple[str, str]]:
    for kind in KINDS:
        for style in STYLES:
            yield style, kind


def _run(style: str, kind: str, seconds: float, number: int, folder: Path) -> dict[str, Any]:
    """One process; one that dies or hangs is a finding, with the end of what it said."""
    room = folder / f"{style}-{kind}"
    (room / "tmp").mkdir(parents=True)
    file = room / "tally.json"
    command = [sys.executable, "-m", "tests.fuzz.run", style, kind, f"{seconds:.1f}", str(number), str(file)]
    log = room / "log"
    with log.open("wb") as out:
        try:
            code = subprocess.run(
                command, cwd=ROOT, stdout=out, stderr=out, timeout=seconds + START_SECONDS, check=False,
                env={**os.environ, "TMPDIR": str(room / "tmp"), "HF_HUB_OFFLINE": "1"},
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            code = -1
    empty: dict[str, Any] = {"kind": kind, "mutants": 0, "rules": {}, "slowest_seconds": 0, "peak_bytes": 0}
    found = json.loads(file.read_text()) if file.exists() else empty | {"findings": []}
    if code != 0 or not file.exists():
        found["findings"].append({"what": f"ended with {code}", "log": log.read_text(errors="replace")[-2000:]})
    return {"style": style, **found}


def _report(runs: list[dict[str, Any]], seconds: float, number: int) -> dict[str, Any]:
    mutants: Counter[str] = Counter()
    rules: Counter[str] = Counter()
    for run in runs:
        mutants[run["kind"]] += run["mutants"]
        rules.update(run["rules"])
    findings = [{"style": run["style"], "kind": run["kind"], **found} for run in runs for found in run["findings"]]
    return {
        "seconds": seconds, "seed": number, "mutants": mutants.total(), "by_kind": dict(mutants),
        "by_rule": dict(rules.most_common()), "slowest_seconds": max(run["slowest_seconds"] for run in runs),
        "peak_bytes": max(run["peak_bytes"] for run in runs), "findings": findings,
    }  # fmt: skip


def _say(report: dict[str, Any]) -> None:
    print(f"{report['mutants']:,} mutants: {', '.join(f'{kind} {n:,}' for kind, n in report['by_kind'].items())}")
    print(f"answers: {', '.join(f'{rule} {n:,}' for rule, n in report['by_rule'].items())}")
    print(f"slowest {report['slowest_seconds']} s, at most {report['peak_bytes'] / 2**20:.0f} MiB")
    for found in report["findings"]:
        print(f"FOUND by {found['style']} in {found['kind']}: {found['what']}")
    print(f"{len(report['findings'])} findings; the whole in {REPORT.relative_to(ROOT)}")


if __name__ == "__main__":
    raise SystemExit(main())
