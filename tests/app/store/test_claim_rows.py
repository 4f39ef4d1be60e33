"""Claims: never two at once, no write after the lease or with an old token, and a whole life checked step by step."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from app.domain.errors import LeaseLost
from app.domain.identity import DEFAULT_TENANT
from app.domain.job import Failure, JobStatus, Phase
from app.domain.report import StepMetric
from app.store import claim_rows, event_rows, job_rows
from tests.job_rows_at_hand import a_delivery, add_job, an_order, end_lease

CRASH = Failure("child-crashed", "It crashed.")
S = JobStatus


def metrics(*steps: int) -> list[StepMetric]:
    return [StepMetric(step, "ascent", step / 10, {"asr": 0.5}) for step in steps]


def claimed(connection, job_id):
    claim = claim_rows.claim(connection, job_id, "worker", 30, 3)
    assert claim is not None
    return claim


def test_eight_claimers_race_and_no_job_is_claimed_twice(database: Engine) -> None:
    with database.begin() as connection:
        order = an_order(connection)
        ids = [add_job(connection, **{n: getattr(order, n) for n in ("model_id", "triggered_id", "clean_id")}).id
               for _ in range(150)]  # fmt: skip
    wins: Counter[object] = Counter()
    together = threading.Barrier(8)

    def race(number: int) -> None:
        together.wait()
        for job_id in ids if number % 2 else ids[::-1]:
            with database.begin() as connection:
                if claim_rows.claim(connection, job_id, f"w{number}", 30, 3):
                    wins[job_id] += 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(race, range(8)))
    assert wins == dict.fromkeys(ids, 1)


def test_every_write_of_a_lost_claim_is_refused(database: Engine) -> None:
    writes = [
        lambda c, claim: claim_rows.heartbeat(c, claim, 30),
        lambda c, claim: claim_rows.record_phase(c, claim, Phase.FISHER, 0.1),
        lambda c, claim: claim_rows.record_metrics(c, claim, metrics(1), 0.1),
        lambda c, claim: claim_rows.finish(c, claim, a_delivery()),
        lambda c, claim: claim_rows.finish(c, claim, CRASH),
        lambda c, claim: claim_rows.give_back(c, claim, CRASH, 3, 0),
    ]
    with database.begin() as connection:
        job_id = add_job(connection).id
        old = claimed(connection, job_id)
        end_lease(connection, job_id)
        for write in writes:  # the lease has ended, though nobody else has the job
            with pytest.raises(LeaseLost):
                write(connection, old)
        new = claimed(connection, job_id)
        assert new.token == old.token + 1
        before = job_rows.get(connection, DEFAULT_TENANT, job_id)
        for write in writes:  # another has it
            with pytest.raises(LeaseLost):
                write(connection, old)
        assert job_rows.get(connection, DEFAULT_TENANT, job_id) == before
        assert claim_rows.heartbeat(connection, new, 30) is S.RUNNING


def test_a_claim_that_takes_over_says_so(database: Engine) -> None:
    with database.begin() as connection:
        job_id = add_job(connection).id
        claimed(connection, job_id)
        assert claim_rows.claim(connection, job_id, "other", 30, 3) is None
        end_lease(connection, job_id)
        claimed(connection, job_id)
        words = [event.data["status"] for event in event_rows.transitions(connection, job_id)]
        assert words == ["queued", "running", "queued", "running"]


def test_a_job_given_back_waits_before_its_next_try(database: Engine) -> None:
    with database.begin() as connection:
        job_id = add_job(connection).id
        claim_rows.give_back(connection, claimed(connection, job_id), CRASH, 3, 600)
        assert job_rows.get(connection, DEFAULT_TENANT, job_id).status is S.QUEUED
        assert claim_rows.claim(connection, job_id, "worker", 30, 3) is None
        assert claim_rows.unclaimed(connection, 0, 10) == []
        end_lease(connection, job_id)
        assert claim_rows.unclaimed(connection, 0, 10) == [job_id]
        claimed(connection, job_id)


def test_a_batch_written_twice_is_not_doubled(database: Engine) -> None:
    with database.begin() as connection:
        job_id = add_job(connection).id
        claim = claimed(connection, job_id)
        claim_rows.record_metrics(connection, claim, metrics(1, 2), 0.2)
        version = job_rows.get(connection, DEFAULT_TENANT, job_id).version
        claim_rows.record_metrics(connection, claim, metrics(1, 2), 0.2)
        assert job_rows.get(connection, DEFAULT_TENANT, job_id).version == version
        claim_rows.record_metrics(connection, claim, metrics(2, 3), 0.3)
        assert event_rows.metrics(connection, job_id) == metrics(1, 2, 3)
        assert event_rows.metrics(connection, job_id, after_step=1, limit=1) == metrics(2)


def test_cancel_against_finish_ends_cancelled(database: Engine) -> None:
    with database.begin() as connection:
        for outcome in (a_delivery(), CRASH):
            job_id = add_job(connection).id
            claim = claimed(connection, job_id)
            job_rows.cancel(connection, DEFAULT_TENANT, job_id)
            assert claim_rows.heartbeat(connection, claim, 30) is S.CANCELLING
            assert claim_rows.finish(connection, claim, outcome).status is S.CANCELLED


def test_unclaimed_jobs_are_due_again_after_a_while_only(database: Engine) -> None:
    with database.begin() as connection:
        jobs = [add_job(connection).id for _ in range(3)]
        assert claim_rows.unclaimed(connection, 600, 10) == []
        assert claim_rows.unclaimed(connection, 0, 2) == jobs[:2]
        claimed(connection, jobs[0])
        assert claim_rows.unclaimed(connection, 0, 10) == jobs[1:]


def test_silent_jobs_are_taken_back(database: Engine) -> None:
    with database.begin() as connection:
        ids = [add_job(connection).id for _ in range(4)]
        for job_id in ids:
            claimed(connection, job_id)
        job_rows.cancel(connection, DEFAULT_TENANT, ids[1])
        for job_id in ids[:3]:
            end_lease(connection, job_id)
        assert claim_rows.silent(connection) == ids[:3]
        ends = [
            claim_rows.take_back(connection, job_id, limit) for job_id, limit in zip(ids, (3, 3, 1, 3), strict=True)
        ]
        assert [job and job.status for job in ends] == [S.QUEUED, S.CANCELLED, S.QUARANTINED, None]
        assert claim_rows.silent(connection) == []


def test_a_write_holds_the_row_from_its_check_to_its_end(database: Engine) -> None:
    """Else the job could change hands between the look at the token and the write."""
    with database.begin() as connection:
        job_id = add_job(connection).id
        claim = claimed(connection, job_id)
    with database.begin() as writer, database.begin() as other:
        claim_rows.lock_held(writer, claim)
        with pytest.raises(OperationalError, match="could not obtain lock"):
            other.execute(text("SELECT 1 FROM jobs WHERE id = :id FOR UPDATE NOWAIT"), {"id": job_id})
