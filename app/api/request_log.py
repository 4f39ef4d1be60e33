"""Every request has an id and one line in the log; a poll that finds nothing new (304) has its line at DEBUG alone.

The id is the caller's own X-Request-Id where it is a plain word, else a new one; it is in the answer and in every
line that is logged on the way. The line has no query and no header: what a caller sends there may be a secret.
"""

from __future__ import annotations

import logging
import re
import time
from typing import Any
from uuid import uuid4

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import logs, measures
from app.api.failures import METHODS

log = logging.getLogger(__name__)

UNCHANGED = 304
_HEADER = b"x-request-id"
_PLAIN = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestLog:
    """An ASGI layer around all others, so that also an answer to a fault of ours is logged."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = next((value for name, value in scope["headers"] if name == _HEADER), b"").decode("latin-1")
        name = sent if _PLAIN.fullmatch(sent) else uuid4().hex
        began, status = time.monotonic(), 0

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (_HEADER, name.encode())]
            await send(message)

        token = logs.request_id.set(name)
        try:
            await self._app(scope, receive, send_named)
        finally:
            seconds = time.monotonic() - began
            # Any other word would be a name of a metric that a caller makes.
            measures.answered(scope["method"] if scope["method"] in METHODS else "other", status, seconds)
            fields = {} if status == UNCHANGED else _fields(scope, status, seconds)
            level = logging.DEBUG if status == UNCHANGED else logging.INFO
            log.log(level, "%s %s %d", scope["method"], scope["path"], status, extra={"fields": fields})
            logs.request_id.reset(token)


def _fields(scope: Scope, status: int, seconds: float) -> dict[str, Any]:
    """Status 0: the caller left before there was an answer."""
    caller = scope.get("state", {}).get("caller")
    client = scope.get("client")
    return {
        "method": scope["method"],
        "path": scope["path"],
        "status": status,
        "milliseconds": round(1e3 * seconds, 1),
        "client": client[0] if client else None,
        "tenant": caller.tenant if caller else None,
        "actor": caller.name if caller else None,
    }
