"""Fetches a job's files, and goes on where it stopped.

Guarantees: a file has its name only once it hashes to what the service announced; one that is there already with
these bytes is not fetched again; what a broken connection left in a `.part` file is continued by Range, and thrown
away where it turns out wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import httpx2

from client.answers import ArtifactFile
from client.errors import ApiError, Damaged, Unavailable, check
from client.steps import Call, Steps, ask, pause

FileProgress = Callable[[str, int, int], None]  # name, bytes so far, bytes in all


def artifacts(job_id: str) -> Steps[tuple[ArtifactFile, ...]]:
    answer = yield from ask(Call("GET", f"/v1/jobs/{job_id}/artifacts"))
    return tuple(ArtifactFile.of(each) for each in answer.json()["files"])


def pull(job_id: str, folder: Path, on_progress: FileProgress) -> Steps[list[Path]]:
    """Every file of the repaired model in `folder`. Raises Damaged, and keeps nothing of the file, when its bytes are
    not those of the manifest."""
    files = yield from artifacts(job_id)
    targets = [folder / _safe(file.path) for file in files]
    for file, target in zip(files, targets, strict=True):
        yield from _fetch(file, target, on_progress)
    return targets


def _fetch(file: ArtifactFile, target: Path, on_progress: FileProgress) -> Steps[None]:
    on_progress(file.path, 0, file.size)
    if not (target.is_file() and _hash(target).hexdigest() == file.sha256):
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        yield from _fill(file, part, on_progress)
        part.replace(target)
    on_progress(file.path, file.size, file.size)


def _fill(file: ArtifactFile, part: Path, on_progress: FileProgress) -> Steps[None]:
    """The whole of the file in `part`. Raises Damaged, Unreachable, ApiError."""
    failures, had = 0, part.stat().st_size if part.exists() else 0
    while True:
        try:
            yield from _append(file, part, on_progress)
        except (httpx2.TransportError, Unavailable) as error:
            have = part.stat().st_size
            failures, had = (1, have) if have > had else (failures + 1, had)
            yield pause(error, failures)
        else:
            return


def _append(file: ArtifactFile, part: Path, on_progress: FileProgress) -> Steps[None]:
    begun = part.exists() and 0 < part.stat().st_size < file.size
    with part.open("ab" if begun else "wb") as out:
        digest, done = (_hash(part), out.tell()) if begun else (hashlib.sha256(), 0)

        def sink(block: bytes) -> None:
            nonlocal done
            out.write(block)
            digest.update(block)
            done += len(block)
            on_progress(file.path, done, file.size)

        headers = {"Range": f"bytes={done}-", "If-Range": f'"{file.sha256}"'} if begun else {}
        try:
            answer = check((yield Call("GET", file.href, headers, sink=sink)))
        except ApiError as error:
            if error.status in (429, 503):
                raise
            part.unlink()
            raise
    if (begun and answer.status_code != 206) or digest.hexdigest() != file.sha256:
        part.unlink()
        raise Damaged(f"{file.path} came with other bytes than its manifest names. Fetch it again.")


def _hash(file: Path) -> Any:
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256")


def _safe(path: str) -> PurePosixPath:
    """The artifact's path, which must stay below the folder it is written to."""
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or not parts.parts:
        raise Damaged(f"The service named a file outside the folder: {path!r}. Nothing was written.")
    return parts
