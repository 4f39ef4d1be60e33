"""One run in a process of its own: `python -m tests.fuzz.run STYLE KIND SECONDS SEED FILE`.

`structure` draws mutants that know the format, by hypothesis. `coverage` mutates bytes towards code not yet reached,
by atheris (libFuzzer), which ends the process itself: so the tally is written as it goes.
"""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

EVERY_SECONDS = 1.0
BATCH = 500


def structure(kind: str, seconds: float, number: int, file: Path) -> None:
    from tests.fuzz.mutants import mutants
    from tests.fuzz.tally import Tally

    tally, ends = Tally(kind), time.monotonic() + seconds
    while time.monotonic() < ends:
        number += 1

        @seed(number)
        @settings(max_examples=BATCH, deadline=None, database=None, phases=[Phase.generate],
                  suppress_health_check=list(HealthCheck))  # fmt: skip
        @given(mutants(kind))
        def batch(data: bytes) -> None:
            if time.monotonic() < ends:
                tally.take(data)

        batch()
    tally.write(file)


def coverage(kind: str, seconds: float, number: int, file: Path) -> None:
    import atheris

    with atheris.instrument_imports(include=["app.intake"]):
        from tests.fuzz import seeds
        from tests.fuzz.tally import Tally
    corpus = file.parent / f"corpus-{kind}"
    corpus.mkdir()
    for index, data in enumerate(seeds.files(kind)):
        (corpus / str(index)).write_bytes(data)
    tally, due = Tally(kind), [0.0]

    def one(data: bytes) -> None:
        tally.take(data)
        if time.monotonic() > due[0]:
            due[0] = time.monotonic() + EVERY_SECONDS
            tally.write(file)

    limits = [
        f"-max_total_time={seconds:.0f}",
        "-timeout=10",
        "-rss_limit_mb=1024",
        "-max_len=8192",
        f"-seed={number}",
    ]
    atheris.Setup(["fuzz", *limits, "-verbosity=0", "-print_final_stats=0", str(corpus)], one)
    with contextlib.suppress(SystemExit):
        atheris.Fuzz()


if __name__ == "__main__":
    style, kind, seconds, number, file = sys.argv[1:]
    {"structure": structure, "coverage": coverage}[style](kind, float(seconds), int(number), Path(file))
