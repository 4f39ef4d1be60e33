"""Faults of the servers below: Redis forgets and is away, PostgreSQL restarts and is cut off."""

from __future__ import annotations

import threading
import time
from collections import Counter

import httpx2

from tests.api_process import KEY
from tests.faults.invariants import broken
from tests.faults.of_workers import open_site
from tests.faults.outcome import Outcome
from tests.faults.site import Site
from tests.service import until


def redis_away(tries: int, times: dict[str, str], away_seconds: float = 60.0) -> Outcome:
    """4: Redis is flushed, stopped for a minute and started again in the middle of a queue: no job is lost, the API
    goes on accepting.
    """
    outcome = Outcome("4 Redis flushed and away")
    with open_site(times) as (place, who, _one):
        for _ in range(tries):
            with outcome.one():
                jobs = [who.order(30, seed=seed) for seed in range(4)]
                place.queue().flushall()
                place.redis.stop()
                back = time.monotonic() + away_seconds
                jobs += [who.order(30, seed=seed) for seed in range(4, 8)]
                while time.monotonic() < back:
                    who.look(jobs[-1])
                    time.sleep(0.2)
                place.redis.start()
                with outcome.timed():
                    for each in jobs:
                        assert who.end(each).status == "succeeded"
        outcome.lost += broken(place, who.ledger)
    return outcome


def postgres_away(tries: int, times: dict[str, str], away_seconds: float = 30.0, jobs_each: int = 3) -> Outcome:
    """5: PostgreSQL is restarted, and cut off for half a minute: callers read 503 and never 500, nothing that was
    acknowledged is lost, and all goes on by itself.
    """
    outcome = Outcome("5 PostgreSQL restarted and away")
    with open_site(times) as (place, who, _one):
        for seconds in [0.0, away_seconds] * tries:
            with outcome.one(), _Asking(place) as asking:
                jobs = [who.order(60, seed=seed) for seed in range(jobs_each)]
                place.postgres.stop()
                time.sleep(seconds)
                place.postgres.start()
                with outcome.timed():
                    until(lambda jobs=jobs: asking.answered(200), 60)  # type: ignore[misc]
                for each in jobs:
                    until(lambda each=each: _ended(who.lethe, each), 240)  # type: ignore[misc]
                    who.look(each)
                assert set(asking.seen) <= {200, 503}, asking.seen
        outcome.lost += broken(place, who.ledger)
    return outcome


def _ended(lethe: object, job_id: str) -> bool:
    return bool(lethe.job(job_id).done)  # type: ignore[attr-defined]


class _Asking:
    """Asks for the jobs all the time, and counts the answers by status. A connection that breaks is tried again."""

    def __init__(self, place: Site) -> None:
        self._place, self._over = place, threading.Event()
        self.seen: Counter[int] = Counter()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> _Asking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def answered(self, status: int) -> bool:
        """Whether the present answer has this status."""
        return self._once() == status

    def _ask(self) -> None:
        while not self._over.wait(0.05):
            self.seen[self._once()] += 1

    def _once(self) -> int:
        headers = {"Authorization": f"Bearer {KEY}"}
        return httpx2.get(f"{self._place.api.url}/v1/jobs", headers=headers, timeout=60).status_code
