"""A job's version at a glance: for those who poll and those who wait, without a thread and without the pool.

Guarantees: what it says is what the database said after it was asked. All who ask at about the same time share one
indexed read over one connection. Where the database does not answer at once it says nothing, and the caller asks the
usual way, which knows how to wait and what to tell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout
from sqlalchemy.engine import make_url

from app.domain.job import JobStatus
from app.store.gathered import Gathered

ANSWER_SECONDS = 1.0
QUERY = """
SELECT jobs.tenant, jobs.id, jobs.version, jobs.status
FROM unnest(%s::text[], %s::uuid[]) AS asked (tenant, id) JOIN jobs USING (tenant, id)
"""
Asked = tuple[str, UUID]
Found = tuple[int, JobStatus]


class Glance:
    """Open it on the event loop that uses it."""

    def __init__(self, database_url: str) -> None:
        dsn = make_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)
        self._pool = AsyncConnectionPool(
            dsn, min_size=1, max_size=1, timeout=ANSWER_SECONDS, open=False,
            kwargs={"autocommit": True, "prepare_threshold": 0, "connect_timeout": 5},
        )  # fmt: skip
        self._gathered = Gathered(self._read)

    async def open(self) -> None:
        """Connects by and by: the service starts without its database, too."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        await self._pool.close()

    async def version(self, tenant: str, job_id: UUID) -> Found | None:
        """The job's version and status; None where there is no such job, or no answer."""
        return await self._gathered.ask((tenant, job_id))

    async def _read(self, asked: Sequence[Asked]) -> Sequence[Found | None]:
        tenants, ids = zip(*asked, strict=True)
        try:
            async with asyncio.timeout(ANSWER_SECONDS), self._pool.connection() as connection:
                cursor = connection.cursor(binary=True)
                await cursor.execute(QUERY, (list(tenants), list(ids)))
                rows = await cursor.fetchall()
        except (psycopg.Error, PoolTimeout, TimeoutError):
            return [None] * len(asked)
        found = {(tenant, job_id): (version, JobStatus(status)) for tenant, job_id, version, status in rows}
        return [found.get(each) for each in asked]
