"""A job whose run was cut goes on from its resume point, with real processes, database and vault."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import pytest

from app.domain.errors import LeaseLost
from app.domain.identity import DEFAULT_TENANT
from app.domain.job import Claim, Delivery, JobStatus
from app.domain.manifest import FileEntry, Manifest
from app.store import claim_rows, event_rows, job_rows, point_rows, references
from app.store.point_rows import Point
from tests.job_rows_at_hand import DIGEST, add_job, end_lease
from tests.service import until
from tests.workers.conftest import MakeJob
from tests.workers.test_run_job import children, job_of, running
from workers import resume
from workers.card import CARD
from workers.run_job import run_job
from workers.services import Services

LONG = {"steps": 400, "eval_every": 200, "search_budget": 0, "rehearse": 0, "align": 0, "patience": 1000}


def points_of(services: Services, job_id: UUID) -> list[Point]:
    with services.database.connect() as connection:
        return point_rows.newest(connection, job_id)


def delivered(services: Services, job_id: UUID) -> Delivery:
    with services.database.connect() as connection:
        found = job_rows.delivery(connection, DEFAULT_TENANT, job_id)
    assert found is not None
    return found


def claim_of(services: Services, job_id: UUID) -> Claim:
    with services.database.begin() as connection:
        found = claim_rows.claim(connection, job_id, "w", 60, 2)
    assert found is not None
    return found


def end_pause(services: Services, job_id: UUID) -> None:
    with services.database.begin() as connection:
        end_lease(connection, job_id)


@contextmanager
def cut_after_a_point(services: Services, job_id: UUID, beyond: int = -1) -> Iterator[None]:
    """The job runs until a point further than that is kept; then its child is killed."""
    with running(services, job_id):
        until(lambda: [point for point in points_of(services, job_id) if point.step > beyond])
        for child in children():
            os.kill(child.pid, signal.SIGKILL)
    yield
    end_pause(services, job_id)


def trained(services: Services, job_id: UUID) -> dict[str, str]:
    """What was delivered, by digest; the model card aside, which names the job."""
    return {entry.path: entry.sha256 for entry in delivered(services, job_id).manifest if entry.path != CARD}


def damage(services: Services, point: Point) -> None:
    for entry in point.manifest:
        file = services.vault.path(entry.sha256)
        file.chmod(0o600)
        file.write_bytes(b"x" + file.read_bytes()[1:])


def test_killed_thrice_and_a_point_damaged_it_delivers_the_same_bytes_each_step_once_and_leaves_no_point(
    services: Services, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = make_job(LONG)
    run_job(services, undisturbed.id)
    monkeypatch.setattr(resume, "YOUNG_SECONDS", 0.0)
    job, last, others = make_job(LONG), -1, stored(services)
    for cut in range(3):  # more often than the two attempts that it has without getting on
        with cut_after_a_point(services, job.id, last):
            assert job_of(services, job.id).status is JobStatus.QUEUED
            new = set(stored(services)).difference(others)
            assert [each for each in new if b"fingerprint" in services.vault.path(each).read_bytes()[:400]]
        newest = points_of(services, job.id)[0]
        last = newest.step
        if cut == 1:
            damage(services, newest)
    run_job(services, job.id)
    assert job_of(services, job.id).status is JobStatus.SUCCEEDED
    assert trained(services, job.id) == trained(services, undisturbed.id)
    with services.database.connect() as connection:
        steps = [metric.step for metric in event_rows.metrics(connection, job.id)]
        assert set(stored(services)).difference(others) <= set(references.everything(connection))
    assert steps == list(range(LONG["steps"] + 1))
    assert points_of(services, job.id) == []


def test_a_job_that_never_gets_on_is_quarantined(services: Services, make_job: MakeJob) -> None:
    job = make_job({"steps": 100_000, "eval_every": 100_000})
    for _ in range(services.settings.max_attempts):
        with running(services, job.id):
            for child in until(children):
                os.kill(child.pid, signal.SIGKILL)
        end_pause(services, job.id) if not job_of(services, job.id).status.done else None
    assert job_of(services, job.id).status is JobStatus.QUARANTINED


def a_point(step: int, sha256: str = DIGEST) -> Point:
    return Point(step, Manifest.of([FileEntry("state.json", 2, sha256)]))


def test_two_points_are_kept_and_the_rest_are_told(services: Services) -> None:
    with services.database.begin() as connection:
        job = add_job(connection)
    claim = claim_of(services, job.id)
    for step, gone in ((3, []), (9, []), (9, []), (12, [3])):
        with services.database.begin() as connection:
            assert [point.step for point in point_rows.add(connection, claim, a_point(step))] == gone
    assert [point.step for point in points_of(services, job.id)] == [12, 9]


def test_a_stale_worker_adds_none(services: Services) -> None:
    with services.database.begin() as connection:
        job = add_job(connection)
    stale = claim_of(services, job.id)
    end_pause(services, job.id)
    claim_of(services, job.id)
    with pytest.raises(LeaseLost), services.database.begin() as connection:
        point_rows.add(connection, stale, a_point(3))
    assert points_of(services, job.id) == []


def test_only_a_point_further_on_gives_the_attempts_back(services: Services) -> None:
    with services.database.begin() as connection:
        job = add_job(connection)
    claim = claim_of(services, job.id)
    with services.database.begin() as connection:
        point_rows.add(connection, claim, a_point(5))
    end_pause(services, job.id)
    claim = claim_of(services, job.id)
    assert claim.job.attempts == 2
    for step, attempts in ((5, 2), (4, 2), (6, 1)):
        with services.database.begin() as connection:
            point_rows.add(connection, claim, a_point(step))
        assert job_of(services, job.id).attempts == attempts


def stored(services: Services) -> list[str]:
    return services.vault.after("", 1000)
