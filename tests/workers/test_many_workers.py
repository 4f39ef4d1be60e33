"""Several workers on one queue: who serves what, who is there, and what happens to the jobs of one that dies."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import text

from app.domain.identity import DEFAULT_TENANT
from app.domain.job import Job, JobStatus
from app.domain.worker import Queue, QueueSizes
from app.store import claim_rows, job_rows, worker_rows
from tests.job_rows_at_hand import add_job
from tests.service import until
from tests.worker_process import worker
from tests.workers.conftest import MakeJob
from workers.beacon import devices
from workers.services import Services

LONG = {"steps": 50, "eval_every": 50, "search_budget": 0, "patience": 1000, "rehearse": 0, "align": 0}


def job_of(services: Services, job_id: UUID) -> Job:
    with services.database.connect() as connection:
        return job_rows.get(connection, DEFAULT_TENANT, job_id)


@pytest.mark.parametrize(
    ("parameters", "queue"),
    [(0, Queue.CPU), (250, Queue.CPU), (251, Queue.GPU), (1000, Queue.GPU), (1001, Queue.LARGE)],
)
def test_a_queue_goes_by_the_bytes_of_the_weights(parameters: int, queue: Queue) -> None:
    assert QueueSizes(gpu_bytes=1000, large_bytes=4000).queue_for(parameters) is queue


def test_a_worker_leaves_the_jobs_of_other_queues_alone(services: Services) -> None:
    with services.database.begin() as connection:
        small, large = add_job(connection).id, add_job(connection).id
        connection.execute(text("UPDATE jobs SET queue = 'large', sent_at = NULL WHERE id = :id"), {"id": large})
        assert claim_rows.unclaimed(connection, 0.0, 10, ("cpu", "gpu")) == [small]
        assert claim_rows.claim(connection, large, "w", 60, 3, queues=("cpu",)) is None
        assert claim_rows.claim(connection, large, "w", 60, 3, queues=("large",)) is not None
        waits = {each.queue: (each.queued, each.running) for each in worker_rows.waiting(connection, DEFAULT_TENANT)}
    assert waits == {"cpu": (1, 0), "gpu": (0, 0), "large": (0, 1)}


def test_two_workers_share_the_queue_and_one_ends_what_the_other_left(
    services: Services, make_job: MakeJob, database_url: str, redis_url: str
) -> None:
    vault = services.settings.vault
    with (
        worker(database_url, redis_url, vault, LETHE_WORKER_SLOTS="1") as one,
        worker(database_url, redis_url, vault, LETHE_WORKER_SLOTS="1") as other,
    ):
        until(lambda: _said_by(services) >= {one.process.pid, other.process.pid})
        jobs = [make_job(LONG) for _ in range(2)]
        until(lambda: _at_work(services) == {one.process.pid, other.process.pid})
        os.killpg(one.process.pid, signal.SIGKILL)
        for job in jobs:
            until(lambda job=job: job_of(services, job.id).status.done)
        ended = [job_of(services, job.id) for job in jobs]
        assert [job.status for job in ended] == [JobStatus.SUCCEEDED] * 2, [job.failure for job in ended]
        with services.database.connect() as connection:
            assert connection.scalar(text("SELECT max(token) FROM jobs")) > 1, "one was begun again"
        assert other.stop() == 0
    assert other.process.pid not in _said_by(services), "who ends in order is gone at once"


def _said_by(services: Services) -> set[int]:
    with services.database.connect() as connection:
        return {_pid(each.name) for each in worker_rows.alive(connection)}


def _at_work(services: Services) -> set[int]:
    """The processes that hold a job."""
    with services.database.connect() as connection:
        return {_pid(name) for name in connection.scalars(text("SELECT worker FROM jobs WHERE status = 'running'"))}


def _pid(worker_name: str) -> int:
    return int(worker_name.rpartition(":")[2])


def test_accelerators_are_named_as_the_driver_names_them(tmp_path: Path) -> None:
    assert devices("auto", tmp_path) == ("cpu",)
    (tmp_path / "0000:01").mkdir()
    (tmp_path / "0000:01/information").write_text("Model: \t\t NVIDIA H100\nIRQ: 5\n")
    assert devices("auto", tmp_path) == ("NVIDIA H100",)
    assert devices("cpu", tmp_path) == ("cpu",)
