"""The model routes: from finished uploads to a model that waits for its inspection, and what came of it.

Nothing is parsed here: this process knows the uploads by size and hash alone.
"""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy import Connection

from app.api.access import needs
from app.api.deps import CallerDep, ServicesDep
from app.api.model_schemas import ModelPage, ModelView, NewModel
from app.api.paging import link_to_next
from app.domain.audit import Action
from app.domain.errors import Conflict, TooLarge
from app.domain.identity import Scope
from app.domain.ids import new_id, parse_id
from app.domain.manifest import FileEntry, Manifest
from app.domain.model import ARCHIVE
from app.store import audit_rows, model_rows, quota_rows, references, upload_rows

router = APIRouter(tags=["models"])

READERS = needs(Scope.MODELS_WRITE, Scope.JOBS_READ)
WRITERS = needs(Scope.MODELS_WRITE)
RETRY_AFTER_SECONDS = 2


@router.post("/models", status_code=202, response_model=ModelView, dependencies=[WRITERS])
def create_model(new: NewModel, caller: CallerDep, services: ServicesDep) -> Response:
    """Make a model from finished uploads. It is inspected in the background: ask for it at Location until `done`."""
    wanted = {ARCHIVE: new.archive} if new.archive else new.files or {}
    with services.database.begin() as connection:
        source = Manifest.of(_entry(connection, caller.tenant, path, upload) for path, upload in wanted.items())
        if source.size > services.settings.model_max_bytes:
            raise TooLarge(
                f"The files have {source.size:,} bytes; at most {services.settings.model_max_bytes:,} are taken."
            )
        services.quota.check_bytes(quota_rows.hold(connection, caller.tenant), source.size)
        model = model_rows.create(connection, caller.tenant, new_id(), new.name, source=source, metadata=new.metadata)
        subject = audit_rows.subject("model", model.id)
        details = {"name": model.name, "files": len(source.files), "source": source.digest}
        audit_rows.by_caller(connection, caller, Action.MODEL_CREATED, subject, **details)
    services.dispatcher.inspect_model(model.id)
    headers = {"Location": f"/v1/models/{model.id}", "Retry-After": str(RETRY_AFTER_SECONDS)}
    return JSONResponse(ModelView.of(model).model_dump(mode="json"), 202, headers)


def _entry(connection: Connection, tenant: str, path: str, upload_id: UUID) -> FileEntry:
    """Raises NotFound, Gone, and Conflict for an upload that still lacks bytes."""
    upload = upload_rows.get(connection, tenant, upload_id)
    if upload.sha256 is None:
        message = f"The upload {upload_id} has {upload.received:,} of {upload.length:,} bytes. Finish it first."
        raise Conflict(message)
    return FileEntry(path, upload.length, upload.sha256)


@router.get("/models", response_model=ModelPage, dependencies=[READERS])
def list_models(
    request: Request,
    caller: CallerDep,
    services: ServicesDep,
    after: Annotated[str | None, Query(description="the last id of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Response:
    """Models, the newest first."""
    last = parse_id(after, "model") if after is not None else None
    with services.database.connect() as connection:
        found = model_rows.page(connection, caller.tenant, limit + 1, last)
    page = ModelPage(data=[ModelView.of(model) for model in found[:limit]], has_more=len(found) > limit)
    headers = link_to_next(request, page.data[-1].id if page.has_more else None)
    return JSONResponse(page.model_dump(mode="json"), headers=headers)


@router.get("/models/by-digest/{digest}", dependencies=[READERS])
def find_model(
    digest: Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the manifest, lower-case hex")],
    caller: CallerDep,
    services: ServicesDep,
) -> ModelView:
    """The admitted model with this digest: what is known already needs no upload."""
    with services.database.connect() as connection:
        return ModelView.of(model_rows.by_digest(connection, caller.tenant, digest))


@router.get("/models/{model_id}", response_model=ModelView, dependencies=[READERS])
def show_model(model_id: str, caller: CallerDep, services: ServicesDep) -> Response:
    """One model. While it is being inspected, Retry-After says when to ask again."""
    with services.database.connect() as connection:
        view = ModelView.of(model_rows.get(connection, caller.tenant, parse_id(model_id, "model")))
    headers = {} if view.done else {"Retry-After": str(RETRY_AFTER_SECONDS)}
    return JSONResponse(view.model_dump(mode="json"), headers=headers)


@router.delete("/models/{model_id}", status_code=204, dependencies=[WRITERS])
def delete_model(model_id: str, caller: CallerDep, services: ServicesDep) -> None:
    """Forget a model. 409 while a job names it."""
    with services.database.begin() as connection:
        gone = parse_id(model_id, "model")
        subject = audit_rows.subject("model", gone)
        files = references.files_of(connection, subject)
        model_rows.remove(connection, caller.tenant, gone)
        audit_rows.by_caller(connection, caller, Action.MODEL_DELETED, subject, files=files)
