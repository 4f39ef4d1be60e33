"""One round trip for many: everybody hears their own answer, fetched after they asked."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from app.store.gathered import MOST_AT_ONCE, Gathered


def test_a_crowd_shares_and_each_hears_their_own() -> None:
    fetches: list[int] = []

    async def double(asked: Sequence[int]) -> Sequence[int]:
        fetches.append(len(asked))
        await asyncio.sleep(0)
        return [2 * each for each in asked]

    async def crowd() -> list[int]:
        gathered = Gathered(double)
        return await asyncio.gather(*(gathered.ask(number) for number in range(2 * MOST_AT_ONCE + 1)))

    assert asyncio.run(crowd()) == [2 * number for number in range(2 * MOST_AT_ONCE + 1)]
    assert max(fetches) <= MOST_AT_ONCE
    assert len(fetches) <= 4


def test_nobody_hears_what_was_fetched_before_they_asked() -> None:
    now, fetching, go_on = [0], asyncio.Event(), asyncio.Event()

    async def read(asked: Sequence[str]) -> Sequence[int]:
        seen = now[0]
        fetching.set()
        await go_on.wait()
        return [seen] * len(asked)

    async def late() -> tuple[int, int]:
        gathered = Gathered(read)
        first = asyncio.create_task(gathered.ask("first"))
        await fetching.wait()
        now[0] = 1
        second = asyncio.create_task(gathered.ask("second"))
        await asyncio.sleep(0)
        go_on.set()
        return await first, await second

    assert asyncio.run(late()) == (0, 1)


def test_what_a_fetch_raises_all_who_asked_hear_and_the_next_is_fine() -> None:
    fails = [True]

    async def read(asked: Sequence[str]) -> Sequence[str]:
        if fails.pop() if fails else False:
            raise OSError("away")
        return list(asked)

    async def calls() -> tuple[list[object], str]:
        gathered = Gathered(read)
        first = await asyncio.gather(gathered.ask("a"), gathered.ask("b"), return_exceptions=True)
        return list(first), await gathered.ask("c")

    first, then = asyncio.run(calls())
    assert [type(each) for each in first] == [OSError, OSError]
    assert then == "c"


def test_one_who_leaves_takes_nobody_along() -> None:
    fetching, go_on = asyncio.Event(), asyncio.Event()

    async def read(asked: Sequence[str]) -> Sequence[str]:
        fetching.set()
        await go_on.wait()
        return list(asked)

    async def calls() -> str:
        gathered = Gathered(read)
        leaving, staying = (asyncio.create_task(gathered.ask(name)) for name in ("leaving", "staying"))
        await fetching.wait()
        leaving.cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        return await staying

    assert asyncio.run(calls()) == "staying"
