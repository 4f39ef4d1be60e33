"""Where unfinished uploads live, kept in a file, so that a later run goes on where an earlier one was stopped.

The file is a hint: an entry that the service no longer knows is begun anew, and a file that cannot be read or written
costs a repeat and no more.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from client.uploads import UploadPlace

MOST = 10_000


class Places:
    """Of one service, whose address is part of each entry."""

    def __init__(self, file: Path, url: str) -> None:
        self._file, self._url = file, url

    def key_of(self, file: Path, name: str) -> str:
        """The same bytes under the same name at the same service."""
        with file.open("rb") as source:
            digest = hashlib.file_digest(source, "sha256").hexdigest()
        return hashlib.sha256(f"{self._url}\n{name}\n{digest}".encode()).hexdigest()

    def get(self, key: str) -> UploadPlace | None:
        path = self._read().get(key)
        return UploadPlace(path) if isinstance(path, str) and path.startswith("/v1/uploads/") else None

    def keep(self, key: str, place: UploadPlace) -> None:
        known = {**self._read(), key: place.path}
        self._write(dict(list(known.items())[-MOST:]))

    def forget(self, uploads: Iterable[str]) -> None:
        gone = set(uploads)
        self._write({key: path for key, path in self._read().items() if path.rsplit("/", 1)[-1] not in gone})

    def _read(self) -> dict[str, str]:
        try:
            found = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return {key: path for key, path in found.items() if isinstance(path, str)} if isinstance(found, dict) else {}

    def _write(self, known: dict[str, str]) -> None:
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            whole = self._file.with_name(f"{self._file.name}.{os.getpid()}")
            whole.write_text(json.dumps(known), encoding="utf-8")
            whole.replace(self._file)
