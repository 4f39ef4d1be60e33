"""Request bodies, never taken on trust: a deadline for every byte, and a cap on those that are read as a whole."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.failures import problem, status_of
from app.domain.errors import BadRequest, BodyInterrupted, LetheError, ModelRefused, TooLarge, UnsupportedMedia
from app.intake import strict_json

# Each so many bytes earn the sender a second of our waiting.
BYTES_PER_SECOND = 4096


async def stream(request: Request, grace: float) -> AsyncIterator[bytes]:
    """The raw body as it comes; we wait `grace` seconds for more, and less for a sender that trickles.

    Only the time that we spend waiting counts. Raises BodyInterrupted when the sender leaves or is too slow.
    """
    patience = grace
    chunks = request.stream()
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        try:
            async with asyncio.timeout(patience):
                chunk = await anext(chunks, None)
        except TimeoutError:
            raise BodyInterrupted(f"The body came too slowly: under {BYTES_PER_SECOND} bytes in a second.") from None
        except ClientDisconnect:
            raise BodyInterrupted("The body ended before its time.") from None
        if chunk is None:
            return
        patience = min(grace, patience - (loop.time() - began) + len(chunk) / BYTES_PER_SECOND)
        yield chunk


def refuse_wrapped(request: Request) -> None:
    """Raises UnsupportedMedia where the body is not the file itself, but a form or a compressed form of it."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise UnsupportedMedia("Send the file as it is, without Content-Encoding.")
    if request.headers.get("content-type", "").lower().startswith("multipart/"):
        raise UnsupportedMedia(
            "Send the file as the body itself, not as a form: curl -T FILE, or --data-binary @FILE."
        )


def declared_length(request: Request) -> int | None:
    """Content-Length, which the server has checked to be a number; None for a chunked or absent body."""
    value = request.headers.get("content-length")
    return None if value is None else int(value)


class BodyCap:
    """An ASGI layer that holds every body under `limit` bytes before a route sees any of it.

    `streamed` matches "METHOD /path" of the routes that read a body piece by piece and have limits of their own.
    """

    def __init__(self, app: ASGIApp, limit: int, grace: float, streamed: re.Pattern[str]) -> None:
        self._app = app
        self._limit = limit
        self._grace = grace
        self._streamed = streamed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._streamed.match(f"{scope['method']} {scope['path']}"):
            await self._app(scope, receive, send)
            return
        try:
            request = Request(scope, receive)
            body = await self._read(request)
            _refuse_ambiguous(request, body)
        except LetheError as error:
            await problem(status_of(error), error.code, error.message, members=error.details)(scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), send)

    async def _read(self, request: Request) -> bytes:
        """The whole body. Raises TooLarge and BodyInterrupted."""
        refusal = TooLarge(f"The body of this request has at most {self._limit} bytes.", limit=self._limit)
        if (declared_length(request) or 0) > self._limit:
            raise refusal
        if "content-length" not in request.headers and "transfer-encoding" not in request.headers:
            return b""
        body = bytearray()
        async for chunk in stream(request, self._grace):
            body += chunk
            if len(body) > self._limit:
                raise refusal
        return bytes(body)


def _refuse_ambiguous(request: Request, body: bytes) -> None:
    """Raises BadRequest for a body that says it is JSON and that two readers could read in two ways."""
    if not body or "json" not in request.headers.get("content-type", "").lower():
        return
    try:
        strict_json.parse_object(body, "body")
    except ModelRefused as error:
        raise BadRequest(f"The body is not strict JSON in UTF-8. {error.message}") from None


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body once and then what the server says."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed
