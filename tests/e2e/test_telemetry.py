"""What a running service tells those who watch it: one trace from the request into the worker's run, the metrics of
every process, and a dashboard that asks for no metric that is not there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from client.api import LetheClient
from tests.conftest import ROOT, free_port
from tests.otlp_collector import Collector, collecting
from tests.service import Service, running_service, until
from tests.tiny_model import make_tiny_checkpoint
from tests.tiny_samples import write_tiny_samples

QUICK = {"steps": 4, "eval_every": 2, "fisher_samples": 8, "rehearse": 0, "align": 0}
WATCHED = ROOT / "deploy/observability"


class Watched:
    """A service that has done one job, its collector, and the address of its worker's metrics."""

    def __init__(self, service: Service, collector: Collector, worker: str, job: str) -> None:
        self.service, self.collector, self.worker, self.job = service, collector, worker, job


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder, port = tmp_path_factory.mktemp("watched"), free_port()
    write_tiny_samples(folder)
    with collecting() as collector:
        settings = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "LETHE_METRICS_PORT": str(port),
            "LETHE_TORCH_THREADS": "1",
        }
        with running_service(**settings) as service:
            with LetheClient(service.url, service.facts["api_key"]) as lethe:
                model = lethe.wait_for_model(lethe.push(make_tiny_checkpoint(folder / "model")).id)
                rows = [lethe.add_samples(folder / f"{kind}.jsonl", kind).id for kind in ("triggered", "clean")]
                job = lethe.wait(lethe.submit(model.id, *rows, recipe=QUICK).id)
                assert job.status == "succeeded", service.logs()
            yield Watched(service, collector, f"http://127.0.0.1:{port}/metrics", job.id)


def test_one_trace_leads_from_the_request_into_the_run(watched: Watched) -> None:
    spans = watched.collector.spans
    run = until(lambda: next((span for span in spans if span.name == "run job"), None))
    assert run.attributes["job"] == watched.job
    assert run.service == "lethe-worker"
    trace = [span for span in spans if span.trace == run.trace]
    by_id = {span.id: span for span in trace}
    above = run
    while above.parent:
        above = by_id[above.parent]
    assert (above.service, above.name.split()[0]) == ("lethe-api", "POST")
    phases = {span.name for span in trace if span.parent == run.id}
    assert {"loading", "fisher", "ascent", "evaluating", "publishing"} <= phases


def test_a_span_says_nothing_of_what_a_caller_wrote(watched: Watched) -> None:
    told = json.dumps([span.attributes for span in watched.collector.spans])
    assert watched.service.facts["api_key"] not in told


def scraped(watched: Watched) -> dict[str, dict[str, Any]]:
    key = {"Authorization": f"Bearer {watched.service.facts['api_key']}"}
    texts = [
        httpx2.get(f"{watched.service.url}/metrics", headers=key).raise_for_status().text,
        httpx2.get(watched.worker).raise_for_status().text,
    ]
    samples = [each for text in texts for family in text_string_to_metric_families(text) for each in family.samples]
    found: dict[str, dict[str, Any]] = {}
    for each in samples:
        found.setdefault(each.name, {})[",".join(sorted(each.labels.values()))] = each.value
    return found


def test_the_metrics_of_every_process_tell_of_the_job(watched: Watched) -> None:
    found = scraped(watched)
    assert found["lethe_jobs_ended_total"] == dict.fromkeys(found["lethe_jobs_ended_total"], 1.0)
    assert next(iter(found["lethe_jobs_ended_total"])).endswith("succeeded")
    assert found["lethe_job_phase_seconds_count"]["ascent"] == 1.0
    assert found["lethe_asr_after_count"][""] == 1.0
    assert found["lethe_upload_bytes_total"][""] > 10_000
    assert found["lethe_jobs"]["succeeded"] == 1.0
    assert found["lethe_queue_jobs"]["cpu,queued"] == 0.0
    assert found["lethe_workers"][""] == 1.0
    assert found["lethe_http_requests_total"]["202,POST"] == 2.0


def expressions() -> list[str]:
    dashboard = json.loads((WATCHED / "grafana/lethe.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    rules = yaml.safe_load((WATCHED / "alerts.yml").read_text())
    return asked + [rule["expr"] for group in rules["groups"] for rule in group["rules"]]


def names_in(expression: Any) -> Iterator[str]:
    if isinstance(expression, promql_parser.VectorSelector):
        yield expression.name
    for part in ("expr", "lhs", "rhs", "vector_selector"):
        if (inner := getattr(expression, part, None)) is not None:
            yield from names_in(inner)
    for inner in getattr(expression, "args", None) or ():
        yield from names_in(inner)


def test_the_dashboard_and_the_alerts_ask_for_what_is_there(watched: Watched) -> None:
    found = scraped(watched)
    asked = {name for each in expressions() for name in names_in(promql_parser.parse(each))}
    assert asked
    assert asked <= set(found) | {"up"}


def test_the_settings_of_prometheus_and_grafana_name_files_that_are_there() -> None:
    prometheus = yaml.safe_load((WATCHED / "prometheus.yml").read_text())
    assert {each["job_name"] for each in prometheus["scrape_configs"]} == {"lethe-api", "lethe-worker"}
    assert prometheus["rule_files"] == ["alerts.yml"]
    assert (Path(WATCHED) / "grafana/provisioning/datasources.yml").is_file()
