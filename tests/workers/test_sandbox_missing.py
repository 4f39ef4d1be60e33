"""A layer that the machine does not give: nothing untrusted is begun, nothing is lost, and the operator is told."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from app.domain.confinement import LAYERS
from app.domain.errors import ChildMisspoke, SandboxUnavailable
from app.domain.identity import DEFAULT_TENANT
from app.domain.ids import new_id
from app.domain.job import JobStatus
from app.domain.manifest import FileEntry, Manifest
from app.domain.model import ModelStatus
from app.domain.worker import Worker
from app.store import job_rows, model_rows, worker_rows
from tests.poorer_machine import NEEDED, on_a_machine_without, tried_anew
from tests.workers.conftest import MakeJob
from workers import beacon, confine, sandbox
from workers.inspect_model import inspect_model
from workers.run_job import run_job
from workers.services import Services


@pytest.fixture(autouse=True)
def _tried_anew() -> Iterator[None]:
    with tried_anew():
        yield


def run(tmp_path: Path, **more: Any) -> Mapping[str, Any]:
    limits = sandbox.Limits(wall_seconds=60)
    request = {"word": "untrusted"}
    return sandbox.run("echo", request, limits=limits, workdir=tmp_path, module="tests.workers.odd_child", **more)


def test_the_child_applies_the_layers_that_have_names() -> None:
    assert tuple(confine.LAYERS) == LAYERS


@pytest.mark.parametrize("layer", NEEDED)
def test_without_a_layer_no_request_is_told_unless_it_was_named(layer: str, tmp_path: Path) -> None:
    heard: list[Mapping[str, Any]] = []
    with pytest.raises(SandboxUnavailable, match=f"LETHE_SANDBOX_WITHOUT={layer} ") as caught:
        on_a_machine_without(layer, lambda: run(tmp_path, on_message=heard.append))
    assert list(caught.value.details["missing"]) == [layer]
    assert heard == []
    assert on_a_machine_without(layer, lambda: run(tmp_path, without={layer})) == {"got": "untrusted"}
    other = "seccomp" if layer == "landlock" else "landlock"
    with pytest.raises(SandboxUnavailable, match=layer):
        on_a_machine_without(layer, lambda: run(tmp_path, without={other}))


@pytest.mark.parametrize("layer", NEEDED)
def test_a_probe_says_what_is_missing(layer: str) -> None:
    found = on_a_machine_without(layer, lambda: sandbox.probe(frozenset()))
    assert list(found.missing) == [layer]
    assert set(found.in_force) == set(LAYERS) - {layer}
    assert not found.holds
    named = on_a_machine_without(layer, lambda: sandbox.probe(frozenset({layer})))
    assert (named.holds, named.without, named.missing) == (True, (layer,), {})


def test_a_probe_says_that_a_child_cannot_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "PROBE_SECONDS", 0.001)
    found = sandbox.probe(frozenset())
    assert not found.holds
    assert found.fault
    assert found.fault in found.lack()


@pytest.mark.parametrize("first", ['{"kind": "phase", "phase": "a"}', '{"kind": "confined", "missing": {"x": "y"}}'])
def test_a_child_that_does_not_begin_with_its_layers_is_told_nothing(first: str, tmp_path: Path) -> None:
    with pytest.raises(ChildMisspoke, match="did not begin"):
        sandbox.run(
            "say_first", {}, limits=sandbox.Limits(60), workdir=tmp_path, module="tests.workers.hasty_child",
            readable=[Path(first)],
        )  # fmt: skip


def test_a_model_waits_and_loses_no_attempt(services: Services) -> None:
    model_id = new_id()
    entry = FileEntry("config.json", 2, services.vault.put([b"{}"]).sha256)
    with services.database.begin() as connection:
        model_rows.create(connection, DEFAULT_TENANT, model_id, "a model", source=Manifest.of([entry]), metadata={})
    on_a_machine_without("landlock", lambda: inspect_model(services, model_id))
    assert state(services.database, model_id) == (ModelStatus.INSPECTING, 0, 0)
    assert sandbox.allows(frozenset()) is False, "what was found at the start is what counts"
    sandbox.probe.cache_clear()
    assert sandbox.allows(frozenset())
    on_a_machine_without("landlock", lambda: inspect_model(services, model_id))  # gone since the start
    assert state(services.database, model_id) == (ModelStatus.INSPECTING, 0, 1)
    goes_without = services.settings.model_copy(update={"sandbox_without": "landlock"})
    with services.database.begin() as connection:
        connection.exec_driver_sql("UPDATE models SET lease_until = NULL")
    on_a_machine_without("landlock", lambda: inspect_model(replace(services, settings=goes_without), model_id))
    assert state(services.database, model_id) == (ModelStatus.REJECTED, 1, 2)


def state(database: Engine, model_id: Any) -> tuple[ModelStatus, int, int]:
    with database.connect() as connection:
        model = model_rows.get(connection, DEFAULT_TENANT, model_id)
    return model.status, model.attempts, model.token


def test_a_job_waits_and_loses_no_attempt(services: Services, make_job: MakeJob) -> None:
    job = make_job()
    on_a_machine_without("seccomp", lambda: run_job(services, job.id))
    with services.database.connect() as connection:
        assert job_rows.get(connection, DEFAULT_TENANT, job.id) == job
    sandbox.probe.cache_clear()
    assert sandbox.allows(frozenset())
    for _ in range(services.settings.max_attempts + 1):
        on_a_machine_without("seccomp", lambda: run_job(services, job.id))
        with services.database.begin() as connection:
            after = job_rows.get(connection, DEFAULT_TENANT, job.id)
            connection.exec_driver_sql("UPDATE jobs SET lease_until = NULL")
        assert (after.status, after.attempts) == (JobStatus.QUEUED, 0)


def test_the_beacon_tells_what_the_worker_found(services: Services) -> None:
    end = threading.Event()
    end.set()

    def said() -> Worker:
        with services.database.connect() as connection:
            (worker,) = worker_rows.alive(connection)
        return worker

    on_a_machine_without("landlock", lambda: beacon.light(services, lambda: 1, end).join())
    assert (list(said().sandbox.missing), said().busy) == (["landlock"], 1)
    sandbox.probe.cache_clear()
    beacon.light(services, lambda: 0, end).join()
    assert (said().sandbox.in_force, said().busy) == (LAYERS, 0)
    beacon.put_out(services)
    with services.database.connect() as connection:
        assert worker_rows.alive(connection) == []
