"""What the audit trail costs where many create jobs at once: python -m benchmarks.audit_lock URL

URL is a migrated PostgreSQL database that holds nothing else. Each round is the transaction of `POST /v1/jobs`: a
job, its first event, and, in every second round, its line in the audit trail under the one lock of the chain.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

from sqlalchemy import Engine, insert

from app.domain.audit import Action
from app.domain.identity import DEFAULT_TENANT, Caller, Scope
from app.domain.ids import new_id
from app.domain.job import JobOrder
from app.domain.recipe import Policy, Recipe
from app.settings import sqlalchemy_url
from app.store import audit_rows, job_rows
from app.store.database import open_database
from app.store.tables import models, samples

CALLER = Caller(DEFAULT_TENANT, "key:bench", frozenset(Scope))
DIGEST = "0" * 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--jobs", type=int, default=400, help="in each round")
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 4, 16])
    asked = parser.parse_args()
    database = open_database(sqlalchemy_url(asked.url), pool_size=max(asked.callers))
    order = _order(database)
    print(f"{'callers':>8}{'audit':>8}{'jobs/s':>10}{'median ms':>11}{'95 % ms':>10}")
    for callers in asked.callers:
        for audited in (False, True, False, True):
            taken, whole = _round(lambda noted=audited: _create(database, order, noted), callers, asked.jobs)
            middle, high = statistics.median(taken), statistics.quantiles(taken, n=20)[-1]
            rate = asked.jobs / whole
            print(f"{callers:>8}{audited!s:>8}{rate:>10.0f}{1e3 * middle:>11.1f}{1e3 * high:>10.1f}", flush=True)


def _round(create: Callable[[], None], callers: int, jobs: int) -> tuple[list[float], float]:
    """Seconds of each job, and of all."""

    def timed(_number: int) -> float:
        began = time.perf_counter()
        create()
        return time.perf_counter() - began

    began = time.perf_counter()
    with ThreadPoolExecutor(callers) as pool:
        taken = list(pool.map(timed, range(jobs)))
    return taken, time.perf_counter() - began


def _create(database: Engine, order: JobOrder, audited: bool) -> None:
    job_id = new_id()
    with database.begin() as connection:
        job_rows.insert(connection, DEFAULT_TENANT, job_id, order, DIGEST)
        if audited:
            subject = audit_rows.subject("job", job_id)
            audit_rows.by_caller(connection, CALLER, Action.JOB_CREATED, subject, method=order.method)


def _order(database: Engine) -> JobOrder:
    ids = {kind: new_id() for kind in ("model", "triggered", "clean")}
    named = {"tenant": DEFAULT_TENANT, "name": "bench"}
    with database.begin() as connection:
        connection.execute(insert(models).values(id=ids["model"], status="inspecting", source={}, **named))
        for kind in ("triggered", "clean"):
            row = {"id": ids[kind], "kind": kind, "sha256": DIGEST, "size": 1, "rows": 1, "summary": {}}
            connection.execute(insert(samples).values(row | named))
    return _of(ids)


def _of(ids: dict[str, UUID]) -> JobOrder:
    recipe = {name: value for name, value in Recipe.of("lya").to_dict().items() if name != "method"}
    return JobOrder(
        ids["model"], ids["triggered"], ids["clean"], None, "lya", recipe, Policy.of().to_dict(), seed=0, metadata={}
    )


if __name__ == "__main__":
    main()
