"""One connection of a client, before there is a request: what the HTTP server itself leaves open.

Guarantees: a connection that we owe no answer has `head_seconds` to send the whole head of a request, however it
trickles, and then it is closed; what of an unread body still comes after an early answer counts to that time as well.
A request that is no HTTP is answered 400 as a problem and its connection closed: nothing behind it is read.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.api import failures
from app.domain.errors import BadRequest, BodyInterrupted, CallerError

HEAD_MAX_BYTES = 32 * 1024
NOT_HTTP = "This is not a well-formed HTTP/1.1 request: send one Content-Length or chunks, and plain header lines."


class _OneReading(h11.Connection):
    """h11, and what RFC 9112 leaves to the server: no request that another server could cut off elsewhere."""

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Request):
            names = {name for name, _ in event.headers}
            if b"transfer-encoding" in names and (b"content-length" in names or event.http_version != b"1.1"):
                raise h11.RemoteProtocolError("two lengths")
            if event.http_version not in (b"1.0", b"1.1"):
                raise h11.RemoteProtocolError("another version")
        return event


class Connection(H11Protocol):
    """uvicorn's protocol on h11, the strict parser, with a clock and our form of a refusal."""

    head_seconds = 30.0
    _clock: asyncio.TimerHandle | None = None

    def __init__(self, config: Config, *more: Any, **named: Any) -> None:
        super().__init__(config, *more, **named)
        self.conn = _OneReading(h11.SERVER, HEAD_MAX_BYTES)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._start_clock()

    def handle_events(self) -> None:
        super().handle_events()
        if self._owes_an_answer:
            self._stop_clock()

    def on_response_complete(self) -> None:
        self._start_clock()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """uvicorn calls it for what h11 cannot read."""
        self._refuse(BadRequest(NOT_HTTP))

    @property
    def _owes_an_answer(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _start_clock(self) -> None:
        self._stop_clock()
        self._clock = self.loop.call_later(self.head_seconds, self._time_is_up)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _time_is_up(self) -> None:
        self._refuse(BodyInterrupted(f"The head of the request took longer than {self.head_seconds:g} seconds."))

    def _refuse(self, error: CallerError) -> None:
        """Say why, where an answer can still be said, and close."""
        if self.transport.is_closing():
            return
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE) and not self._has_begun_to_answer:
            headers = {"Connection": "close"}
            answer = failures.problem(failures.status_of(error), error.code, error.message, headers)
            head = h11.Response(status_code=answer.status_code, headers=answer.raw_headers)
            for event in (head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    @property
    def _has_begun_to_answer(self) -> bool:
        return self._owes_an_answer and self.cycle.response_started


def within(head_seconds: float) -> type[Connection]:
    """The class for uvicorn, which makes one for each connection."""
    return type("Connection", (Connection,), {"head_seconds": head_seconds})
