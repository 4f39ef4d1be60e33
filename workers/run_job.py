"""One job, top to bottom: claim it, lay out its files, train in a child, deliver, finish.

Guarantees: whatever happens the job ends in one of its terminal states or goes back to the queue; nothing is written
once the lease is lost. What the caller can mend fails the job with its reason; a run that dies without an answer goes
back to the queue after a pause, and is quarantined after its last attempt. Without a whole sandbox nothing is begun,
and no attempt is used up.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from app import traces
from app.domain.errors import (
    BadRecipe,
    CallerError,
    ChildFailed,
    ChildTimeout,
    Corrupt,
    Diverged,
    LeaseLost,
    LetheError,
    NotFound,
    OtherVersion,
    OurError,
    SandboxUnavailable,
    StorageFull,
)
from app.domain.job import Claim, Delivery, Failure, Job, JobOrder, Phase
from app.domain.manifest import Manifest
from app.domain.recipe import Recipe
from app.store import audit_rows, claim_rows, model_rows, sample_rows
from workers import measures, resume, sandbox
from workers.deliver import deliver, describe
from workers.drain import Stopped
from workers.pulse import TICK_SECONDS, CancelAsked, Journal, Pulse, Write
from workers.resume import Points
from workers.services import Services
from workers.signing import Inputs, sign

log = logging.getLogger(__name__)

# Trying again would end in the same way.
FINAL = (CallerError, Diverged, Corrupt, ChildTimeout, StorageFull)
End = Delivery | LetheError | CancelAsked | Stopped
INPUTS = ("model", "base", "triggered", "clean")
FIRST_PAUSE_SECONDS = 2.0
LONGEST_PAUSE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class _Run:
    """One claim at work."""

    services: Services
    claim: Claim
    pulse: Pulse
    journal: Journal
    folder: Path
    points: Points

    def hear(self, message: Mapping[str, Any]) -> None:
        self.journal.hear(message)
        if message["kind"] in ("point", "bad-point") and self.journal.flush():
            self.points.hear(message)  # never a point beyond the steps that are written

    def tick(self) -> None:
        self.services.drain.check()
        self.pulse.check()
        self.journal.tick()


def run_job(services: Services, job_id: UUID) -> None:
    """Run the job if it is free to be claimed. Returns in any case: the row says what came of it."""
    if not sandbox.allows(services.settings.sandbox_gone_without):
        return
    since = time.monotonic()
    claim = _claim(services, job_id)
    if claim is None:
        return
    log.info("job %s: attempt %d, token %d", job_id, claim.job.attempts, claim.token)
    points: list[str] = []
    try:
        with (
            traces.span("run job", job=str(job_id), attempt=claim.job.attempts),
            _pulse(services, claim, since) as pulse,
        ):
            end = _carry_out(services, claim, pulse, points)
            pulse.write(_last_word(services, claim, end))
        measures.ended(end)
        resume.collect(services, points)
    except LeaseLost:
        log.warning("job %s: the lease of token %d is lost; stopped", job_id, claim.token)


def _claim(services: Services, job_id: UUID) -> Claim | None:
    known = services.settings
    with services.database.begin() as connection:
        return claim_rows.claim(
            connection, job_id, services.worker, known.lease_seconds, known.max_attempts,
            most_of_tenant=known.tenant_running_jobs, queues=known.served_queues,
        )  # fmt: skip


def _pulse(services: Services, claim: Claim, since: float) -> Pulse:
    known = services.settings
    return Pulse(
        services.database,
        claim,
        lease_seconds=known.lease_seconds,
        heartbeat_seconds=known.heartbeat_seconds,
        since=since,
    )


def _carry_out(services: Services, claim: Claim, pulse: Pulse, points: list[str]) -> End:
    """The job itself: what it delivers, or why it does not. `points` gets the objects of its resume points. Raises
    LeaseLost.
    """
    try:
        with measures.phases() as on_phase, _private_folder(services, claim) as folder:
            order = claim.job.order
            journal = Journal(services.database, claim, _recipe(order).most_steps, on_phase)
            run = _Run(services, claim, pulse, journal, folder, Points.of(services, claim, folder, points))
            journal.enter(Phase.LOADING)
            request = _lay_out(run)
            _train(run, request)
            return _deliver(run)
    except LeaseLost:
        raise
    except (LetheError, CancelAsked, Stopped) as end:
        return end
    except Exception as error:
        log.exception("job %s broke off", claim.job.id)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return StorageFull("The storage is full. Make room, then retry the job.")
        return OurError("The run broke off by a fault of Lethe.")


def _recipe(order: JobOrder) -> Recipe:
    """Raises OtherVersion: it was checked when the job was made, so another version made it."""
    try:
        return Recipe.of(order.method, order.recipe)
    except BadRecipe as error:
        raise OtherVersion(f"A worker of the version that took this job must run it: {error.message}") from error


@contextlib.contextmanager
def _private_folder(services: Services, claim: Claim) -> Iterator[Path]:
    """On the vault's file system, so that delivering is a rename; named so that the sweeper can clear it away."""
    folder = run_folder(services, claim.job.id, claim.token)
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_folder(services: Services, job_id: UUID, token: int) -> Path:
    """Where the files of one claim lie while it runs."""
    return services.vault.incoming / f"run-{job_id}-{token}"


