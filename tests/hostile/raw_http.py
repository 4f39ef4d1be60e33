"""Requests byte by byte over a socket, where a client library would tidy them up; answers are read back strictly."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.api_process import KEY, ApiProcess

AUTH = f"Authorization: Bearer {KEY}"
SECONDS = 60
# Asked behind an attack. It is the last one of its connection, so that reading ends when it is answered.
LAST = b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
SMUGGLED = b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        """The body of a refusal."""
        assert self.headers["content-type"] == "application/problem+json", (self.status, self.headers)
        found: dict[str, Any] = json.loads(self.body)
        assert found["status"] == self.status
        return found


@dataclass
class Wire:
    """One API, asked over sockets. `answers` keeps every one that came, to be looked through at the end of a test."""

    api: ApiProcess
    answers: list[Answer] = field(default_factory=list)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.api.port), timeout=SECONDS)

    def exchange(self, data: bytes, methods: Iterable[str] = ()) -> list[Answer]:
        """Send all of it, and read answers until the server closes. `methods`: of the requests, where one is HEAD."""
        with self.connect() as connection:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may close before the end
                connection.sendall(data)
            found = parse(everything(connection), list(methods))
        self.answers += found
        return found

    def one(self, head: str, *lines: str, body: bytes = b"", framed: bool = True) -> Answer:
        """One well-framed request with the key. Lines are sent as Latin-1."""
        length = [f"Content-Length: {len(body)}"] if framed and (body or not head.startswith("GET")) else []
        found = self.exchange(
            request(head, "Connection: close", *length, *lines, body=body), [head.partition(" ")[0]]
        )
        assert len(found) == 1, found
        return found[0]


def request(head: str, *lines: str, host: str = "Host: a", body: bytes = b"") -> bytes:
    """`head` is method and target."""
    every = [f"{head} HTTP/1.1", *([host] if host else []), AUTH, *lines]
    return "\r\n".join([*every, "", ""]).encode("latin-1") + body


def everything(connection: socket.socket) -> bytes:
    found = bytearray()
    try:
        while data := connection.recv(65536):
            found += data
    except ConnectionResetError:  # closed while bytes of ours were on their way
        pass
    return bytes(found)


def parse(data: bytes, methods: list[str]) -> list[Answer]:
    """Answers one behind the other. Raises on anything else: an answer that is cut off, or bytes between two."""
    found = []
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        assert end, head
        first, *lines = head.decode("latin-1").split("\r\n")
        assert first.startswith("HTTP/1.1 "), first
        status = int(first.split(" ")[1])
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        if status == 100:
            found.append(Answer(status, headers, b""))
            continue
        method = methods.pop(0) if methods else "GET"
        body, data = _body(status, headers, data, method)
        found.append(Answer(status, headers, body))
    return found


def _body(status: int, headers: dict[str, str], data: bytes, method: str) -> tuple[bytes, bytes]:
    if method == "HEAD" or status in (204, 304):
        return b"", data
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while True:
            size, _, data = data.partition(b"\r\n")
            if (length := int(size, 16)) == 0:
                return body, data.removeprefix(b"\r\n")
            body, data = body + data[:length], data[length + 2 :]
    length = int(headers["content-length"])
    assert len(data) >= length, "an answer was cut off"
    return data[:length], data[length:]
