"""Resume points: of each running job the newest states to go on from, as manifests of files in the vault.

Guarantees: only the holder of the job's claim adds one; a job that has ended has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert as pg_insert

from app.domain.job import Claim
from app.domain.manifest import Manifest
from app.store import claim_rows, references
from app.store.tables import jobs
from app.store.tables import resume_points as t

KEPT = 2  # the newest, and one to fall back to


@dataclass(frozen=True, slots=True)
class Point:
    """A state after so many steps."""

    step: int
    manifest: Manifest


def add(connection: Connection, claim: Claim, point: Point) -> list[Point]:
    """Keep the point, and forget those beyond the newest KEPT, which are returned. Raises LeaseLost.

    A point further on than any before says that the job gets on: its attempts count from here.
    """
    claim_rows.lock_held(connection, claim)
    references.hold(connection)
    furthest = connection.scalar(select(func.max(t.c.step)).where(t.c.job_id == claim.job.id))
    values = {"manifest": point.manifest.to_dict(), "at": func.clock_timestamp()}
    row = pg_insert(t).values(job_id=claim.job.id, step=point.step, **values)
    connection.execute(row.on_conflict_do_update(index_elements=[t.c.job_id, t.c.step], set_=values))
    if furthest is None or point.step > furthest:
        connection.execute(update(jobs).where(jobs.c.id == claim.job.id).values(attempts=1))
    old = newest(connection, claim.job.id)[KEPT:]
    for each in old:
        drop(connection, claim.job.id, each.step)
    return old


def newest(connection: Connection, job_id: UUID) -> list[Point]:
    """The points of the job, the furthest first."""
    query = select(t.c.step, t.c.manifest).where(t.c.job_id == job_id).order_by(t.c.step.desc())
    return [Point(row.step, Manifest.from_dict(row.manifest)) for row in connection.execute(query)]


def drop(connection: Connection, job_id: UUID, step: int) -> None:
    """Forget one, which is of no use any more."""
    connection.execute(delete(t).where(t.c.job_id == job_id, t.c.step == step))
