"""What was lost is found: messages, silent workers, leftovers. Each round may be cut off or come twice."""

from __future__ import annotations

import os
from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from app.domain.identity import DEFAULT_TENANT
from app.domain.job import JobStatus
from app.domain.messages import INSPECT_MODEL, RUN_JOB
from app.store import audit_rows, claim_rows, job_rows
from tests.job_rows_at_hand import DIGEST, a_delivery, add_job, add_model, end_lease
from workers.run_job import run_folder
from workers.services import Services
from workers.slots import Slots
from workers.sweep import LOCK, sweep, wake_next


class Outbox(list[tuple[str, UUID]]):
    def send(self, task: str, row_id: UUID) -> None:
        self.append((task, row_id))


@pytest.fixture
def outbox() -> Outbox:
    return Outbox()


def forget_sending(services: Services) -> None:
    with services.database.begin() as connection:
        for table in ("jobs", "models"):
            connection.execute(text(f"UPDATE {table} SET sent_at = clock_timestamp() - interval '1 day'"))


def claim(services: Services, job_id: UUID, limit: int = 9) -> claim_rows.Claim:
    with services.database.begin() as connection:
        found = claim_rows.claim(connection, job_id, "w", 300, limit)
    assert found is not None
    return found


def test_a_lost_message_is_sent_again(services: Services, outbox: Outbox) -> None:
    with services.database.begin() as connection:
        jobs = [add_job(connection).id for _ in range(2)]
        model = add_model(connection, "inspecting")
    sweep(services, outbox.send)
    assert outbox == []  # they were sent a moment ago
    forget_sending(services)
    sweep(services, outbox.send)
    assert outbox == [(RUN_JOB, jobs[0]), (RUN_JOB, jobs[1]), (INSPECT_MODEL, model)]
    sweep(services, outbox.send)
    assert len(outbox) == 3


def test_a_job_of_a_silent_worker_goes_on(services: Services, outbox: Outbox) -> None:
    with services.database.begin() as connection:
        lost, last, cancelled, alive = [add_job(connection).id for _ in range(4)]
    for job_id in (lost, cancelled, alive):
        claim(services, job_id)
    for _ in range(services.settings.max_attempts):
        claim(services, last)
        with services.database.begin() as connection:
            end_lease(connection, last)
    with services.database.begin() as connection:
        job_rows.cancel(connection, DEFAULT_TENANT, cancelled)
        for job_id in (lost, cancelled):
            end_lease(connection, job_id)
    sweep(services, outbox.send)
    expected = {
        lost: JobStatus.QUEUED,
        last: JobStatus.QUARANTINED,
        cancelled: JobStatus.CANCELLED,
        alive: JobStatus.RUNNING,
    }
    with services.database.connect() as connection:
        assert {job_id: job_rows.get(connection, DEFAULT_TENANT, job_id).status for job_id in expected} == expected
    assert outbox == [(RUN_JOB, lost)]


def test_one_sweeper_at_a_time(services: Services, outbox: Outbox) -> None:
    with services.database.begin() as connection:
        add_job(connection)
    forget_sending(services)
    with services.database.begin() as other:
        other.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        sweep(services, outbox.send)
        assert outbox == []
    sweep(services, outbox.send)
    assert len(outbox) == 1


def test_files_of_dead_runs_go_and_those_of_the_living_stay(services: Services, outbox: Outbox) -> None:
    with services.database.begin() as connection:
        job_id = add_job(connection).id
    dead = claim(services, job_id)
    with services.database.begin() as connection:
        end_lease(connection, job_id)
    living = claim(services, job_id)
    folders = [run_folder(services, job_id, token) for token in (dead.token, living.token)]
    folders.append(run_folder(services, uuid4(), 1))
    for folder in folders:
        (folder / "model").mkdir(parents=True)
    sweep(services, outbox.send)
    assert [folder.exists() for folder in folders] == [False, True, False]


def test_a_broker_that_is_away_does_not_stop_the_sweep(services: Services) -> None:
    with services.database.begin() as connection:
        add_job(connection)
    forget_sending(services)
    stray = run_folder(services, uuid4(), 1)
    stray.mkdir()

    def away(_task: str, _row: UUID) -> None:
        raise ConnectionError

    sweep(services, away)
    assert not stray.exists()


def test_a_free_slot_wakes_the_job_that_has_waited_longest(services: Services, outbox: Outbox) -> None:
    with services.database.begin() as connection:
        jobs = [add_job(connection).id for _ in range(3)]
    claim(services, jobs[0])
    wake_next(services, outbox.send)
    assert outbox == [(RUN_JOB, jobs[1])]


def test_slots_are_bounded_and_come_back() -> None:
    slots = Slots(2)
    assert [slots.take() for _ in range(3)] == [True, True, False]
    slots.give()
    assert slots.take()


def test_a_host_clears_its_own_scratch_also_while_another_sweeps(services: Services, outbox: Outbox) -> None:
    dead, stray = run_folder(services, uuid4(), 1), services.vault.incoming / "stray"
    dead.mkdir()
    stray.touch()
    os.utime(stray, (0, 0))
    with services.database.begin() as other:
        other.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        sweep(services, outbox.send)
    assert list(services.vault.incoming.iterdir()) == []


def test_a_job_that_has_outlived_its_time_is_deleted_with_a_line_that_names_its_files(
    services: Services, outbox: Outbox
) -> None:
    keep = replace(services, settings=services.settings.model_copy(update={"retain_jobs_seconds": 3600.0}))
    with services.database.begin() as connection:
        old, young, running = [add_job(connection) for _ in range(3)]
    for job in (old, young):
        held = claim(services, job.id)
        with services.database.begin() as connection:
            claim_rows.finish(connection, held, a_delivery())
    with services.database.begin() as connection:
        connection.execute(
            text("UPDATE jobs SET finished_at = finished_at - interval '2 hours' WHERE id = :id"), {"id": old.id}
        )
    sweep(services, outbox.send)
    sweep(keep, outbox.send)
    with services.database.connect() as connection:
        left = {job.id for job in job_rows.page(connection, DEFAULT_TENANT, 10)}
        (entry,) = [each for each in audit_rows.read(connection) if each.action == "job.deleted"]
    assert left == {young.id, running.id}
    assert entry.details == {"files": [DIGEST], "reason": "retention"}
