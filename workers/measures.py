"""What a worker process counts of the jobs it runs, for Prometheus: at LETHE_METRICS_PORT, where that is set."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from prometheus_client import Counter, Histogram, start_http_server

from app import traces
from app.domain.job import Delivery, Phase
from app.domain.report import SanitizationReport

SECONDS = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
RATES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.9, 1.0)

PHASE_SECONDS = Histogram("lethe_job_phase_seconds", "Time that runs spent in a phase", ["phase"], buckets=SECONDS)
ENDED = Counter("lethe_jobs_ended", "Runs that ended, by what came of them", ["outcome", "verdict"])
ASR_AFTER = Histogram("lethe_asr_after", "ASR of repaired models on their held-out samples", buckets=RATES)
ACCURACY_DROP = Histogram("lethe_clean_accuracy_drop", "Clean accuracy that was lost", buckets=RATES)


def serve(port: int, host: str) -> None:
    """To whoever reaches the address: keep it inside."""
    start_http_server(port, host)


@contextmanager
def phases() -> Iterator[Callable[[Phase], None]]:
    """What is yielded is told of each phase as it begins; it lasts until the next one or the end."""
    with ExitStack() as last:

        def enter(phase: Phase) -> None:
            last.close()
            last.enter_context(_timed(phase))
            last.enter_context(traces.span(phase))

        yield enter


@contextmanager
def _timed(phase: Phase) -> Iterator[None]:
    since = time.monotonic()
    try:
        yield
    finally:
        PHASE_SECONDS.labels(phase).observe(time.monotonic() - since)


def ended(outcome: object) -> None:
    """`outcome`: a delivery, or why there is none."""
    if isinstance(outcome, Delivery):
        ENDED.labels("succeeded", outcome.report.verdict.outcome).inc()
        _figures(outcome.report)
    else:
        ENDED.labels(getattr(outcome, "code", type(outcome).__name__.lower()), "").inc()


def _figures(report: SanitizationReport) -> None:
    if report.after.asr.rate is not None:
        ASR_AFTER.observe(report.after.asr.rate)
    if report.accuracy_drop.value is not None:
        ACCURACY_DROP.observe(max(0.0, report.accuracy_drop.value))
