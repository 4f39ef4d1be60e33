"""What workers and the sweeper bring about is in the audit trail."""

from __future__ import annotations

import dataclasses
from typing import Any

from app.domain.audit import Entry, faults
from app.domain.identity import DEFAULT_TENANT
from app.domain.ids import new_id
from app.domain.manifest import FileEntry, Manifest
from app.store import audit_rows, claim_rows, model_rows
from tests.job_rows_at_hand import add_job, end_lease
from workers.inspect_model import inspect_model
from workers.run_job import run_job
from workers.services import Services
from workers.sweep import sweep


def limited(services: Services, **changes: Any) -> Services:
    return dataclasses.replace(services, settings=services.settings.model_copy(update=changes))


def trail(services: Services) -> list[Entry]:
    with services.database.connect() as connection:
        found = list(audit_rows.read(connection))
    assert list(faults(found)) == []
    assert {(entry.tenant, entry.actor) for entry in found} == {(DEFAULT_TENANT, services.actor)}
    return found


def add_model(services: Services) -> Any:
    stored, model_id = services.vault.put([b"{}"]), new_id()
    source = Manifest.of([FileEntry("config.json", stored.size, stored.sha256)])
    with services.database.begin() as connection:
        model_rows.create(connection, DEFAULT_TENANT, model_id, "m", source=source, metadata={})
    return model_id


def test_the_verdict_on_a_model(services: Services) -> None:
    model_id = add_model(services)
    inspect_model(services, model_id)
    (entry,) = trail(services)
    assert (entry.action, entry.subject) == ("model.rejected", f"model/{model_id}")
    assert "FN-MISSING" in entry.details["rules"]


def test_a_model_that_is_given_up(services: Services) -> None:
    model_id = add_model(services)
    with services.database.begin() as connection:
        model_rows.claim(connection, model_id, 0.0, 1)
    sweep(limited(services, max_attempts=1), lambda _task, _id: None)
    (entry,) = trail(services)
    assert (entry.action, entry.details) == ("model.rejected", {"rules": ["SB-ATTEMPTS"]})


def test_the_end_of_a_job(services: Services) -> None:
    """Its model is not in the vault: that is no fault that another attempt would mend."""
    with services.database.begin() as connection:
        job = add_job(connection)
    run_job(services, job.id)
    (entry,) = trail(services)
    assert (entry.action, entry.subject) == ("job.ended", f"job/{job.id}")
    assert entry.details["status"] == "failed"


def test_a_job_whose_worker_went_silent_for_the_last_time(services: Services) -> None:
    with services.database.begin() as connection:
        job = add_job(connection)
        claim_rows.claim(connection, job.id, "another", 300, 1)
        end_lease(connection, job.id)
    sweep(limited(services, max_attempts=1), lambda _task, _id: None)
    (entry,) = trail(services)
    assert (entry.action, entry.details) == ("job.ended", {"status": "quarantined", "failure": "worker-lost"})
