"""What a tenant uses, counted from the rows themselves: there is no counter that could drift."""

from __future__ import annotations

from sqlalchemy import BigInteger, Connection, cast, func, select, text

from app.domain.job import JobStatus
from app.domain.quota import Usage
from app.store.tables import jobs, models, samples, uploads

_OPEN = [status for status in JobStatus if not status.done]


def hold(connection: Connection, tenant: str) -> Usage:
    """The usage, which nobody else who holds it can change before this transaction ends."""
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": f"quota {tenant}"})
    return usage(connection, tenant)


def usage(connection: Connection, tenant: str) -> Usage:
    stored = cast(func.coalesce(models.c.manifest, models.c.source)["size"].astext, BigInteger)
    sums = (
        select(func.coalesce(func.sum(uploads.c.length), 0)).where(uploads.c.tenant == tenant),
        select(func.coalesce(func.sum(samples.c.size), 0)).where(samples.c.tenant == tenant),
        select(func.coalesce(func.sum(stored), 0)).where(models.c.tenant == tenant),
    )
    unfinished = select(func.count()).where(uploads.c.tenant == tenant, uploads.c.sha256.is_(None))
    open_jobs = select(func.count()).where(jobs.c.tenant == tenant, jobs.c.status.in_(_OPEN))
    columns = [query.scalar_subquery() for query in (*sums, unfinished, open_jobs)]
    *sizes, begun, under_way = connection.execute(select(*columns)).one()
    return Usage(sum(map(int, sizes)), begun, under_way)
