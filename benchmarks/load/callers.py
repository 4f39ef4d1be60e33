"""Who calls: one process of many connections, told what to do on standard input, telling what it saw at the end.

python -m benchmarks.load.callers < order.json > seen.json

{"kind": "rate", "urls", "key", "connections", "seconds"}             as fast as answers come, conditionally
{"kind": "poll", "urls", "key", "pollers", "seconds", "wait"}         each every PAUSE seconds, or by Prefer: wait
{"kind": "listen", "urls", "key", "seconds"}                          one event stream to each URL
{"kind": "upload", "url", "key", "uploads", "megabytes"}              that many files at once, by PUT
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import aiohttp

PAUSE = 2.0
BLOCK = 1024 * 1024


@dataclass
class Seen:
    """Answers by status, their seconds, and what else was counted."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    broken: int = 0
    events: int = 0
    began: float = field(default_factory=time.monotonic)

    def to_dict(self) -> dict[str, Any]:
        ordered = sorted(self.seconds)
        spent = time.monotonic() - self.began
        return {
            "requests": len(ordered), "per_second": len(ordered) / spent, "wall_seconds": spent,
            "p50": _share(ordered, 0.5), "p99": _share(ordered, 0.99),
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "server_errors": sum(count for status, count in self.statuses.items() if status >= 500),
            "broken": self.broken, "events": self.events,
        }  # fmt: skip


def _share(ordered: list[float], share: float) -> float | None:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


async def _get(session: aiohttp.ClientSession, url: str, seen: Seen, tags: dict[str, str], **more: str) -> None:
    headers = {**more, **({"If-None-Match": tags[url]} if url in tags else {})}
    began = time.monotonic()
    try:
        async with session.get(url, headers=headers) as answer:
            await answer.read()
            seen.statuses[answer.status] += 1
            if "ETag" in answer.headers:
                tags[url] = answer.headers["ETag"]
    except aiohttp.ClientError:
        seen.broken += 1
        return
    if not more:
        seen.seconds.append(time.monotonic() - began)


async def rate(order: dict[str, Any], session: aiohttp.ClientSession, seen: Seen) -> None:
    """Each URL is asked once before the clock starts, so that its version is known as a poller knows it."""
    tags = dict[str, str]()
    for url in order["urls"]:
        await _get(session, url, Seen(), tags)
    seen.began = time.monotonic()
    end = seen.began + order["seconds"]

    async def one(urls: list[str]) -> None:
        place = 0
        while time.monotonic() < end:
            await _get(session, urls[place % len(urls)], seen, tags)
            place += 1

    count, urls = order["connections"], order["urls"]
    await asyncio.gather(*(one(urls[place::count] or urls) for place in range(count)))


async def poll(order: dict[str, Any], session: aiohttp.ClientSession, seen: Seen) -> None:
    end, tags = time.monotonic() + order["seconds"], dict[str, str]()
    more = {"Prefer": f"wait={order['wait']}"} if order["wait"] else {}

    async def one(url: str) -> None:
        await asyncio.sleep(random.random() * PAUSE)
        while time.monotonic() < end:
            await _get(session, url, seen, tags, **more)
            await asyncio.sleep(0.0 if more else PAUSE)

    await asyncio.gather(*(one(random.choice(order["urls"])) for _ in range(order["pollers"])))


async def listen(order: dict[str, Any], session: aiohttp.ClientSession, seen: Seen) -> None:
    async def one(url: str) -> None:
        try:
            async with asyncio.timeout(order["seconds"]), session.get(url) as answer:
                seen.statuses[answer.status] += 1
                last = 0
                async for line in answer.content:
                    if line.startswith(b"id:"):
                        number = int(line[3:])
                        seen.broken += number != last + 1  # each event once and in order
                        last, seen.events = number, seen.events + 1
        except TimeoutError:
            pass

    await asyncio.gather(*(one(url) for url in order["urls"]))


async def upload(order: dict[str, Any], _session: aiohttp.ClientSession, seen: Seen) -> None:
    """By a thread and a plain socket for each: what a sender computes is taken from who receives."""
    content, host = random.randbytes(BLOCK), urlsplit(order["url"]).netloc

    def one(number: int) -> None:
        began, connection = time.monotonic(), HTTPConnection(host, timeout=120)
        connection.putrequest("PUT", f"/v1/uploads/f{number}")
        connection.putheader("Authorization", f"Bearer {order['key']}")
        connection.putheader("Content-Length", str(order["megabytes"] * BLOCK))
        connection.endheaders(number.to_bytes(8, "big") + content[8:])
        for _ in range(order["megabytes"] - 1):
            connection.sock.sendall(content)
        answer = connection.getresponse()
        answer.read()
        seen.statuses[answer.status] += 1
        seen.seconds.append(time.monotonic() - began)
        connection.close()

    with ThreadPoolExecutor(order["uploads"]) as pool:
        list(pool.map(one, (random.getrandbits(60) for _ in range(order["uploads"]))))


async def main() -> None:
    order = json.load(sys.stdin)
    headers = {"Authorization": f"Bearer {order['key']}"} if order.get("key") else {}
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None, sock_read=120)
    async with aiohttp.ClientSession(headers=headers, connector=connector, timeout=timeout) as session:
        seen = Seen()
        await {"rate": rate, "poll": poll, "listen": listen, "upload": upload}[order["kind"]](order, session, seen)
    json.dump(seen.to_dict(), sys.stdout)


if __name__ == "__main__":
    asyncio.run(main())
