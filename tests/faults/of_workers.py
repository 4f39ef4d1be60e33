"""Faults of the processes that run jobs: killed, stopped in time, crashing for ever, of another version."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.conftest import ROOT
from tests.faults.invariants import broken
from tests.faults.ledger import Customer, customer
from tests.faults.outcome import Outcome
from tests.faults.site import Site, site
from tests.service import until
from tests.worker_process import Worker

STEPS = 300
ENOUGH = 8  # steps that a job has taken when it is surely under way


@contextlib.contextmanager
def open_site(
    times: dict[str, str], build: str | None = None, **environment: str
) -> Iterator[tuple[Site, Customer, Worker]]:
    """A site with a worker, and a customer whose model is taken in."""
    with site(times, build=build) as place, tempfile.TemporaryDirectory() as folder:
        one = place.worker(**environment)
        who = customer(place)
        who.bring(Path(folder))
        yield place, who, one


def runner_killed(tries: int, times: dict[str, str], seed: int = 0) -> Outcome:
    """1: kill -9 of the runner, and in every fifth try of its whole worker, at a random step: the job resumes within
    45 s, and what it delivers is what an undisturbed run delivers.
    """
    outcome, draw = Outcome("1 runner killed", most_seconds=45.0), random.Random(seed)
    with open_site(times, LETHE_WORKER_SLOTS="1") as (place, who, first):
        one = first
        whole = who.digest(who.end(who.order(STEPS)).id)
        for number in range(tries):
            with outcome.one():
                job_id = who.order(STEPS)
                _step(place, job_id, draw.randrange(ENOUGH, STEPS * 3 // 4))
                if number % 5 == 4:
                    os.killpg(one.process.pid, signal.SIGKILL)
                    one = place.worker(LETHE_WORKER_SLOTS="1")
                else:
                    for child in one.children():
                        child.kill()
                with outcome.timed():
                    until(lambda job_id=job_id: _begun_again(place, job_id), 120)  # type: ignore[misc]
                done = who.end(job_id)
                assert done.status == "succeeded", (done.status, done.failure)
                assert who.digest(job_id) == whole, "it delivered other bytes"
        outcome.lost += broken(place, who.ledger)
    return outcome


def worker_lost(tries: int, times: dict[str, str], build: str | None = None) -> Outcome:
    """The part of fault 1 that the sweeper alone mends: the whole worker is killed, and another is there."""
    outcome = Outcome("1 worker killed")
    with open_site(times, build, LETHE_WORKER_SLOTS="1") as (place, who, first):
        one = first
        for _ in range(tries):
            with outcome.one():
                job_id = who.order(STEPS)
                _step(place, job_id, ENOUGH)
                os.killpg(one.process.pid, signal.SIGKILL)
                one = place.worker(LETHE_WORKER_SLOTS="1")
                assert who.end(job_id, 45).status == "succeeded"
        outcome.lost += broken(place, who.ledger)
    return outcome


def _step(place: Site, job_id: str, least: int) -> None:
    """Until the job has taken that many steps, or is done."""
    query = (
        "SELECT max(step) >= %s OR (SELECT status FROM jobs WHERE id = %s) = 'succeeded'"
        " FROM job_events WHERE job_id = %s"
    )
    until(lambda: place.sql(query, least, job_id, job_id)[0][0], 120)


def _begun_again(place: Site, job_id: str) -> bool:
    ((attempts, status),) = place.sql(
        "SELECT count(*) FILTER (WHERE data ->> 'status' = 'running'), (SELECT status FROM jobs WHERE id = %s)"
        " FROM job_events WHERE job_id = %s", job_id, job_id,
    )  # fmt: skip
    return int(str(attempts)) > 1 or status == "succeeded"


def asleep_past_its_lease(tries: int, times: dict[str, str], build: str | None = None) -> Outcome:
    """2: SIGSTOP past the lease, then SIGCONT: another worker has the job by then, and whatever the first one still
    writes is refused.
    """
    outcome = Outcome("2 asleep past its lease")
    with open_site(times, build, LETHE_WORKER_SLOTS="1") as (place, who, first):
        one = first
        for _ in range(tries):
            with outcome.one():
                job_id = who.order(STEPS)
                _step(place, job_id, ENOUGH)
                one.process.send_signal(signal.SIGSTOP)
                other = place.worker(LETHE_WORKER_SLOTS="1")
                until(lambda job_id=job_id: place.sql("SELECT token > 1 FROM jobs WHERE id = %s", job_id)[0][0])  # type: ignore[misc]
                before = one.said().count(" is lost")
                one.process.send_signal(signal.SIGCONT)
                with outcome.timed():
                    until(lambda one=one, before=before: one.said().count(" is lost") > before)  # type: ignore[misc]
                assert who.end(job_id).status == "succeeded"
                one.stop()
                one = other
        outcome.lost += broken(place, who.ledger)
    return outcome


def crashes_every_time(tries: int, times: dict[str, str]) -> Outcome:
    """9: a job that crashes its runner every time is quarantined after three attempts; its neighbours end well."""
    outcome = Outcome("9 crashes every time")
    with open_site(times, LETHE_WORKER_SLOTS="2") as (place, who, one):
        for _ in range(tries):
            with outcome.one():
                bad = who.order(100_000)
                neighbours = [who.order(20, seed=seed) for seed in range(3)]
                with outcome.timed():
                    until(lambda bad=bad: _struck(place, one, bad), 180)  # type: ignore[misc]
                ((status, attempts),) = place.sql("SELECT status, attempts FROM jobs WHERE id = %s", bad)
                assert (status, attempts) == ("quarantined", 3), (status, attempts)
                for each in neighbours:
                    assert who.end(each).status == "succeeded"
        outcome.lost += broken(place, who.ledger)
    return outcome


def _struck(place: Site, one: Worker, job_id: str) -> bool:
    """Kill the job's child, if it has one; whether the job is done."""
    for child in one.children():
        with contextlib.suppress(psutil.Error):
            if any(job_id in str(argument) for argument in (child.cwd(), *child.cmdline())):
                child.kill()
    ((status,),) = place.sql("SELECT status FROM jobs WHERE id = %s", job_id)
    time.sleep(0.05)
    return status not in ("queued", "running")


