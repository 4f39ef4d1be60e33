"""OpenTelemetry traces, where the operator names a collector: from a request through the queue into a worker's run.

Set by the variables of OpenTelemetry's own specification, above all OTEL_EXPORTER_OTLP_ENDPOINT; without it nothing
is recorded. A message carries the `traceparent` of who sent it (W3C Trace Context), and nothing else beside its id;
what the sweeper sends again begins a trace of its own. Span names and attributes hold ids and counts, never what a
caller wrote.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.types import ASGIApp

ASKED_BY = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
UNTRACED = "livez,readyz,metrics,static"


def is_on() -> bool:
    return any(os.environ.get(name) for name in ASKED_BY)


def begin(service: str) -> None:
    """Export from this process under the service's name. Raises SystemExit where the packages are not installed."""
    if not is_on():
        return
    try:
        from opentelemetry import trace  # noqa: PLC0415 - an extra that few have
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.instrumentation.celery import CeleryInstrumentor  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        raise SystemExit(f"{ASKED_BY[0]} is set: install what it needs with pip install 'lethe[otel]'.") from error
    name = os.environ.get("OTEL_SERVICE_NAME", service)
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    CeleryInstrumentor().instrument()  # type: ignore[no-untyped-call]


@contextmanager
def span(name: str, **attributes: str | int) -> Iterator[None]:
    """A stretch of work, below the one that it happens in."""
    if not is_on():
        yield
        return
    from opentelemetry import trace  # noqa: PLC0415

    with trace.get_tracer("lethe").start_as_current_span(name, attributes=attributes):
        yield


def around(app: ASGIApp) -> ASGIApp:
    """The app with a span for each request."""
    if not is_on():
        return app
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware  # noqa: PLC0415

    traced: Any = OpenTelemetryMiddleware(app, excluded_urls=UNTRACED)
    return traced  # type: ignore[no-any-return]
