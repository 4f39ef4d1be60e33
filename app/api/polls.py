"""The answer to most requests: a poll of a job that has not changed, given before anything is routed.

Guarantees: it is given to a caller whom the gate knows, who has the scope that the route asks for, and whose requests
are counted; whatever is not plainly such a poll, or cannot be told from one indexed read, goes the usual way, which
says the same.
"""

from __future__ import annotations

import re
from uuid import UUID

from starlette.types import ASGIApp, Receive, Scope, Send

from app.api import conditions
from app.api.jobs import etag, headers_of
from app.api.rate_limit import RateLimit
from app.domain.identity import Scope as Permission
from app.identity.gate import Gate
from app.store.glance import Glance
from app.store.rate_counter import RateCounter

_JOB = re.compile(r"/v1/jobs/([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})")
UNCHANGED = "lethe.unchanged"  # where the version is told to the layer within


class PollLayer:
    """An ASGI layer around the gate. `most` requests a minute; 0: they are not counted."""

    def __init__(self, app: ASGIApp, gate: Gate, glance: Glance, counter: RateCounter, most: int) -> None:
        self._app, self._gate, self._glance = app, gate, glance
        self._answer: ASGIApp = RateLimit(_not_modified, counter, most) if most else _not_modified

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if await self._is_unchanged(scope):
            await self._answer(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _is_unchanged(self, scope: Scope) -> bool:
        """Whether the request names the job's very version and asks for nothing else."""
        if scope["type"] != "http" or scope["method"] != "GET" or scope["query_string"]:
            return False
        found = _JOB.fullmatch(scope["path"])
        sent = dict(scope["headers"]) if found else {}
        if found is None or b"if-none-match" not in sent or b"prefer" in sent or b"origin" in sent:
            return False
        keys = [value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"]
        caller = self._gate.recall(keys)
        if caller is None or not caller.may(Permission.JOBS_READ):
            return False
        seen = await self._glance.version(caller.tenant, UUID(found[1]))
        if seen is None or not conditions.matches(sent[b"if-none-match"].decode("latin-1"), etag(seen[0])):
            return False
        scope.setdefault("state", {})["caller"] = caller
        scope[UNCHANGED] = seen[0]
        return True


async def _not_modified(scope: Scope, _receive: Receive, send: Send) -> None:
    headers = [(name.lower().encode(), value.encode()) for name, value in headers_of(scope[UNCHANGED]).items()]
    await send({"type": "http.response.start", "status": 304, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
