"""`/metrics` for Prometheus: what this process counted, and what the database says now of queues, jobs and workers.

It tells of all tenants together, so it needs an admin of the operator's own tenant. Prometheus sends a key with
`authorization: credentials_file`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fastapi import APIRouter, Response
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from sqlalchemy import Engine

from app.api.access import needs
from app.api.deps import CallerDep, ServicesDep
from app.domain.errors import Forbidden
from app.domain.identity import DEFAULT_TENANT, Scope
from app.store import worker_rows

router = APIRouter(tags=["health"], dependencies=[needs(Scope.ADMIN)])


@router.get("/metrics", response_class=Response)
def show_metrics(caller: CallerDep, services: ServicesDep) -> Response:
    """Figures of the whole service in the text format of Prometheus."""
    if caller.tenant != DEFAULT_TENANT:
        raise Forbidden(f"The service's metrics are for admins of the tenant {DEFAULT_TENANT}.")
    now = CollectorRegistry()
    now.register(_Now(services.database))
    return Response(generate_latest(REGISTRY) + generate_latest(now), media_type=CONTENT_TYPE_LATEST)


class _Now(Collector):
    """Asked at every scrape: nothing to keep up to date, and the same from every API process."""

    def __init__(self, database: Engine) -> None:
        self._database = database

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        with self._database.connect() as connection:
            waiting, workers = worker_rows.waiting(connection), worker_rows.alive(connection)
            jobs = worker_rows.jobs_by_status(connection)
        queued = GaugeMetricFamily("lethe_queue_jobs", "Jobs that wait or run", labels=["queue", "state"])
        oldest = GaugeMetricFamily("lethe_queue_oldest_seconds", "How long the oldest has waited", labels=["queue"])
        for each in waiting:
            queued.add_metric([each.queue, "queued"], each.queued)
            queued.add_metric([each.queue, "running"], each.running)
            oldest.add_metric([each.queue], each.oldest_seconds or 0.0)
        by_status = GaugeMetricFamily("lethe_jobs", "Jobs that are there, by status", labels=["status"])
        for status, count in jobs.items():
            by_status.add_metric([status], count)
        yield from (queued, oldest, by_status)
        for name, words, value in (
            ("lethe_workers", "Workers that spoke lately", len(workers)),
            ("lethe_worker_slots", "Jobs that they can run at a time", sum(each.slots for each in workers)),
            ("lethe_worker_slots_busy", "Slots in use", sum(each.busy for each in workers)),
        ):
            yield GaugeMetricFamily(name, words, value)
