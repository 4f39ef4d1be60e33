"""How often one caller may ask: headers on every answer (draft-ietf-httpapi-ratelimit-headers), and 429 beyond."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api import failures
from app.domain.errors import TooMany
from app.domain.identity import Caller
from app.store.rate_counter import WINDOW_SECONDS, Count, RateCounter


class RateLimit:
    """An ASGI layer inside the gate: it counts by the caller that the gate admitted, never by what a header says."""

    def __init__(self, app: ASGIApp, counter: RateCounter, most: int) -> None:
        self._app = app
        self._counter = counter
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller: Caller | None = scope.get("state", {}).get("caller")
        found = await self._counter.count(f"{caller.tenant}:{caller.name}") if caller is not None else None
        if found is None:
            await self._app(scope, receive, send)
            return
        telling = self._telling(send, found)
        if found.requests <= self._most:
            await self._app(scope, receive, telling)
            return
        refusal = TooMany(
            f"This key has sent over {self._most} requests in a minute: wait {found.seconds_left} s.",
            limit=self._most,
            retry_after=found.seconds_left,
        )
        answer = await failures.answer(Request(scope, receive), refusal)
        await answer(scope, receive, telling)

    def _telling(self, send: Send, found: Count) -> Send:
        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["RateLimit-Policy"] = f'"default";q={self._most};w={WINDOW_SECONDS}'
                left = max(0, self._most - found.requests)
                headers["RateLimit"] = f'"default";r={left};t={found.seconds_left}'
            await send(message)

        return tell