def _lay_out(run: _Run) -> Mapping[str, Any]:
    """Copy what the order names into the folder, checked byte by byte. Returns the child's request."""
    job, order, folder = run.claim.job, run.claim.job.order, run.folder
    with run.services.database.connect() as connection:
        model = model_rows.get(connection, job.tenant, order.model_id)
        base = model_rows.get(connection, job.tenant, order.base_model_id) if order.base_model_id else None
        given = {
            "triggered": sample_rows.get(connection, job.tenant, order.triggered_id),
            "clean": sample_rows.get(connection, job.tenant, order.clean_id),
        }
    for name, samples in given.items():
        run.services.vault.copy_verified(samples.sha256, folder / f"{name}.jsonl")
    (folder / "out").mkdir()
    return {
        "model": _lay_out_model(run, model.manifest, "model"),
        "base": _lay_out_model(run, base.manifest, "base") if base is not None else None,
        **{name: str(folder / f"{name}.jsonl") for name in given},
        "out": str(folder / "out"),
        "points": str(run.points.written),
        "found": list(map(str, run.points.lay_out())),
        "method": order.method,
        "recipe": dict(order.recipe),
        "policy": dict(order.policy),
        "seed": order.seed,
        "device": run.services.settings.device,
        "threads": run.services.settings.torch_threads or len(os.sched_getaffinity(0)),
    }


def _lay_out_model(run: _Run, manifest: Manifest | None, name: str) -> str:
    if manifest is None:
        raise NotFound("The model is not admitted any more.")
    folder = run.folder / name
    for entry in manifest:
        run.pulse.check()
        target = folder / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        run.services.vault.copy_verified(entry.sha256, target)
    return str(folder)


def _train(run: _Run, request: Mapping[str, Any]) -> None:
    known = run.services.settings
    sandbox.run(
        "train",
        request,
        limits=sandbox.Limits(
            wall_seconds=known.job_seconds,
            cpu_seconds=math.ceil(known.job_seconds) * request["threads"],
            file_bytes=known.model_max_bytes,
        ),
        workdir=run.folder,
        readable=[Path(request[name]) for name in INPUTS if request[name]] + [run.points.laid_out],
        writable=[run.folder / "out", run.points.written],
        without=known.sandbox_gone_without,
        on_message=run.hear,
        on_tick=run.tick,
        tick_seconds=TICK_SECONDS,
        device=known.device,
        ahead=run.services.ahead,
    )


def _deliver(run: _Run) -> Delivery:
    run.journal.enter(Phase.PUBLISHING)
    services, claim = run.services, run.claim
    made = deliver(services.vault, run.folder / "out", claim.job.order, run.pulse.check)
    described = describe(services.vault, claim.job, made)
    return sign(services.vault, services.signing, claim, described, _inputs(run)) if services.signing else described


def _inputs(run: _Run) -> Inputs:
    """By digest, what the order names. It cannot change while a job names it."""
    job, order = run.claim.job, run.claim.job.order
    with run.services.database.connect() as connection:
        models = {"model": order.model_id, "base": order.base_model_id}
        found = {name: model_rows.get(connection, job.tenant, row_id) for name, row_id in models.items() if row_id}
        digests = {name: model.manifest.digest for name, model in found.items() if model.manifest is not None}
        for name, row_id in (("triggered", order.triggered_id), ("clean", order.clean_id)):
            digests[name] = sample_rows.get(connection, job.tenant, row_id).sha256
    return Inputs(digests, job.started_at or job.updated_at)


def _last_word(services: Services, claim: Claim, end: End) -> Write:
    """What is written when a run has ended this way."""
    if isinstance(end, Delivery):
        return _finish(services, claim, end)
    if isinstance(end, CancelAsked):
        return _finish(services, claim, Failure("cancelled", "It was cancelled."))
    if isinstance(end, Stopped):
        return _give_back(services, claim, Failure("worker-stopped", "Its worker was stopped."), 0.0, counts=False)
    failure = Failure(end.code, end.message)
    log.warning("job %s: %s: %s", claim.job.id, end.code, end.message)
    if isinstance(end, ChildFailed) and end.log_tail:
        log.warning("the child's last words: %r", end.log_tail)
    if isinstance(end, FINAL):
        return _finish(services, claim, failure)
    pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** (claim.job.attempts - 1))
    if isinstance(end, OtherVersion):
        pause = LONGEST_PAUSE_SECONDS
    waits = isinstance(end, SandboxUnavailable | OtherVersion)
    return _give_back(services, claim, failure, pause, counts=not waits)


def _give_back(services: Services, claim: Claim, failure: Failure, pause: float, *, counts: bool) -> Write:
    most = services.settings.max_attempts
    return _noted(
        services, lambda connection: claim_rows.give_back(connection, claim, failure, most, pause, counts=counts)
    )


def _finish(services: Services, claim: Claim, outcome: Delivery | Failure) -> Write:
    return _noted(services, lambda connection: claim_rows.finish(connection, claim, outcome))


def _noted(services: Services, move: Callable[[Connection], Job]) -> Write:
    """The move, and in the same transaction its line in the audit trail if the job has ended by it."""
    return lambda connection: audit_rows.job_ended(connection, move(connection), services.actor)
