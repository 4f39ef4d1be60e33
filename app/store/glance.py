"""A job's version at a glance: one indexed read on the event loop, without a thread, for those who poll.

Guarantees: what it says is what the database says now. Where the database does not answer at once it says nothing,
and the caller asks the usual way, which knows how to wait and what to tell.
"""

from __future__ import annotations

import asyncio
from uuid import UUID

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout
from sqlalchemy.engine import make_url

CONNECTIONS = 4
ANSWER_SECONDS = 1.0
QUERY = "SELECT version FROM jobs WHERE id = %s AND tenant = %s"


class Glance:
    """Open it on the event loop that uses it."""

    def __init__(self, database_url: str) -> None:
        dsn = make_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)
        self._pool = AsyncConnectionPool(
            dsn, min_size=1, max_size=CONNECTIONS, timeout=ANSWER_SECONDS, open=False,
            kwargs={"autocommit": True, "prepare_threshold": 0, "connect_timeout": 5},
        )  # fmt: skip

    async def open(self) -> None:
        """Connects by and by: the service starts without its database, too."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        await self._pool.close()

    async def version(self, tenant: str, job_id: UUID) -> int | None:
        """None where there is no such job, or no answer."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS), self._pool.connection() as connection:
                row = await (await connection.execute(QUERY, (job_id, tenant))).fetchone()
        except (psycopg.Error, PoolTimeout, TimeoutError):
            return None
        return int(row[0]) if row is not None else None
