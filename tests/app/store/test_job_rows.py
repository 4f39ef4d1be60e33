"""Jobs in PostgreSQL: the one door of the status, idempotent creation, and the numbered history."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, func, select

from app.domain.errors import IllegalMove, NotFound
from app.domain.identity import DEFAULT_TENANT
from app.domain.ids import new_id
from app.domain.job import ALLOWED_MOVES, Failure, JobStatus
from app.store import claim_rows, event_rows, job_rows
from app.store.tables import job_events, jobs
from tests.job_rows_at_hand import a_delivery, add_job, an_order

S = JobStatus
# A way from queued to each status.
WAYS = {
    S.QUEUED: [],
    S.RUNNING: [S.RUNNING],
    S.CANCELLING: [S.RUNNING, S.CANCELLING],
    S.SUCCEEDED: [S.RUNNING, S.SUCCEEDED],
    S.FAILED: [S.RUNNING, S.FAILED],
    S.CANCELLED: [S.CANCELLED],
    S.QUARANTINED: [S.QUARANTINED],
}


def step(connection, job_id, to):
    more = {"delivery": a_delivery()} if to is S.SUCCEEDED else {}
    return job_rows.move(connection, job_id, to, **more)


@pytest.mark.parametrize("start", S)
@pytest.mark.parametrize("to", S)
def test_move_goes_along_the_allowed_moves_only(database: Engine, start: JobStatus, to: JobStatus) -> None:
    with database.begin() as connection:
        job = add_job(connection)
        for status in WAYS[start]:
            job = step(connection, job.id, status)
        if to in ALLOWED_MOVES[start]:
            moved = step(connection, job.id, to)
            assert (moved.status, moved.version) == (to, job.version + 1)
            assert event_rows.transitions(connection, job.id)[-1].data["status"] == to
        else:
            with pytest.raises(IllegalMove):
                step(connection, job.id, to)
            assert job_rows.get(connection, DEFAULT_TENANT, job.id) == job


def test_a_job_that_is_not_there(database: Engine) -> None:
    with database.connect() as connection:
        for call in (job_rows.get, job_rows.version, job_rows.cancel, job_rows.retry, job_rows.delivery):
            with pytest.raises(NotFound):
                call(connection, DEFAULT_TENANT, new_id())


def test_one_key_makes_one_job_however_many_ask_at_once(database: Engine) -> None:
    with database.begin() as connection:
        order = an_order(connection)
    together = threading.Barrier(8)

    def ask(_: int) -> bool:
        together.wait()
        with database.begin() as connection:
            return (
                job_rows.insert(connection, DEFAULT_TENANT, new_id(), order, "a" * 64, idempotency_key="key")
                is not None
            )

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(ask, range(8)))
    with database.connect() as connection:
        assert sum(made) == 1 == connection.scalar(select(func.count()).select_from(jobs))
        known = job_rows.known_request(connection, DEFAULT_TENANT, "key")
        assert known is not None
        assert known.request_sha256 == "a" * 64
        assert job_rows.known_request(connection, DEFAULT_TENANT, "other") is None


def test_pages_go_from_the_newest_to_the_oldest_without_gap_or_repeat(database: Engine) -> None:
    with database.begin() as connection:
        made = [add_job(connection) for _ in range(7)]
        job_rows.cancel(connection, DEFAULT_TENANT, made[2].id)
        seen, after = [], None
        while page := job_rows.page(connection, DEFAULT_TENANT, 3, after):
            seen += [job.id for job in page]
            after = page[-1].id
        assert seen == sorted((job.id for job in made), reverse=True)
        assert [job.id for job in job_rows.page(connection, DEFAULT_TENANT, 9, status=S.CANCELLED)] == [made[2].id]
        assert [job.id for job in job_rows.page(connection, DEFAULT_TENANT, 9, model_id=made[4].order.model_id)] == [
            made[4].id
        ]


def test_cancel_in_every_status(database: Engine) -> None:
    becomes = {
        S.QUEUED: S.CANCELLED,
        S.RUNNING: S.CANCELLING,
        S.CANCELLING: S.CANCELLING,
        S.CANCELLED: S.CANCELLED,
    }
    for start, way in WAYS.items():
        with database.begin() as connection:
            job = add_job(connection)
            for status in way:
                job = step(connection, job.id, status)
            if start in becomes:
                assert job_rows.cancel(connection, DEFAULT_TENANT, job.id).status is becomes[start]
                assert job_rows.cancel(connection, DEFAULT_TENANT, job.id).status is becomes[start]
            else:
                with pytest.raises(IllegalMove):
                    job_rows.cancel(connection, DEFAULT_TENANT, job.id)


def test_retry_gives_all_attempts_again(database: Engine) -> None:
    with database.begin() as connection:
        job = add_job(connection)
        for _ in range(3):
            claim = claim_rows.claim(connection, job.id, "w", 30, 3)
            assert claim is not None
            claim_rows.give_back(connection, claim, Failure("crash", "It crashed."), 3, 0)
        spent = job_rows.get(connection, DEFAULT_TENANT, job.id)
        assert (spent.status, spent.attempts, spent.failure is not None) == (S.QUARANTINED, 3, True)
        again = job_rows.retry(connection, DEFAULT_TENANT, job.id)
        assert (again.status, again.attempts, again.failure, again.finished_at) == (S.QUEUED, 0, None, None)
        assert claim_rows.claim(connection, job.id, "w", 30, 3) is not None
        with pytest.raises(IllegalMove):
            job_rows.retry(connection, DEFAULT_TENANT, job.id)


def test_delete_takes_a_finished_job_with_its_history(database: Engine) -> None:
    with database.begin() as connection:
        job = add_job(connection)
        with pytest.raises(IllegalMove):
            job_rows.delete(connection, DEFAULT_TENANT, job.id)
        job_rows.cancel(connection, DEFAULT_TENANT, job.id)
        job_rows.delete(connection, DEFAULT_TENANT, job.id)
        assert connection.scalar(select(func.count()).select_from(job_events)) == 0


def test_a_delivery_comes_back_as_it_was(database: Engine) -> None:
    delivery = a_delivery(outcome="inconclusive")
    with database.begin() as connection:
        job = add_job(connection)
        assert job_rows.delivery(connection, DEFAULT_TENANT, job.id) is None
        claim = claim_rows.claim(connection, job.id, "w", 30, 3)
        assert claim is not None
        done = claim_rows.finish(connection, claim, delivery)
        assert (done.status, done.verdict, done.progress) == (S.SUCCEEDED, "inconclusive", 1.0)
        assert job_rows.delivery(connection, DEFAULT_TENANT, job.id) == delivery
