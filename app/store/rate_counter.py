"""How many requests came under a name in this minute, counted in Redis for all API processes together."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import redis.asyncio
from redis.exceptions import RedisError

from app.store.gathered import Gathered
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


class RateCounter:
    """A fixed window. Requests that come at about the same time are counted in one round trip, each with its own
    number. Without Redis nothing is counted, and everything goes on.
    """

    def __init__(self, redis_url: str) -> None:
        self._client = redis.asyncio.Redis.from_url(
            for_client(redis_url), socket_timeout=ANSWER_SECONDS, socket_connect_timeout=ANSWER_SECONDS
        )
        self._silent_until = 0.0
        self._gathered = Gathered(self._counted)

    async def count(self, name: str) -> Count | None:
        """None where Redis does not answer: then it is not asked again for a while, so that no request waits."""
        return None if time.monotonic() < self._silent_until else await self._gathered.ask(name)

    async def _counted(self, names: Sequence[str]) -> Sequence[Count | None]:
        more, pipe = Counter(names), self._client.pipeline(transaction=False)
        for name in more:
            pipe.eval(COUNT, 1, f"{PREFIX}{name}", WINDOW_SECONDS, more[name])
        try:
            said = await pipe.execute()
        except (RedisError, OSError) as error:
            self._silent_until = time.monotonic() + PAUSE_SECONDS
            log.warning("requests are not counted: %s", type(error).__name__)
            return [None] * len(names)
        found = {name: (int(total) - more[name], int(left)) for name, (total, left) in zip(more, said, strict=True)}
        numbers = {name: count(before + 1) for name, (before, _) in found.items()}
        return [Count(next(numbers[name]), max(1, found[name][1])) for name in names]
