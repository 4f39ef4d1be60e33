"""How many requests came under a name in this minute, counted in Redis for all API processes together."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import redis.asyncio
from redis.exceptions import RedisError

from app.store.redis_address import for_client

WINDOW_SECONDS = 60
ANSWER_SECONDS = 0.5
PAUSE_SECONDS = 5.0
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Count:
    """Requests so far in the window, this one included, and the seconds until it ends."""

    requests: int
    seconds_left: int


class RateCounter:
    """A fixed window. Without Redis nothing is counted, and everything goes on."""

    def __init__(self, redis_url: str) -> None:
        self._client = redis.asyncio.Redis.from_url(
            for_client(redis_url), socket_timeout=ANSWER_SECONDS, socket_connect_timeout=ANSWER_SECONDS
        )
        self._silent_until = 0.0

    async def count(self, name: str) -> Count | None:
        """None where Redis does not answer: then it is not asked again for a while, so that no request waits."""
        if time.monotonic() < self._silent_until:
            return None
        key = f"lethe:rate:{name}"
        try:
            async with self._client.pipeline(transaction=False) as together:
                together.set(key, 0, ex=WINDOW_SECONDS, nx=True)
                together.incr(key)
                together.ttl(key)
                _, requests, left = await together.execute()
        except (RedisError, OSError) as error:
            self._silent_until = time.monotonic() + PAUSE_SECONDS
            log.warning("requests are not counted: %s", type(error).__name__)
            return None
        return Count(int(requests), max(1, int(left)))

    async def close(self) -> None:
        await self._client.aclose()
