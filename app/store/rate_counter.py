"""How many requests came under a name in this minute, counted in Redis for all API processes together."""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict
from dataclasses import dataclass

import redis.asyncio
from redis.exceptions import RedisError

from app.store.redis_address import for_client

PREFIX = "lethe:rate:"
WINDOW_SECONDS = 60
ANSWER_SECONDS = 0.5
PAUSE_SECONDS = 5.0
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Count:
    """Requests so far in the window, this one included, and the seconds until it ends."""

    requests: int
    seconds_left: int


# Redis is told of a name's requests this often at most, all of them in one; between that they are added up here.
FRESH_SECONDS = 0.1
REMEMBERED_NAMES = 4096

# One step for Redis: no count is left without an end, which would shut a caller out for good. One that is without an
# end all the same (ttl -1) gets one.
COUNT = """
local requests = redis.call('INCRBY', KEYS[1], ARGV[2])
local left = redis.call('TTL', KEYS[1])
if left < 0 then
    redis.call('EXPIRE', KEYS[1], ARGV[1])
    left = tonumber(ARGV[1])
end
return {requests, left}
"""


@dataclass(slots=True)
class _Told:
    """What Redis said of a name, and the requests since. `asked` and `ends` are on the clock of this process."""

    asked: float = -math.inf
    ends: float = -math.inf
    requests: int = 0
    more: int = 0


class RateCounter:
    """A fixed window. Without Redis nothing is counted, and everything goes on. What other processes counted within
    FRESH_SECONDS may be missing.
    """

    def __init__(self, redis_url: str) -> None:
        self._client = redis.asyncio.Redis.from_url(
            for_client(redis_url), socket_timeout=ANSWER_SECONDS, socket_connect_timeout=ANSWER_SECONDS
        )
        self._count = self._client.register_script(COUNT)
        self._silent_until = 0.0
        self._told: OrderedDict[str, _Told] = OrderedDict()

    async def count(self, name: str) -> Count | None:
        """None where Redis does not answer: then it is not asked again for a while, so that no request waits."""
        if time.monotonic() < self._silent_until:
            return None
        told, now = self._remembered(name), time.monotonic()
        told.more += 1
        if now < min(told.asked + FRESH_SECONDS, told.ends):
            return Count(told.requests + told.more, max(1, math.ceil(told.ends - now)))
        told.asked, more, told.more = now, told.more, 0
        try:
            requests, left = await self._count(keys=[f"{PREFIX}{name}"], args=[WINDOW_SECONDS, more])
        except (RedisError, OSError) as error:
            self._silent_until = time.monotonic() + PAUSE_SECONDS
            log.warning("requests are not counted: %s", type(error).__name__)
            return None
        told.requests, told.ends = int(requests), now + max(1, int(left))
        return Count(int(requests), max(1, int(left)))

    def _remembered(self, name: str) -> _Told:
        told = self._told.setdefault(name, _Told())
        self._told.move_to_end(name)
        while len(self._told) > REMEMBERED_NAMES:
            self._told.popitem(last=False)
        return told
