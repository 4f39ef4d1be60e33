"""A job's history as it grows: which event comes next, and what to do when the stream is cut."""

from __future__ import annotations

from typing import Any

import httpx2

from client.answers import Event
from client.errors import Unavailable
from client.steps import Pause, pause


class Follower:
    """Remembers the last event, so that none is missed and none comes twice. `over` once the history has ended."""

    def __init__(self, job_id: str, after: int) -> None:
        self.path = f"/v1/jobs/{job_id}/events"
        self.over = False
        self._last, self._cuts = after, 0

    @property
    def headers(self) -> dict[str, str]:
        return {"Last-Event-ID": str(self._last)} if self._last else {}

    def opened(self, status: int) -> None:
        self.over = status == 204  # nothing came after what is known, and nothing will

    def saw(self, message: Any) -> Event | None:
        """The event that the message tells of; None for the one that ends the history."""
        if message.event == "end":
            self.over = True
            return None
        data = message.json()
        assert isinstance(data, dict)
        self._last, self._cuts = int(message.id), 0
        return Event(self._last, message.event, data)

    def cut(self, error: httpx2.TransportError | Unavailable | None) -> Pause:
        """The wait before the stream is taken up again. Raises when it was cut too often without anything new."""
        self._cuts += 1
        return pause(error or httpx2.RemoteProtocolError("the stream was cut"), self._cuts)
