"""Which objects of the vault some row speaks of: the one place that knows all of them.

A transaction that writes such a row calls `hold` first; the collector of objects works under `exclude`. So nothing is
taken away between the moment that a file is put into the vault and the commit that names it.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, column, func, select, text

LOCK = 7_163_404  # any fixed number: names the advisory lock

_NAMED = (
    text("""
        SELECT f ->> 'sha256' AS sha256, tenant, 'model/' || id AS owner
            FROM models, jsonb_array_elements(source -> 'files') AS f
        UNION ALL SELECT f ->> 'sha256', tenant, 'model/' || id
            FROM models, jsonb_array_elements(manifest -> 'files') AS f
        UNION ALL SELECT f ->> 'sha256', tenant, 'job/' || id
            FROM jobs, jsonb_array_elements(artifact -> 'files') AS f
        UNION ALL SELECT f ->> 'sha256', jobs.tenant, 'job/' || jobs.id
            FROM resume_points JOIN jobs ON jobs.id = job_id,
            jsonb_array_elements(resume_points.manifest -> 'files') AS f
        UNION ALL SELECT sha256, tenant, 'samples/' || id FROM samples
        UNION ALL SELECT sha256, tenant, 'upload/' || id FROM uploads WHERE sha256 IS NOT NULL
    """)
    .columns(column("sha256"), column("tenant"), column("owner"))
    .subquery("named")
)
_SHA256 = _NAMED.c.sha256


def hold(connection: Connection) -> None:
    """Until the transaction ends, nothing is collected."""
    connection.execute(select(func.pg_advisory_xact_lock_shared(LOCK)))


def exclude(connection: Connection) -> bool:
    """Until the transaction ends, no row that names an object is written; whether that could be had at once."""
    return bool(connection.scalar(select(func.pg_try_advisory_xact_lock(LOCK))))


def referenced(connection: Connection, hashes: Iterable[str]) -> set[str]:
    """Those of the objects that a row speaks of."""
    return set(connection.scalars(select(_SHA256).where(_SHA256.in_(list(hashes))).distinct()))


def everything(connection: Connection) -> list[str]:
    """Every object that a row speaks of, in order."""
    return list(connection.scalars(select(_SHA256).distinct().order_by(_SHA256)))


def files_of(connection: Connection, owner: str) -> list[str]:
    """The objects that one row speaks of, in order; `owner` is its subject, such as model/019ab1c2-..."""
    return list(connection.scalars(select(_SHA256).where(_NAMED.c.owner.in_([owner])).distinct().order_by(_SHA256)))


def owners(connection: Connection, sha256: str) -> dict[str, list[str]]:
    """Who speaks of the object: of each tenant the subjects, such as model/019ab1c2-..."""
    rows = select(_NAMED.c.tenant, _NAMED.c.owner).where(_SHA256.in_([sha256])).distinct().order_by(text("1, 2"))
    found: dict[str, list[str]] = {}
    for tenant, owner in connection.execute(rows):
        found.setdefault(tenant, []).append(owner)
    return found
