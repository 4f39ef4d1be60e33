"""One round trip for all who ask at about the same time.

Guarantees: an answer was fetched after it was asked for, so nobody hears what is older than their question; nothing
is kept. Who asks while a fetch is under way goes with the next one, so that there is one at a time: a lone caller
waits for nothing, and a crowd shares.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Question = TypeVar("Question")
Answer = TypeVar("Answer")
MOST_AT_ONCE = 500


class Gathered(Generic[Question, Answer]):
    """For one event loop. `fetch` answers questions in their order; what it raises, all who asked hear."""

    def __init__(self, fetch: Callable[[Sequence[Question]], Awaitable[Sequence[Answer]]]) -> None:
        self._fetch = fetch
        self._waiting: list[tuple[Question, asyncio.Future[Answer]]] = []
        self._at_work: asyncio.Task[None] | None = None

    async def ask(self, question: Question) -> Answer:
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, answer))
        if self._at_work is None:
            self._at_work = asyncio.create_task(self._work())
        return await answer

    async def _work(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:MOST_AT_ONCE], self._waiting[MOST_AT_ONCE:]
                await self._answer([each for each in batch if not each[1].done()])
        finally:
            self._at_work = None

    async def _answer(self, batch: Sequence[tuple[Question, asyncio.Future[Answer]]]) -> None:
        if not batch:
            return
        try:
            found = await self._fetch([question for question, _ in batch])
        except Exception as error:  # it is raised where each of them waits
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
            return
        for (_, answer), value in zip(batch, found, strict=True):
            if not answer.done():  # who asked may have left
                answer.set_result(value)
