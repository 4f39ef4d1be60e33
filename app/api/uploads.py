"""Uploads over HTTP: resumable by tus 1.0.0, or in one PUT for curl. Bodies are streamed to `app.intake.receive`,
which says what is guaranteed of them; here are only headers and answers."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from app.api import bodies, tus
from app.api.access import needs
from app.api.deps import CallerDep, Services, ServicesDep
from app.domain.errors import BadRequest, TooLarge, UnsupportedMedia
from app.domain.identity import Caller, Scope
from app.domain.ids import parse_id
from app.domain.upload import Upload
from app.intake.join import join

router = APIRouter(tags=["uploads"], dependencies=[needs(Scope.MODELS_WRITE)])


class UploadView(BaseModel):
    """`received` of `size` bytes are stored; `sha256` is there once all are."""

    id: UUID
    name: str
    size: int
    received: int
    sha256: str | None
    created_at: datetime
    expires_at: datetime

    @classmethod
    def of(cls, upload: Upload) -> UploadView:
        return cls(
            id=upload.id,
            name=upload.name,
            size=upload.length,
            received=upload.received,
            sha256=upload.sha256,
            created_at=upload.created_at,
            expires_at=upload.expires_at,
        )


async def _tus_version(request: Request) -> None:
    tus.check_version(request.headers)


async def _upload_id(upload_id: str) -> UUID:
    return parse_id(upload_id, "upload")


TusVersion = Depends(_tus_version)
UploadId = Annotated[UUID, Depends(_upload_id)]


@router.options("/uploads", status_code=204)
@router.options("/uploads/{upload_id}", status_code=204, include_in_schema=False)
def describe(services: ServicesDep) -> Response:
    """What of tus is spoken here."""
    return Response(status_code=204, headers=tus.capabilities(services.settings.upload_max_bytes))


@router.post("/uploads", status_code=201, dependencies=[TusVersion])
async def create(request: Request, caller: CallerDep, services: ServicesDep) -> Response:
    """tus creation, and creation-with-upload where the first bytes come along."""
    concat = request.headers.get("upload-concat", "")
    if concat and (parts := tus.parts(concat)):
        return await _joined(request, caller, services, parts, concat)
    length = _upload_length(request)
    header = request.headers.get("upload-metadata", "")
    name = tus.metadata(header).get("filename")
    with_bytes = _carries_chunk(request)
    checksum = tus.checksum(request.headers.get("upload-checksum"))
    _fits(request, length)
    receiver = services.receiver
    checked = tus.file_name(name or "upload")
    upload = await run_in_threadpool(receiver.create, caller, checked, length, header, concat)
    if with_bytes:
        chunks = bodies.stream(request, services.settings.body_grace_seconds)
        upload = await receiver.append(caller, upload.id, 0, chunks, checksum)
    return Response(status_code=201, headers={"Location": _location(request, upload), **tus.state(upload)})


@router.head("/uploads/{upload_id}", dependencies=[TusVersion])
def offset(upload_id: UploadId, caller: CallerDep, services: ServicesDep) -> Response:
    """tus: where the upload goes on."""
    upload = services.receiver.find(caller, upload_id)
    headers = {"Upload-Length": str(upload.length), **tus.state(upload)}
    headers |= {"Upload-Metadata": upload.metadata} if upload.metadata else {}
    headers |= {"Upload-Concat": upload.concat} if upload.concat else {}
    return Response(headers=headers)


@router.patch("/uploads/{upload_id}", status_code=204, dependencies=[TusVersion])
async def append(upload_id: UploadId, request: Request, caller: CallerDep, services: ServicesDep) -> Response:
    """tus: bytes from Upload-Offset on."""
    at = tus.number(request.headers, "upload-offset")
    if not _carries_chunk(request):
        raise UnsupportedMedia(f"Send the bytes as Content-Type: {tus.CHUNK_TYPE}.")
    checksum = tus.checksum(request.headers.get("upload-checksum"))
    chunks = bodies.stream(request, services.settings.body_grace_seconds)
    upload = await services.receiver.append(caller, upload_id, at, chunks, checksum)
    return Response(status_code=204, headers=tus.state(upload))


@router.delete("/uploads/{upload_id}", status_code=204, dependencies=[TusVersion])
def terminate(upload_id: UploadId, caller: CallerDep, services: ServicesDep) -> Response:
    """tus termination: the upload is forgotten. A model made of it stays."""
    services.receiver.discard(caller, upload_id)
    return Response(status_code=204)


@router.get("/uploads/{upload_id}", name="read_upload")
def read(upload_id: UploadId, caller: CallerDep, services: ServicesDep) -> UploadView:
    return UploadView.of(services.receiver.find(caller, upload_id))


@router.put("/uploads/{name:path}", status_code=201)
async def put(
    name: str, request: Request, response: Response, caller: CallerDep, services: ServicesDep
) -> UploadView:
    """A whole file in one request: `curl -T model.safetensors .../v1/uploads/`. A Repr-Digest or Content-Digest that
    does not fit refuses it."""
    checked = tus.file_name(name)
    checksums = tus.digests(request.headers)
    bodies.refuse_wrapped(request)
    _fits(request, services.settings.upload_max_bytes)
    chunks = bodies.stream(request, services.settings.body_grace_seconds)
    declared = bodies.declared_length(request) or 0
    upload = await services.receiver.receive_whole(caller, checked, chunks, checksums, declared)
    assert upload.sha256 is not None
    response.headers["Location"] = _location(request, upload)
    response.headers["Repr-Digest"] = tus.repr_digest(upload.sha256)
    return UploadView.of(upload)


async def _joined(request: Request, caller: Caller, services: Services, parts: list[UUID], concat: str) -> Response:
    """tus concatenation: finished parts become one finished upload."""
    if "upload-length" in request.headers or _carries_chunk(request):
        raise BadRequest("An upload that is joined from parts has their length and bytes: send none of its own.")
    header = request.headers.get("upload-metadata", "")
    name = tus.file_name(tus.metadata(header).get("filename") or "upload")
    given = {"name": name, "metadata": header, "concat": concat}
    upload = await run_in_threadpool(join, services.receiver, caller, parts, **given)
    return Response(status_code=201, headers={"Location": _location(request, upload), **tus.state(upload)})


def _location(request: Request, upload: Upload) -> str:
    """Without the host: what a caller writes into Host is nothing to send back."""
    return request.url_for("read_upload", upload_id=str(upload.id)).path


def _upload_length(request: Request) -> int:
    if "upload-defer-length" in request.headers:
        raise BadRequest("Send Upload-Length at once: Upload-Defer-Length is not spoken here.")
    return tus.number(request.headers, "upload-length")


def _carries_chunk(request: Request) -> bool:
    """Whether the body is a tus chunk. Raises UnsupportedMedia for a body of another type."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == tus.CHUNK_TYPE:
        return True
    if bodies.declared_length(request) or "transfer-encoding" in request.headers:
        raise UnsupportedMedia(f"Send the bytes as Content-Type: {tus.CHUNK_TYPE}.")
    return False


def _fits(request: Request, limit: int) -> None:
    """Refuse a body that says itself that it is too long before any of it is read."""
    if (bodies.declared_length(request) or 0) > limit:
        raise TooLarge(f"The body has at most {limit} bytes here.", limit=limit)
