"""What each worker says of its sandbox, in Redis, for half a minute: how /readyz knows of other processes' machines.

One sorted set, by the time of Redis's own clock; a worker that falls silent drops out. It is news and nothing else:
whether untrusted work is done is decided by the worker alone.
"""

from __future__ import annotations

import contextlib
import json
from typing import cast

import redis

from app.domain.confinement import Confinement
from app.store.redis_address import for_client

KEY = "lethe:sandboxes"
SPOKEN_FOR_SECONDS = 30.0
ANSWER_SECONDS = 2.0


class SandboxBoard:
    def __init__(self, redis_url: str) -> None:
        self._client = redis.Redis.from_url(
            for_client(redis_url),
            socket_timeout=ANSWER_SECONDS,
            socket_connect_timeout=ANSWER_SECONDS,
            decode_responses=True,
        )

    def say(self, worker: str, found: Confinement) -> None:
        """Raises redis.RedisError."""
        now = self._now()
        with self._client.pipeline() as together:
            together.zadd(KEY, {json.dumps({"worker": worker} | found.to_dict(), sort_keys=True): now})
            together.zremrangebyscore(KEY, "-inf", now - SPOKEN_FOR_SECONDS)
            together.expire(KEY, int(SPOKEN_FOR_SECONDS))
            together.execute()

    def said(self) -> list[Confinement]:
        """Of the workers that spoke lately, the same ones once; none where Redis is away."""
        try:
            lines = cast("list[str]", self._client.zrangebyscore(KEY, self._now() - SPOKEN_FOR_SECONDS, "+inf"))
        except redis.RedisError:
            return []
        found: list[Confinement] = []
        for each in (Confinement.from_dict(json.loads(line)) for line in lines):
            if each not in found:
                found.append(each)
        return found

    def forget(self) -> None:
        """What was said so far, as by the workers of an earlier run."""
        with contextlib.suppress(redis.RedisError):
            self._client.delete(KEY)

    def _now(self) -> float:
        seconds, microseconds = self._client.time()
        return seconds + microseconds / 1e6
