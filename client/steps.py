"""The protocol without the network: a call of the SDK is a generator of steps, which a transport takes.

So each call is written once and runs on a blocking and on an asyncio client alike (`client.transport`). A step is a
`Call`, answered with the response, or a `Pause`. What the network throws is thrown into the generator where it waits,
and `ask` decides there whether to try again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx2

from client.errors import Unavailable, Unreachable, check

TRIES = 6
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Call:
    """One request. With a `sink` the body is handed to it piece by piece and kept nowhere else."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    json: Any = None
    sink: Callable[[bytes], Any] | None = None


@dataclass(frozen=True, slots=True)
class Pause:
    seconds: float


Steps = Generator[Call | Pause, Any, Value]


def ask(call: Call, *, repeatable: bool | None = None) -> Steps[httpx2.Response]:
    """The answer, asked for again while the service is away for a moment, as it says by Retry-After.

    One that changes something is sent again only where it surely was not carried out, or where it is `repeatable`:
    the service then makes one of two. Raises ApiError, Unavailable and Unreachable.
    """
    safe = call.method in ("GET", "HEAD") if repeatable is None else repeatable
    for attempt in range(1, TRIES + 1):
        try:
            return check((yield call))
        except (httpx2.TransportError, Unavailable) as error:
            yield pause(error, attempt if safe or _not_carried_out(error) else TRIES)
    raise AssertionError("the last try raises")


def _not_carried_out(error: httpx2.TransportError | Unavailable) -> bool:
    return isinstance(error, httpx2.ConnectError) or (isinstance(error, Unavailable) and error.status == 429)


def pause(error: httpx2.TransportError | Unavailable, attempt: int) -> Pause:
    """How long to wait after that many tries. Raises what went wrong when there have been enough."""
    if attempt < TRIES:
        return Pause(error.retry_after if isinstance(error, Unavailable) else 0.1 * 2**attempt)
    if isinstance(error, Unavailable):
        raise error
    raise Unreachable(f"No connection to the service: {error}") from error
