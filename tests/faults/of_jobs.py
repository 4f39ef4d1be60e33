"""Faults of the queue itself: claimers that race, and cancels that meet every state."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx2
from sqlalchemy import create_engine

from app.domain.job import Failure
from app.settings import sqlalchemy_url
from app.store import claim_rows
from app.store.database import open_database
from client.errors import LetheError
from tests.api_process import KEY
from tests.conftest import ROOT
from tests.faults.invariants import broken
from tests.faults.ledger import Customer
from tests.faults.of_workers import ENOUGH, _step, open_site
from tests.faults.outcome import Outcome
from tests.faults.site import Site, site
from tests.job_rows_at_hand import add_job
from tests.service import until

CLAIMERS = 8


def claimers_race(jobs: int, times: dict[str, str]) -> Outcome:
    """3: eight processes race for all jobs at once: no job is claimed twice, and each is run."""
    outcome = Outcome("3 claimers race")
    with site(times) as place:
        engine = create_engine(sqlalchemy_url(place.database_url))
        with engine.begin() as connection:
            ids = [str(add_job(connection).id) for _ in range(jobs)]
        engine.dispose()
        command = [sys.executable, "-m", "tests.faults.of_jobs", place.database_url]
        with outcome.timed():
            racers = [
                subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                for _ in range(CLAIMERS)
            ]
            with ThreadPoolExecutor(CLAIMERS) as pool:
                said = list(pool.map(lambda racer: racer.communicate(json.dumps(ids))[0], racers))
        claimed = [job_id for words in said for job_id in json.loads(words)]
        outcome.tries, outcome.survived = jobs, len(set(claimed))
        if len(claimed) != len(set(claimed)):
            outcome.lost.append(f"{len(claimed) - len(set(claimed))} jobs were claimed twice")
        ended = place.sql("SELECT count(*) FROM jobs WHERE status = 'failed' AND token = 1")[0][0]
        if ended != jobs:
            outcome.lost.append(f"{ended} of {jobs} ended after one claim")
    return outcome


def race(database_url: str, ids: list[str]) -> list[str]:
    """One claimer: tries every job, and ends those that it gets. Returns their ids."""
    from uuid import UUID

    database, mine = open_database(sqlalchemy_url(database_url)), []
    for job_id in map(UUID, ids):
        with database.begin() as connection:
            claim = claim_rows.claim(connection, job_id, "racer", 60, 3)
        if claim is not None:
            mine.append(str(job_id))
            with database.begin() as connection:
                claim_rows.finish(connection, claim, Failure("raced", "It was only a race."))
    return mine


def cancelled_everywhere(tries: int, times: dict[str, str]) -> Outcome:
    """8: cancelled in every state, twice, and against the finish: one terminal state, within 10 s."""
    outcome = Outcome("8 cancelled in every state", most_seconds=10.0)
    with open_site(times, LETHE_WORKER_SLOTS="1") as (place, who, _one):
        for _ in range(tries):
            for meet in (_in_the_queue, _while_loading, _in_the_middle, _at_the_end, _when_done):
                with outcome.one():
                    job_id = meet(place, who)
                    with outcome.timed():
                        _cancel_twice_at_once(place, job_id)
                        done = until(lambda job_id=job_id: (job := who.look(job_id)).done and job, 60)  # type: ignore[misc]
                    assert done.status in ("cancelled", "succeeded"), done.status
                    if meet in (_in_the_queue, _in_the_middle, _while_loading):
                        assert done.status == "cancelled", done.status
        outcome.lost += broken(place, who.ledger)
    return outcome


def _in_the_queue(place: Site, who: Customer) -> str:
    """Behind another, which goes the same way."""
    before = who.order(100_000)
    job_id = who.order(20)
    with suppress(LetheError):
        who.lethe.cancel(before)
    return job_id if who.look(job_id).status == "queued" else who.order(100_000)


def _while_loading(place: Site, who: Customer) -> str:
    job_id = who.order(100_000)
    until(lambda: who.look(job_id).status != "queued")
    return job_id


def _in_the_middle(place: Site, who: Customer) -> str:
    job_id = who.order(100_000)
    _step(place, job_id, ENOUGH)
    return job_id


def _at_the_end(place: Site, who: Customer) -> str:
    job_id = who.order(20)
    _step(place, job_id, 20)
    return job_id


def _when_done(place: Site, who: Customer) -> str:
    return who.end(who.order(20)).id


def _cancel_twice_at_once(place: Site, job_id: str) -> None:
    def cancel(_: int) -> int:
        headers = {"Authorization": f"Bearer {KEY}"}
        return httpx2.post(f"{place.api.url}/v1/jobs/{job_id}/cancel", headers=headers, timeout=30).status_code

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(cancel, range(2)))
    assert set(answers) <= {200, 202, 409}, answers


if __name__ == "__main__":
    sys.stdout.write(json.dumps(race(sys.argv[1], json.load(sys.stdin))))
