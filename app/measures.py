"""What an API process counts of its own work, for Prometheus. Names end in the unit (prometheus.io, naming)."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

REQUESTS = Counter("lethe_http_requests", "Answers, by method and status", ["method", "status"])
REQUEST_SECONDS = Histogram(
    "lethe_http_request_seconds", "From a request to the end of its answer, waits and streams too",
    ["method"], buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)  # fmt: skip
UPLOAD_BYTES = Counter("lethe_upload_bytes", "Bytes of uploads that were taken in")


def answered(method: str, status: int, seconds: float) -> None:
    """`status` 0: the caller left before there was an answer."""
    REQUESTS.labels(method, status).inc()
    REQUEST_SECONDS.labels(method).observe(seconds)
