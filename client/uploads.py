"""Sends one file with tus 1.0.0, and goes on where it stopped when the connection breaks.

Guarantees: every chunk carries its SHA-256, so a damaged one is sent again and never stored; a broken connection
costs at most one chunk; an attempt that gets nowhere ends after PATIENCE tries with the last error.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx2

from client.errors import ApiError, Unavailable, Unreachable, check
from client.steps import Call, Pause, Steps

CHUNK_BYTES = 8 * 1024 * 1024
PATIENCE = 8
LONGEST_PAUSE_SECONDS = 8.0
TUS = {"Tus-Resumable": "1.0.0"}
Progress = Callable[[int, int], None]  # bytes stored so far, bytes in all


@dataclass(frozen=True, slots=True)
class UploadPlace:
    """Where an upload lives on the service; keep it to go on later, even from another process."""

    path: str

    @property
    def id(self) -> str:
        return self.path.rsplit("/", 1)[-1]


def send_file(
    file: Path,
    name: str,
    *,
    place: UploadPlace | None = None,
    on_place: Callable[[UploadPlace], None] = lambda _: None,
    on_progress: Progress = lambda _done, _total: None,
) -> Steps[str]:
    """The upload's id, once every byte of `file` is stored under `name`.

    `place` continues an earlier upload of the same file; one that expired is begun anew. `on_place` is told where the
    bytes go before the first is sent. Raises ApiError when the service refuses, Unreachable when it stays away.
    """
    size = file.stat().st_size
    tries = _Tries()

    def progressed(offset: int) -> None:
        on_progress(offset, size)
        tries.progressed(offset)

    while True:
        try:
            if place is None:
                place = yield from _create(name, size)
                on_place(place)
            yield from _send_rest(file, place, size, progressed)
        except (httpx2.TransportError, ApiError) as error:
            place = _still_good(error, place)
            yield tries.failed(error)
        else:
            return place.id


class _Tries:
    """Counts tries that got no further than the ones before."""

    def __init__(self) -> None:
        self._count = 0
        self._furthest = 0

    def progressed(self, offset: int) -> None:
        if offset > self._furthest:
            self._count, self._furthest = 0, offset

    def failed(self, error: httpx2.TransportError | ApiError) -> Pause:
        """The wait before the next try. Raises the error when there have been enough."""
        self._count += 1
        if self._count >= PATIENCE:
            if isinstance(error, ApiError):
                raise error
            raise Unreachable(f"No connection to the service: {error}") from error
        pause = min(LONGEST_PAUSE_SECONDS, 0.1 * 2**self._count)
        return Pause(error.retry_after if isinstance(error, Unavailable) else pause)


def _create(name: str, size: int) -> Steps[UploadPlace]:
    encoded = base64.b64encode(name.encode()).decode()
    headers = TUS | {"Upload-Length": str(size), "Upload-Metadata": f"filename {encoded}"}
    answer = check((yield Call("POST", "/v1/uploads", headers)))
    return UploadPlace(answer.headers["Location"])


def _send_rest(file: Path, place: UploadPlace, size: int, progressed: Callable[[int], None]) -> Steps[None]:
    """Tells of the offset that the service holds: at once, and after each chunk."""
    answer = check((yield Call("HEAD", place.path, TUS)))
    offset = int(answer.headers["Upload-Offset"])
    progressed(offset)
    with file.open("rb") as source:
        while offset < size:
            source.seek(offset)
            answer = check((yield _chunk(place, offset, source.read(CHUNK_BYTES))))
            offset = int(answer.headers["Upload-Offset"])
            progressed(offset)


def _chunk(place: UploadPlace, offset: int, chunk: bytes) -> Call:
    digest = base64.b64encode(hashlib.sha256(chunk).digest()).decode()
    headers = TUS | {
        "Upload-Offset": str(offset),
        "Upload-Checksum": f"sha256 {digest}",
        "Content-Type": "application/offset+octet-stream",
    }
    return Call("PATCH", place.path, headers, content=chunk)


def _still_good(error: Exception, place: UploadPlace | None) -> UploadPlace | None:
    """None when the upload is gone and must be begun anew. Raises the error itself when no further try can help."""
    if not isinstance(error, ApiError) or error.status in (408, 409, 429, 460) or error.status >= 500:
        return place
    if error.status in (404, 410) and place is not None:
        return None
    raise error
