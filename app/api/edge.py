"""What holds for every answer, whatever made it: headers for browsers, and the names that the service answers to.

A browser that is led here must not guess types, frame, cache or refer: an API has no use for any of that. An answer
that comes with such a header of its own keeps it.
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.failures import problem, status_of
from app.domain.errors import BadRequest

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
# Only where the connection is https already: over http a browser must ignore it.
STRICT_TRANSPORT = "max-age=31536000; includeSubDomains"
_ALWAYS = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
_OVER_TLS = [*_ALWAYS, (b"strict-transport-security", STRICT_TRANSPORT.encode())]
# A probe calls by address, and is told nothing that depends on the name.
PROBES = ("/livez", "/readyz")
ANY = "*"
# What a page of a named origin may read beside the body.
EXPOSED = (
    "ETag", "Link", "Location", "Retry-After", "X-Request-Id", "Content-Range", "Content-Digest", "Repr-Digest",
    "Preference-Applied", "Tus-Resumable", "Tus-Version", "Tus-Extension", "Tus-Max-Size", "Tus-Checksum-Algorithm",
    "Upload-Offset", "Upload-Length", "Upload-Expires", "Upload-Metadata", "RateLimit",
    "RateLimit-Policy",
)  # fmt: skip


class Edge:
    """An ASGI layer. `hosts` are the names that Host may have, without a port; `*` stands for all."""

    def __init__(self, app: ASGIApp, hosts: Iterable[str]) -> None:
        self._app = app
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in message["headers"]}
                ours = _OVER_TLS if scope["scheme"] == "https" else _ALWAYS
                message["headers"] = [*message["headers"], *(each for each in ours if each[0] not in own)]
            await send(message)

        if self._is_known(scope):
            await self._app(scope, receive, send_guarded)
        else:
            error = BadRequest("The service does not answer to this Host.")
            await problem(status_of(error), error.code, error.message)(scope, receive, send_guarded)

    def _is_known(self, scope: Scope) -> bool:
        if ANY in self._hosts or scope["path"] in PROBES:
            return True
        sent = Headers(scope=scope).getlist("host")
        return len(sent) == 1 and host_name(sent[0]) in self._hosts


def host_name(host: str) -> str:
    """Host without its port, in lower case: of [::1]:8420 it is [::1]."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower()
