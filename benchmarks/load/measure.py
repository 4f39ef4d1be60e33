"""The three measurements of the service under load, each on an installation that the caller opened.

rates      polls (conditional GETs) as fast as answers come, in turns with a bare FastAPI endpoint
uploads    many uploads at once, beside what the disk and SHA-256 give on this machine in the same run
crowd      pollers, half of them waiting by Prefer, event streams and uploads, while jobs change
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
from sqlalchemy import create_engine

from app.domain.job import Failure, Phase
from app.domain.report import StepMetric
from app.settings import sqlalchemy_url
from app.store import claim_rows
from tests.api_process import KEY
from tests.conftest import ROOT, free_port
from tests.faults.site import Site
from tests.job_rows_at_hand import add_job

ROUNDS, ROUND_SECONDS, CONNECTIONS = 5, 4.0, 32
MEGABYTES = 64
CHANGING = 50
BLOCK = 1024 * 1024
SIZES = {"jobs": 5000, "pollers": 500, "streams": 50, "uploads": 20, "seconds": 240}


@contextmanager
def bare() -> Iterator[str]:
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.load.bare", "--port", str(port)], cwd=ROOT)
    try:
        yield f"http://127.0.0.1:{port}/job"
    finally:
        process.kill()
        process.wait()


def queue(place: Site, count: int) -> list[str]:
    """That many queued jobs, by the same rows that a submit writes."""
    engine = create_engine(sqlalchemy_url(place.database_url))
    with engine.begin() as connection:
        first = add_job(connection)
        order = {
            "model_id": first.order.model_id,
            "triggered_id": first.order.triggered_id,
            "clean_id": first.order.clean_id,
        }
        ids = [str(first.id), *(str(add_job(connection, **order).id) for _ in range(count - 1))]
    engine.dispose()
    return ids


@contextmanager
def changing(place: Site, jobs: list[str]) -> Iterator[None]:
    """Some jobs are claimed, and take a step a moment: about a hundred changes a second in all."""
    over, engine = threading.Event(), create_engine(sqlalchemy_url(place.database_url))
    with engine.begin() as connection:
        claims = [
            claim
            for each in jobs[:CHANGING]
            if (claim := claim_rows.claim(connection, UUID(each), "load", 36000, 99))
        ]
        for claim in claims:
            claim_rows.record_phase(connection, claim, Phase.ASCENT, 0.1)

    def change() -> None:
        step = 0
        while not over.wait(0.5):
            step += 1
            for claim in claims:
                with engine.begin() as connection:
                    metric = StepMetric(int(time.time() * 1000) % 2**31, "ascent", 1.0, {"asr": 0.5})
                    claim_rows.record_metrics(connection, claim, [metric], 0.2)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with engine.begin() as connection:
            for claim in claims:
                claim_rows.give_back(connection, claim, Failure("load", "The load is over."), 99, 0.0, counts=False)
        engine.dispose()


def _call(order: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load.callers"],
        cwd=ROOT, input=json.dumps({"key": KEY, **order}), capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def rates(bare_url: str, urls: list[str]) -> dict[str, Any]:
    """Rounds of the bare endpoint and of the service by turns; the share is that of the medians."""
    order = {"kind": "rate", "connections": CONNECTIONS, "seconds": ROUND_SECONDS}
    rounds = [(_call({**order, "urls": [bare_url]}), _call({**order, "urls": urls})) for _ in range(ROUNDS)]
    rates = [statistics.median(each[place]["per_second"] for each in rounds) for place in (0, 1)]
    service = rounds[-1][1] | {
        "server_errors": sum(each["server_errors"] for _, each in rounds),
        "broken": sum(each["broken"] for _, each in rounds),
    }
    return {
        "bare_per_second": rates[0],
        "service_per_second": rates[1],
        "share": rates[1] / rates[0],
        "service": service,
    }


def uploads(place: Site, count: int) -> dict[str, Any]:
    """Megabytes a second of uploads at once, of writing with fsync, and of SHA-256: medians of three."""
    found: dict[str, list[float]] = {"upload": [], "disk": [], "sha256": []}
    for _ in range(3):
        found["disk"].append(_disk_speed(place.vault, count))
        found["sha256"].append(_hash_speed())
        seen = _call({"kind": "upload", "url": place.api.url, "uploads": count, "megabytes": MEGABYTES})
        assert set(seen["statuses"]) == {"201"}, seen
        found["upload"].append(count * MEGABYTES / seen["wall_seconds"])
    speeds = {name: statistics.median(each) for name, each in found.items()}
    return {"megabytes_per_second": speeds, "share": speeds["upload"] / min(speeds["disk"], speeds["sha256"])}


def _disk_speed(folder: Path, count: int) -> float:
    """As many files as the uploads write, each with its fsync, one after the other."""
    block, began = os.urandom(BLOCK), time.monotonic()
    with tempfile.TemporaryDirectory(dir=folder) as place:
        for number in range(count):
            with (Path(place) / str(number)).open("wb", buffering=0) as out:
                for _ in range(MEGABYTES):
                    out.write(block)
                os.fsync(out)
        return count * MEGABYTES / (time.monotonic() - began)


def _hash_speed() -> float:
    block, digest, began = os.urandom(BLOCK), hashlib.sha256(), time.monotonic()
    for _ in range(128):
        digest.update(block)
    return 128 / (time.monotonic() - began)


def crowd(place: Site, urls: list[str], sizes: dict[str, int]) -> dict[str, Any]:
    seconds, half = sizes["seconds"], sizes["pollers"] // 2
    orders = {
        "polling": {"kind": "poll", "urls": urls, "pollers": sizes["pollers"] - half, "seconds": seconds, "wait": 0},
        "waiting": {"kind": "poll", "urls": urls, "pollers": half, "seconds": seconds, "wait": min(20, seconds)},
        "streams": {
            "kind": "listen",
            "urls": [f"{url}/events" for url in urls[: sizes["streams"]]],
            "seconds": seconds,
        },
    }
    memory, over = list[tuple[float, int]](), threading.Event()
    watcher = threading.Thread(target=_watch, args=(place.api.pid, memory, over))
    watcher.start()
    with ThreadPoolExecutor(len(orders)) as pool:
        going = {name: pool.submit(_call, order) for name, order in orders.items()}
        end = time.monotonic() + seconds
        while time.monotonic() + 10 < end:
            _call({"kind": "upload", "url": place.api.url, "uploads": sizes["uploads"], "megabytes": 1})
            over.wait(5)
        callers = {name: each.result() for name, each in going.items()}
    over.set()
    watcher.join()
    return {"callers": callers, "memory": memory, "memory_drift": _drift(memory)}


def _watch(pid: int, memory: list[tuple[float, int]], over: threading.Event) -> None:
    """Resident bytes of the API and its children, once a second."""
    began, api = time.monotonic(), psutil.Process(pid)
    while not over.wait(1.0):
        memory.append(
            (time.monotonic() - began, sum(each.memory_info().rss for each in (api, *api.children(recursive=True))))
        )


def _drift(memory: list[tuple[float, int]]) -> float:
    """The last minute's median against that of the first minute after a quarter of the time, as a share."""
    span = min(60.0, memory[-1][0] / 4)
    warm, end = memory[-1][0] / 4, memory[-1][0]
    first = statistics.median(size for at, size in memory if warm <= at <= warm + span)
    last = statistics.median(size for at, size in memory if at >= end - span)
    return last / first - 1.0
