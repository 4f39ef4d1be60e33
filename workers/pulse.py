"""The pulse of one run: it keeps the lease, hears of a cancel, and takes the run's steps to the database.

Guarantees: a run whose lease has ended, or could not be renewed in time, learns so from its own clock before anybody
else may claim the job; steps reach the database in order and in batches, and those that a broken connection held up
go with the next batch.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Self

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app.domain.errors import ChildMisspoke, LeaseLost
from app.domain.job import Claim, JobStatus, Phase
from app.domain.progress import share_done
from app.domain.report import StepMetric
from app.store import claim_rows

log = logging.getLogger(__name__)

Write = Callable[[Connection], object]

DATABASE_DOWN = (OperationalError, InterfaceError, PoolTimeout)
TICK_SECONDS = 0.5
FLUSH_SECONDS = 1.0
AGAIN_SECONDS = 1.0
# The run stops itself this share of the lease before its end.
MARGIN = 0.1
MOST_METRICS = 200_000


class CancelAsked(Exception):
    """The caller has asked to cancel the job."""


class Pulse:
    """Use as a context: a thread renews the claim every `heartbeat_seconds` until the block ends.

    `since` is `time.monotonic()` just before the claim was made.
    """

    def __init__(
        self, database: Engine, claim: Claim, *, lease_seconds: float, heartbeat_seconds: float, since: float
    ) -> None:
        self._database, self._claim = database, claim
        self._lease, self._interval = lease_seconds, heartbeat_seconds
        self._good_until = since + lease_seconds * (1 - MARGIN)
        self._lost = False
        self._cancelling = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name=f"pulse-{claim.job.id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def check(self) -> None:
        """Raises LeaseLost once the claim is not surely ours any more, and CancelAsked."""
        if self._lost or time.monotonic() >= self._good_until:
            raise LeaseLost(f"The claim {self._claim.token} on job {self._claim.job.id} has ended.")
        if self._cancelling:
            raise CancelAsked

    def write(self, what: Write) -> None:
        """Carry out one transaction, again and again while the database is away and the lease good.

        Raises LeaseLost. A commit whose answer was lost shows itself as LeaseLost at the next try, if it ended the
        claim.
        """
        while True:
            try:
                with self._database.begin() as connection:
                    what(connection)
            except DATABASE_DOWN as error:
                log.warning("cannot write for job %s yet: %s", self._claim.job.id, type(error).__name__)
                if self._lost or time.monotonic() >= self._good_until:
                    raise LeaseLost("The database was away for longer than the lease.") from error
                time.sleep(AGAIN_SECONDS)
            else:
                return

    def _beat_on(self) -> None:
        while not self._lost and not self._end.wait(self._interval):
            self._beat()

    def _beat(self) -> None:
        asked = time.monotonic()
        try:
            with self._database.begin() as connection:
                status = claim_rows.heartbeat(connection, self._claim, self._lease)
        except LeaseLost:
            self._lost = True
        except DATABASE_DOWN as error:
            log.warning("no heartbeat for job %s: %s", self._claim.job.id, type(error).__name__)
        else:
            self._good_until = asked + self._lease * (1 - MARGIN)
            self._cancelling = status is JobStatus.CANCELLING


class Journal:
    """Takes the child's messages, and writes them when it is time. `steps` is the most the run may take; `on_phase`
    is told of each phase as it begins."""

    def __init__(
        self, database: Engine, claim: Claim, steps: int, on_phase: Callable[[Phase], None] = lambda _: None
    ) -> None:
        self._on_phase = on_phase
        self._database, self._claim, self._steps = database, claim, steps
        self._pending: list[Phase | StepMetric] = []
        self._entered: Phase | None = None
        self._phase = Phase.LOADING  # of the metrics that are written next
        self._heard = 0
        self._flushed = time.monotonic()

    def hear(self, message: Mapping[str, Any]) -> None:
        """Raises ChildMisspoke for a phase that is not known or more metrics than any run has, and LeaseLost."""
        if message["kind"] == "phase":
            self.enter(_known(message["phase"]))
        elif message["kind"] == "metric":
            self._heard += 1
            if self._heard > MOST_METRICS:
                raise ChildMisspoke("It sent more metrics than a run can have.")
            self._pending.append(StepMetric.from_dict(message["metric"]))

    def enter(self, phase: Phase) -> None:
        """The run comes to a phase; to say so twice changes nothing."""
        if phase is not self._entered:
            self._entered = phase
            self._on_phase(phase)
            self._pending.append(phase)
            self.flush()

    def tick(self) -> None:
        if time.monotonic() - self._flushed >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> bool:
        """Write what is pending, in one transaction; whether nothing is left. While the database is away it waits.
        Raises LeaseLost.
        """
        self._flushed = time.monotonic()
        if not self._pending:
            return True
        phase = self._phase
        try:
            with self._database.begin() as connection:
                for is_phase, group in itertools.groupby(self._pending, key=lambda item: isinstance(item, Phase)):
                    if is_phase:
                        phase = self._write_phases(connection, [item for item in group if isinstance(item, Phase)])
                    else:
                        metrics = [item for item in group if isinstance(item, StepMetric)]
                        self._write_metrics(connection, phase, metrics)
        except DATABASE_DOWN as error:
            log.warning("steps of job %s wait: %s", self._claim.job.id, type(error).__name__)
        else:
            self._phase = phase
            self._pending.clear()
        return not self._pending

    def _write_phases(self, connection: Connection, phases: list[Phase]) -> Phase:
        for phase in phases:
            claim_rows.record_phase(connection, self._claim, phase, share_done(phase))
        return phases[-1]

    def _write_metrics(self, connection: Connection, phase: Phase, metrics: list[StepMetric]) -> None:
        within = max(metric.step for metric in metrics) / self._steps
        claim_rows.record_metrics(connection, self._claim, metrics, share_done(phase, within))


def _known(name: str) -> Phase:
    try:
        return Phase(name)
    except ValueError:
        raise ChildMisspoke("It named a phase that is not known.") from None
