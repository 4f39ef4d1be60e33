"""The whole life of a job: every order of claims, losses, sweeps and callers' wishes, against a model in memory; and
the same wishes by many threads at once, where only the invariants can be told.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Engine, select
from sqlalchemy.exc import IntegrityError

from app.domain.errors import IllegalMove, LeaseLost, NotFound
from app.domain.identity import DEFAULT_TENANT
from app.domain.ids import new_id
from app.domain.job import ALLOWED_MOVES, Claim, EventKind, Failure, JobStatus, Phase
from app.domain.report import StepMetric
from app.store import claim_rows, event_rows, job_rows
from app.store.tables import jobs as table
from tests.job_rows_at_hand import DIGEST, a_delivery, add_job, an_order, end_lease
from workers.services import Services
from workers.sweep import sweep

CRASH = Failure("child-crashed", "It crashed.")
S = JobStatus
LIMIT = 2  # as the services of these tests have it
KEY = "the caller's own key"


def legal_history(database: Engine, job_id: UUID) -> list[JobStatus]:
    """The statuses in their order, after they were held against the moves, the version and the row."""
    with database.connect() as connection:
        job = job_rows.get(connection, DEFAULT_TENANT, job_id)
        events = event_rows.after(connection, job_id, 0)
    assert [event.seq for event in events] == list(range(1, job.version + 1))
    words = [S(event.data["status"]) for event in events if event.kind is EventKind.STATUS]
    assert (words[0], words[-1]) == (S.QUEUED, job.status)
    assert all(to in ALLOWED_MOVES[was] for was, to in itertools.pairwise(words))
    assert (job.finished_at is not None) == job.status.done
    steps = [event.data["step"] for event in events if event.kind is EventKind.METRIC]
    assert len(steps) == len(set(steps))
    return words


class Life(RuleBasedStateMachine):
    """One job: its status, who holds it with which token, whether the lease is good, and how often it was tried."""

    services: Services

    @initialize()
    def born(self) -> None:
        with self.services.database.begin() as connection:
            self.order = an_order(connection)
            self.job_id = self._insert(connection)
        self.status, self.attempts, self.gone = S.QUEUED, 0, False
        self.claims: list[Claim] = []
        self.good: Claim | None = None

    def _insert(self, connection: Any) -> UUID:
        made = job_rows.insert(connection, DEFAULT_TENANT, new_id(), self.order, DIGEST, idempotency_key=self._key)
        assert made is not None
        return made.id

    @property
    def _key(self) -> str:
        return f"{KEY} {self.order.model_id}"

    def _go(self, to: JobStatus) -> None:
        assert to in ALLOWED_MOVES[self.status]
        self.status = to

    def _lost(self) -> None:
        """What a sweep makes of a job whose worker is gone."""
        if self.status is S.CANCELLING:
            self._go(S.CANCELLED)
        elif self.status is S.RUNNING:
            self._go(S.QUARANTINED if self.attempts >= LIMIT else S.QUEUED)

    @rule(message=st.integers(1, 2))
    def claim(self, message: int) -> None:
        """A message comes, perhaps twice."""
        for _ in range(message):
            free = self.status is S.QUEUED or (self.status is S.RUNNING and self.good is None)
            may = free and self.attempts < LIMIT and not self.gone
            with self.services.database.begin() as connection:
                claim = claim_rows.claim(connection, self.job_id, "w", 300, LIMIT)
            assert (claim is not None) == may
            if claim:
                assert all(claim.token > old.token for old in self.claims)
                self.claims.append(claim)
                self.good, self.status, self.attempts = claim, S.RUNNING, self.attempts + 1

    @precondition(lambda self: self.claims)
    @rule(
        data=st.data(),
        what=st.sampled_from(["beat", "phase", "metric", "deliver", "fail", "give back", "hand back"]),
    )
    def write(self, data: st.DataObject, what: str) -> None:
        """By the worker that holds the job, or by one that held it once and does not know."""
        claim = data.draw(st.sampled_from(self.claims))
        good = claim is self.good
        with contextlib.nullcontext() if good else pytest.raises(LeaseLost), self.services.database.begin() as to:
            if what == "beat":
                assert claim_rows.heartbeat(to, claim, 300) is self.status
            elif what == "phase":
                claim_rows.record_phase(to, claim, Phase.ASCENT, 0.2)
            elif what == "metric":
                step = data.draw(st.integers(0, 5))
                claim_rows.record_metrics(to, claim, [StepMetric(step, "ascent", step / 10, {"asr": 0.5})], 0.3)
            elif what in ("give back", "hand back"):
                claim_rows.give_back(to, claim, CRASH, LIMIT, 0, counts=what == "give back")
            else:
                claim_rows.finish(to, claim, a_delivery() if what == "deliver" else CRASH)
        if good and what not in ("beat", "phase", "metric"):
            self._ended(what)

    def _ended(self, what: str) -> None:
        self.good = None
        if self.status is S.CANCELLING:
            self._go(S.CANCELLED)
        elif what == "hand back":
            self.attempts -= 1  # a drained worker's try is nobody's fault
            self._go(S.QUEUED)
        elif what == "give back":
            self._lost()
        else:
            self._go(S.SUCCEEDED if what == "deliver" else S.FAILED)

    @rule()
    def go_silent(self) -> None:
        if self.good is not None:
            with self.services.database.begin() as connection:
                end_lease(connection, self.job_id)
            self.good = None

    @rule()
    def sweep(self) -> None:
        sent: list[UUID] = []
        sweep(self.services, lambda _task, row_id: sent.append(row_id))
        held = self.status in (S.RUNNING, S.CANCELLING)
        if held and self.good is None and not self.gone:
            self._lost()
            assert (self.job_id in sent) == (self.status is S.QUEUED)

    @rule()
    def cancel(self) -> None:
        may = not self.gone and self.status in (S.QUEUED, S.RUNNING, S.CANCELLING, S.CANCELLED)
        with contextlib.suppress(IllegalMove, NotFound), self.services.database.begin() as connection:
            job_rows.cancel(connection, DEFAULT_TENANT, self.job_id)
            assert may
        if may and self.status in (S.QUEUED, S.RUNNING):
            self._go(S.CANCELLED if self.status is S.QUEUED else S.CANCELLING)

    @rule()
    def retry(self) -> None:
        may = not self.gone and S.QUEUED in ALLOWED_MOVES[self.status] and self.status.done
        refused = pytest.raises(NotFound if self.gone else IllegalMove)
        with contextlib.nullcontext() if may else refused, self.services.database.begin() as connection:
            job_rows.retry(connection, DEFAULT_TENANT, self.job_id)
        if may:
            self._go(S.QUEUED)
            self.attempts = 0

    @rule(to=st.sampled_from(list(S)))
    def move_where_no_way_leads(self, to: JobStatus) -> None:
        if self.gone or to in ALLOWED_MOVES[self.status]:
            return
        with pytest.raises(IllegalMove), self.services.database.begin() as connection:
            job_rows.move(connection, self.job_id, to)

    @rule()
    def submit_again(self) -> None:
        """With the same Idempotency-Key: the job of that key is known, and no second one comes to be."""
        with self.services.database.begin() as connection:
            known = job_rows.known_request(connection, DEFAULT_TENANT, self._key)
            assert (known is None) == self.gone
            if known is not None:
                assert known.job.id == self.job_id
                with contextlib.suppress(IntegrityError), connection.begin_nested():
                    second = job_rows.insert(
                        connection, DEFAULT_TENANT, new_id(), self.order, DIGEST, idempotency_key=self._key
                    )
                    assert second is None

    @precondition(lambda self: self.status.done)
    @rule()
    def delete(self) -> None:
        if not self.gone:
            with self.services.database.begin() as connection:
                job_rows.delete(connection, DEFAULT_TENANT, self.job_id)
            self.gone, self.good = True, None

    @invariant()
    def row_and_history_are_what_the_model_says(self) -> None:
        if not hasattr(self, "job_id"):
            return
        if self.gone:
            with pytest.raises(NotFound), self.services.database.connect() as connection:
                job_rows.get(connection, DEFAULT_TENANT, self.job_id)
            return
        assert legal_history(self.services.database, self.job_id)[-1] is self.status


def test_the_whole_life_of_a_job_against_a_model(services: Services) -> None:
    assert services.settings.max_attempts == LIMIT
    life = type("BoundLife", (Life,), {"services": services})
    rules = settings(max_examples=30, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(life, settings=rules)


def test_many_at_once_leave_a_legal_history(database: Engine) -> None:
    """Claims, writes, losses, sweeps, cancels and retries of the same few jobs by eight threads, in any order."""
    with database.begin() as connection:
        jobs = [add_job(connection).id for _ in range(3)]
    together, tokens = threading.Barrier(8), {job_id: list[int]() for job_id in jobs}

    def wishes(number: int) -> None:
        dice, held = random.Random(number), list[Claim]()
        together.wait()
        for _ in range(120):
            job_id, what = dice.choice(jobs), dice.choice(list(_WISHES))
            with contextlib.suppress(IllegalMove, LeaseLost), database.begin() as connection:
                if what == "claim":
                    if claim := claim_rows.claim(connection, job_id, f"w{number}", 300, 10_000):
                        held.append(claim)
                        tokens[job_id].append(claim.token)
                elif what in ("deliver", "fail", "give back", "hand back"):
                    if held:
                        claim = held.pop(dice.randrange(len(held)))
                        _WISHES[what](connection, claim)
                        newest = connection.scalar(select(table.c.token).where(table.c.id == claim.job.id))
                        assert newest == claim.token, "a worker wrote with a token that was no longer good"
                else:
                    _WISHES[what](connection, job_id)

    with ThreadPoolExecutor(8) as pool:
        for each in [pool.submit(wishes, number) for number in range(8)]:
            each.result()
    for job_id in jobs:
        words = legal_history(database, job_id)
        assert len(tokens[job_id]) == len(set(tokens[job_id])) == words.count(S.RUNNING)


_WISHES: dict[str, Any] = {
    "claim": None,
    "deliver": lambda connection, claim: claim_rows.finish(connection, claim, CRASH),
    "fail": lambda connection, claim: claim_rows.finish(connection, claim, CRASH),
    "give back": lambda connection, claim: claim_rows.give_back(connection, claim, CRASH, 10_000, 0),
    "hand back": lambda connection, claim: claim_rows.give_back(connection, claim, CRASH, 10_000, 0, counts=False),
    "lose": end_lease,
    "take back": lambda connection, job_id: claim_rows.take_back(connection, job_id, 10_000),
    "cancel": lambda connection, job_id: job_rows.cancel(connection, DEFAULT_TENANT, job_id),
    "retry": lambda connection, job_id: job_rows.retry(connection, DEFAULT_TENANT, job_id),
}
