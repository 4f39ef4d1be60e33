"""What workers of two versions must agree on: the names and the form of messages, and rows of a newer one."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import redis
from sqlalchemy import text

from app.domain.identity import DEFAULT_TENANT
from app.domain.ids import new_id
from app.domain.job import JobStatus
from app.jobs.dispatch import Dispatcher
from app.store import job_rows
from app.store.redis_address import for_client
from tests.conftest import ROOT
from tests.workers.conftest import MakeJob
from workers.run_job import run_job
from workers.services import Services

SETTINGS = {
    "accept_content": ["json"],
    "task_serializer": "json",
    "task_ignore_result": True,
    "task_acks_late": False,
    "result_backend": None,
    "worker_prefetch_multiplier": 1,
}


def test_celery_is_set_up_so_that_nothing_depends_on_it(redis_url: str) -> None:
    """Read from the live configuration, as a worker process has it."""
    names = ", ".join(repr(name) for name in SETTINGS)
    program = (
        f"import json; from workers.celery_app import app; print(json.dumps({{n: app.conf[n] for n in ({names},)}}))"
    )
    environment = os.environ | {"DATABASE_URL": "postgresql://nobody@nowhere/none", "REDIS_URL": redis_url}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == SETTINGS


def test_a_message_is_one_id_under_a_name_that_does_not_change(redis_url: str) -> None:
    """A worker of another version reads it: renaming a task needs a release that knows both names."""
    model, job = new_id(), new_id()
    with redis.Redis.from_url(for_client(redis_url)) as queue:
        queue.delete("celery")
        dispatcher = Dispatcher(redis_url)
        dispatcher.inspect_model(model)
        dispatcher.run_job(job)
        sent = [json.loads(line) for line in reversed(queue.lrange("celery", 0, -1))]
        queue.delete("celery")
    assert [each["headers"]["task"] for each in sent] == ["lethe.inspect_model", "lethe.run_job"]
    assert [each["headers"]["argsrepr"] for each in sent] == [f"['{model}']", f"['{job}']"]
    assert {each["content-type"] for each in sent} == {"application/json"}


@pytest.mark.parametrize(
    "change",
    ["method = 'a_method_of_tomorrow'", "recipe = recipe || '{\"a_knob_of_tomorrow\": 1}'", "queue = 'tomorrow'"],
)
def test_a_job_that_only_a_newer_version_knows_waits_for_it(
    services: Services, make_job: MakeJob, change: str
) -> None:
    job = make_job()
    with services.database.begin() as connection:
        connection.execute(text(f"UPDATE jobs SET {change} WHERE id = :id"), {"id": job.id})
    for _ in range(services.settings.max_attempts + 1):
        run_job(services, job.id)
        with services.database.begin() as connection:
            found = job_rows.get(connection, DEFAULT_TENANT, job.id)
            connection.execute(text("UPDATE jobs SET lease_until = NULL"))
        assert (found.status, found.attempts) == (JobStatus.QUEUED, 0)
