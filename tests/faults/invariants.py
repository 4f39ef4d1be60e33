"""The one check at the end of every fault: the client's log against database and vault.

what was acknowledged is there: uploads, models, samples, jobs, and of each job the version that was seen
each job has one terminal status, which its history comes to by moves that are allowed
no token was claimed twice, and no step is in the series twice
every file that a row names is in the vault and hashes to its name
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import psycopg
from sqlalchemy import create_engine

from app.domain.errors import LetheError
from app.domain.job import ALLOWED_MOVES, TERMINAL, JobStatus
from app.settings import sqlalchemy_url
from app.store import references
from app.store.vault import Vault
from tests.faults.ledger import Ledger
from tests.faults.site import Site


def broken(site: Site, ledger: Ledger, *, ended: bool = True) -> list[str]:
    """What does not hold, in words; nothing where all is well. `ended`: every job must have come to its end."""
    with psycopg.connect(site.database_url) as connection:
        found = [*_missing(connection, ledger)]
        for job_id in ledger.jobs:
            found += _of_job(connection, job_id, ledger.versions[job_id], ended)
    return [*found, *_damaged(site)]


def _missing(connection: psycopg.Connection[Any], ledger: Ledger) -> Iterator[str]:
    for table, ids in (("models", ledger.models), ("samples", ledger.samples), ("jobs", ledger.jobs)):
        query = f"SELECT id::text FROM {table} WHERE id = ANY(%s::uuid[])".encode()
        there = {row[0] for row in connection.execute(query, [ids])}
        yield from (f"{table}: {each} was acknowledged and is not there" for each in ids if each not in there)
    for upload_id, sha256 in ledger.uploads.items():
        row = connection.execute("SELECT sha256 FROM uploads WHERE id = %s", [upload_id]).fetchone()
        if row is None or row[0] != sha256:
            yield f"upload {upload_id}: acknowledged as {sha256[:12]}, kept as {row and row[0]}"


def _of_job(connection: psycopg.Connection[Any], job_id: str, version: int, ended: bool) -> Iterator[str]:
    query = "SELECT seq, kind, step, data FROM job_events WHERE job_id = %s ORDER BY seq"
    events = connection.execute(query, [job_id]).fetchall()
    row = connection.execute("SELECT status, version FROM jobs WHERE id = %s", [job_id]).fetchone()
    if row is None:
        return
    if row[1] < version or [event[0] for event in events] != list(range(1, row[1] + 1)):
        yield f"job {job_id}: its history has holes, or ends before version {version}, which was shown"
    steps = [event[2] for event in events if event[1] == "metric"]
    if len(steps) != len(set(steps)):
        yield f"job {job_id}: a step is there twice"
    words = [event[3]["status"] for event in events if event[1] == "status"]
    yield from _of_moves(job_id, [JobStatus(word) for word in words])
    if words and words[-1] != row[0]:
        yield f"job {job_id}: is {row[0]}, and its history ends with {words[-1]}"
    if ended and JobStatus(row[0]) not in TERMINAL:
        yield f"job {job_id}: has not ended, it is {row[0]}"


def _of_moves(job_id: str, words: list[JobStatus]) -> Iterator[str]:
    if not words or words[0] is not JobStatus.QUEUED:
        yield f"job {job_id}: does not begin in the queue"
    for before, after in itertools.pairwise(words):
        if after not in ALLOWED_MOVES[before]:
            yield f"job {job_id}: moved from {before} to {after}"
    ends = [word for word in words if word in TERMINAL]
    if len(ends) > 1 and len(ends) > 1 + words.count(JobStatus.QUEUED) - 1:
        yield f"job {job_id}: ended {len(ends)} times"


def _damaged(site: Site) -> Iterator[str]:
    vault, engine = Vault(site.vault), create_engine(sqlalchemy_url(site.database_url))
    with engine.connect() as connection:
        named = references.everything(connection)
    engine.dispose()
    for sha256 in named:
        try:
            vault.open_verified(sha256).close()
        except LetheError as error:
            yield f"file {sha256[:12]}: {error.message}"
