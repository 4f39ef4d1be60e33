"""A worker that is told to stop, and one whose broker is gone: no job is lost, none is delayed for long."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from uuid import UUID

import pytest

from app.domain.identity import DEFAULT_TENANT
from app.domain.job import Job, JobStatus
from app.store import event_rows, job_rows
from tests.conftest import free_port
from tests.service import until
from tests.worker_process import Worker, ready, worker
from tests.workers.conftest import MakeJob
from workers.services import Services

LONG = {"steps": 100_000, "eval_every": 100_000, "search_budget": 0}


Begin = Callable[..., contextlib.AbstractContextManager[Worker]]


@pytest.fixture
def begin(services: Services, database_url: str, redis_url: str) -> Begin:
    """Starts a worker over the same rows and files."""

    def started(redis: str = redis_url, **environment: str) -> contextlib.AbstractContextManager[Worker]:
        return worker(database_url, redis, services.settings.vault, **environment)

    return started


def job_of(services: Services, job_id: UUID) -> Job:
    with services.database.connect() as connection:
        return job_rows.get(connection, DEFAULT_TENANT, job_id)


def under_way(services: Services, one: Worker, job_id: UUID) -> None:
    until(one.children)
    until(lambda: job_of(services, job_id).status is JobStatus.RUNNING)


@pytest.mark.parametrize(
    ("drain", "signals"), [("0.5", [signal.SIGTERM]), ("600", [signal.SIGTERM] * 2), ("600", [signal.SIGQUIT])]
)
def test_a_job_that_cannot_end_in_time_is_handed_back_and_costs_no_attempt(
    services: Services, make_job: MakeJob, begin: Begin, drain: str, signals: list[signal.Signals]
) -> None:
    job = make_job(LONG)
    with begin(LETHE_DRAIN_SECONDS=drain) as one:
        ready(one)
        under_way(services, one, job.id)
        children = one.children()
        for told, number in enumerate(signals, start=1):
            one.process.send_signal(number)
            until(lambda told=told: one.said().count(" shutdown") == told)  # type: ignore[misc]
        assert one.process.wait(30) == 0, one.said()
        until(lambda: not any(child.is_running() for child in children), 5)
    found = job_of(services, job.id)
    assert (found.status, found.attempts) == (JobStatus.QUEUED, 0)
    with services.database.connect() as connection:
        last = event_rows.transitions(connection, job.id)[-1]
    assert last.data["reason"] == "Its worker was stopped."


def test_a_job_that_can_end_in_time_does_and_nothing_new_is_begun(
    services: Services, make_job: MakeJob, begin: Begin
) -> None:
    first, second = (
        make_job({"steps": 150, "eval_every": 150, "search_budget": 0, "rehearse": 0, "align": 0}),
        make_job(),
    )
    with begin(LETHE_WORKER_SLOTS="1") as one:
        ready(one)
        under_way(services, one, first.id)
        assert one.stop() == 0, one.said()
    assert job_of(services, first.id).status is JobStatus.SUCCEEDED
    assert job_of(services, second.id).status is JobStatus.QUEUED


def test_without_any_broker_jobs_are_run(services: Services, make_job: MakeJob, begin: Begin) -> None:
    """The worker starts while Redis is away, and it stays away; told to stop, the worker stops."""
    jobs = [make_job() for _ in range(3)]
    nobody = f"redis://127.0.0.1:{free_port()}/0"
    with begin(nobody) as one:
        until(lambda: all(job_of(services, job.id).status is JobStatus.SUCCEEDED for job in jobs))
        assert one.stop() == 0, one.said()


def test_a_child_waits_before_there_is_work_and_goes_with_the_worker(begin: Begin) -> None:
    with begin(LETHE_START_AHEAD="true") as one:
        (waiting,) = until(lambda: [each for each in one.children() if "ahead" in each.cmdline()])
        ready(one)
        assert one.stop() == 0
        assert not waiting.is_running()
