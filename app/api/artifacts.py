"""The repaired model: its manifest, its files one by one with ranges and digests, or all of it as one tar stream.

Guarantees: a file is checked against its SHA-256 on the very handle that is then read, so a damaged one is never
served; the same model is the same tar, byte for byte.
"""

from __future__ import annotations

import base64
import hashlib
import tarfile
from collections.abc import Iterator, Mapping
from typing import Annotated, BinaryIO
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from app.api import conditions
from app.api.access import needs
from app.api.deps import CallerDep, Services, ServicesDep
from app.api.jobs import CACHE
from app.api.schemas import ArtifactList
from app.domain.audit import Action
from app.domain.errors import BadRequest, NotAcceptable, NotFound
from app.domain.identity import Caller, Scope
from app.domain.ids import parse_id
from app.domain.job import not_delivered
from app.domain.manifest import FileEntry, Manifest
from app.store import audit_rows, job_rows
from app.store.vault import CHUNK, Vault

router = APIRouter(tags=["artifacts"], dependencies=[needs(Scope.JOBS_READ)])

TAR = "application/x-tar"
BYTES = "application/octet-stream"
BLOCK = tarfile.BLOCKSIZE
END_OF_TAR = bytes(2 * BLOCK)


@router.head("/jobs/{job_id}/artifacts", include_in_schema=False)
@router.get("/jobs/{job_id}/artifacts", response_model=ArtifactList)
def list_artifacts(  # noqa: PLR0917 - one argument for each header
    request: Request,
    job_id: str,
    caller: CallerDep,
    services: ServicesDep,
    form: Annotated[str | None, Query(alias="format", description="tar: all files in one stream")] = None,
    accept: Annotated[str | None, Header()] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """The manifest of the repaired model as JSON, or with `Accept: application/x-tar` the model itself."""
    manifest = _manifest(services, caller.tenant, parse_id(job_id, "job"))
    wanted = _form(form, accept)
    headers = CACHE | {"ETag": f'"{manifest.digest}.{wanted}"', "Vary": "Accept"}
    if conditions.matches(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    if wanted == "json":
        view = ArtifactList.of(UUID(job_id), manifest)
        return JSONResponse(view.model_dump(mode="json"), headers=headers)
    headers |= {
        "Content-Length": str(_tar_size(manifest)),
        "Content-Disposition": f'attachment; filename="{job_id}.tar"',
    }
    if request.method == "HEAD":
        return Response(headers=headers, media_type=TAR)
    _note(services, caller, job_id, {"digest": manifest.digest})
    return StreamingResponse(_tar(services.vault, manifest), media_type=TAR, headers=headers)


@router.head("/jobs/{job_id}/artifacts/{path:path}", include_in_schema=False)
@router.get("/jobs/{job_id}/artifacts/{path:path}", response_class=Response)
def fetch_artifact(  # noqa: PLR0917 - one argument for each header
    request: Request,
    job_id: str,
    path: str,
    caller: CallerDep,
    services: ServicesDep,
    wanted_range: Annotated[str | None, Header(alias="range")] = None,
    if_range: Annotated[str | None, Header()] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """One file, or one range of it."""
    entry = _manifest(services, caller.tenant, parse_id(job_id, "job")).get(path)
    if entry is None:
        raise NotFound(f"The model has no file {path[:200]!r}: see /v1/jobs/{job_id}/artifacts.")
    headers = _file_headers(entry)
    if conditions.matches(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    if request.method == "HEAD":
        return Response(headers=headers | {"Content-Length": str(entry.size)}, media_type=BYTES)
    asked = wanted_range if if_range is None or if_range.strip() == headers["ETag"] else None
    part = conditions.byte_range(asked, entry.size)
    handle = services.vault.open_verified(entry.sha256)
    _note(services, caller, job_id, {"path": entry.path, "sha256": entry.sha256})
    return _file(handle, entry, part, headers)


def _manifest(services: Services, tenant: str, job_id: UUID) -> Manifest:
    with services.database.connect() as connection:
        job = job_rows.get(connection, tenant, job_id)
        delivery = job_rows.delivery(connection, tenant, job_id)
    if delivery is None:
        raise not_delivered(job, "artifact")
    return delivery.manifest


def _note(services: Services, caller: Caller, job_id: str, what: Mapping[str, str]) -> None:
    """In the audit trail before the first byte leaves; each range of a file is a line of its own."""
    with services.database.begin() as connection:
        subject = audit_rows.subject("job", parse_id(job_id, "job"))
        audit_rows.by_caller(connection, caller, Action.ARTIFACT_DOWNLOADED, subject, **what)


def _form(form: str | None, accept: str | None) -> str:
    """`json` or `tar`."""
    if form not in (None, "json", "tar"):
        raise BadRequest("format is json or tar.")
    if form is not None:
        return form
    if conditions.accepts(accept, "application/json"):
        return "json"
    if conditions.accepts(accept, TAR):
        return "tar"
    raise NotAcceptable(f"The artifacts come as application/json or {TAR}.", offered=["application/json", TAR])


def _file_headers(entry: FileEntry) -> dict[str, str]:
    name = entry.path.rpartition("/")[2]
    return {
        "ETag": f'"{entry.sha256}"',
        "Cache-Control": "private, no-cache",
        "Accept-Ranges": "bytes",
        "Repr-Digest": _digest(bytes.fromhex(entry.sha256)),
        "Content-Disposition": f'attachment; filename="{name}"',
        "X-Content-Type-Options": "nosniff",
    }


def _file(handle: BinaryIO, entry: FileEntry, part: tuple[int, int] | None, headers: Mapping[str, str]) -> Response:
    """Answers 206 with the part, or 200 with the whole. `handle` was verified; the response closes it."""
    start, length = part or (0, entry.size)
    more = {"Content-Length": str(length), "Content-Digest": headers["Repr-Digest"]}
    if part is not None:
        digest = hashlib.sha256()
        for chunk in _chunks(handle, start, length):
            digest.update(chunk)
        more["Content-Digest"] = _digest(digest.digest())
        more["Content-Range"] = f"bytes {start}-{start + length - 1}/{entry.size}"
    return StreamingResponse(
        _closing(handle, start, length),
        206 if part is not None else 200,
        dict(headers) | more,
        media_type=BYTES,
    )


def _digest(sha256: bytes) -> str:
    """A field of RFC 9530."""
    return f"sha-256=:{base64.b64encode(sha256).decode()}:"


def _closing(handle: BinaryIO, start: int, length: int) -> Iterator[bytes]:
    with handle:
        yield from _chunks(handle, start, length)


def _chunks(handle: BinaryIO, start: int, length: int) -> Iterator[bytes]:
    handle.seek(start)
    while length > 0 and (chunk := handle.read(min(CHUNK, length))):
        length -= len(chunk)
        yield chunk


def _tar(vault: Vault, manifest: Manifest) -> Iterator[bytes]:
    """POSIX tar (pax) in the order of the manifest. A damaged file cuts the stream short of its Content-Length."""
    for entry in manifest:
        with vault.open_verified(entry.sha256) as handle:
            yield _tar_header(entry)
            yield from _chunks(handle, 0, entry.size)
            yield bytes(-entry.size % BLOCK)
    yield END_OF_TAR


def _tar_header(entry: FileEntry) -> bytes:
    """The same for everybody at any time: no owner, no time."""
    info = tarfile.TarInfo(entry.path)
    info.size, info.mode = entry.size, 0o644
    return info.tobuf(tarfile.PAX_FORMAT)


def _tar_size(manifest: Manifest) -> int:
    files = sum(len(_tar_header(entry)) + entry.size + -entry.size % BLOCK for entry in manifest)
    return files + len(END_OF_TAR)
