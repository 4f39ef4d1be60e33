"""What workers say of their sandboxes: kept while they speak, the same things once, gone when they fall silent."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from app.domain.confinement import Confinement
from app.store.redis_address import for_client
from app.store.sandbox_board import KEY, SPOKEN_FOR_SECONDS, SandboxBoard

WHOLE = Confinement()
POOR = Confinement(("seccomp",), {"landlock": "not there"})


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as opened:
        opened.delete(KEY)
        yield opened
        opened.delete(KEY)


def test_it_is_read_back_each_state_once(redis_url: str, client: redis.Redis) -> None:
    board = SandboxBoard(redis_url)
    assert board.said() == []
    for worker, found in (("a", WHOLE), ("a", WHOLE), ("b", WHOLE), ("c", POOR)):
        board.say(worker, found)
    assert client.zcard(KEY) == 3
    assert sorted(board.said(), key=lambda each: each.holds) == [POOR, WHOLE]


def test_who_falls_silent_is_forgotten(redis_url: str, client: redis.Redis) -> None:
    board = SandboxBoard(redis_url)
    board.say("a", POOR)
    (member,) = client.zrange(KEY, 0, -1)
    client.zincrby(KEY, -SPOKEN_FOR_SECONDS - 1, member)
    assert board.said() == []
    board.say("b", WHOLE)
    assert client.zcard(KEY) == 1
    assert 0 < client.ttl(KEY) <= SPOKEN_FOR_SECONDS
    board.forget()
    assert board.said() == []


def test_without_redis_nobody_has_spoken() -> None:
    board = SandboxBoard("redis://127.0.0.1:1/0")
    board.forget()
    assert board.said() == []


def test_the_address_of_a_socket_file_is_understood() -> None:
    assert for_client("redis+socket:///run/a%20b/redis.sock?virtual_host=3") == "unix:///run/a%20b/redis.sock?db=3"
    assert for_client("rediss://host:1/2") == "rediss://host:1/2"