def older_version_beside(tries: int, times: dict[str, str]) -> Outcome:
    """12: a worker of the version before the newest migration beside a new one; the migration down and up again while
    jobs are queued: no job is lost.
    """
    outcome = Outcome("12 older version, rolling upgrade")
    with _older_tree() as tree:
        if tree is None:
            outcome.skipped = "there is no history to take an older version from"
            return outcome
        with open_site(times, LETHE_WORKER_SLOTS="1") as (place, who, first):
            one = first
            for _ in range(tries):
                with outcome.one(), _older_worker(place, tree) as older:
                    jobs = [who.order(20, seed=seed) for seed in range(6)]
                    for each in jobs:
                        assert who.end(each).status == "succeeded"
                    workers = {str(row[0]) for row in place.sql("SELECT actor FROM audit WHERE action = 'job.ended'")}
                    assert any(name.endswith(f":{older.pid}") for name in workers), "the older worker ran nothing"
                    one.stop()
                    older.terminate()
                    older.wait(60)
                    waiting = [who.order(20, seed=seed) for seed in range(2)]
                    _migrate(place, "downgrade", "-1")
                    _migrate(place, "upgrade", "head")
                    one = place.worker(LETHE_WORKER_SLOTS="1")
                    for each in waiting:
                        assert who.end(each).status == "succeeded"
            outcome.lost += broken(place, who.ledger)
    return outcome


def _migrate(place: Site, *words: str) -> None:
    command = [sys.executable, "-m", "alembic", "-c", str(ROOT / "migrations/alembic.ini"), *words]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"DATABASE_URL": place.database_url}, check=True)


@contextlib.contextmanager
def _older_tree() -> Iterator[Path | None]:
    """The tree as it was before the newest migration came; None without a history."""
    newest = max((ROOT / "migrations/versions").glob("*.py"))
    found = subprocess.run(
        ["git", "log", "--diff-filter=A", "--format=%H", "--", str(newest)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    commit = found.stdout.split()[-1] + "~1" if found.stdout.split() else ""
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=False)
        if not commit or archive.returncode:
            yield None
            return
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        yield Path(folder)


@contextlib.contextmanager
def _older_worker(place: Site, tree: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = {
        **place.times, "DATABASE_URL": place.database_url, "REDIS_URL": place.redis_url,
        "LETHE_VAULT": str(place.vault), "LETHE_TORCH_THREADS": "1", "LETHE_DEVICE": "cpu", "PYTHONPATH": str(tree),
    }  # fmt: skip
    command = [sys.executable, "-m", "celery", "-A", "workers.celery_app", "--quiet", "worker", "--without-gossip"]
    process = subprocess.Popen(
        command, cwd=tree, env=os.environ | environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
