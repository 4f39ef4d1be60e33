"""The pages of what jobs work on: models, and sets of samples."""

from __future__ import annotations

from fastapi import APIRouter, Response

from app.api.deps import ServicesDep
from app.domain.identity import Scope
from app.domain.ids import parse_id
from app.domain.model import ModelStatus
from app.domain.samples import SampleKind
from app.store import job_rows, model_rows, sample_rows
from app.web.screen import PageRoute, VisitorDep, listed, show

router = APIRouter(route_class=PageRoute, include_in_schema=False)

SHOWN_JOBS = 10


@router.get("/models")
def every_model(visitor: VisitorDep, services: ServicesDep, after: str | None = None) -> Response:
    visitor.must(Scope.MODELS_WRITE, Scope.JOBS_READ)
    rows, more = listed(visitor, services, model_rows.page, after, "model")
    return show("models", visitor, models=rows, more=more)


@router.get("/models/new")
def new_model(visitor: VisitorDep) -> Response:
    visitor.must(Scope.MODELS_WRITE)
    return show("new_model", visitor)


@router.get("/models/{model_id}")
def one_model(model_id: str, visitor: VisitorDep, services: ServicesDep) -> Response:
    visitor.must(Scope.MODELS_WRITE, Scope.JOBS_READ)
    with services.database.connect() as connection:
        model = model_rows.get(connection, visitor.caller.tenant, parse_id(model_id, "model"))
        jobs = job_rows.page(connection, visitor.caller.tenant, SHOWN_JOBS, model_id=model.id)
    waiting = model.status is ModelStatus.INSPECTING
    return show("model", visitor, model=model, jobs=jobs, waiting=waiting)


@router.get("/samples")
def every_set(visitor: VisitorDep, services: ServicesDep, after: str | None = None) -> Response:
    visitor.must(Scope.SAMPLES_WRITE, Scope.JOBS_READ)
    rows, more = listed(visitor, services, sample_rows.page, after, "set of samples")
    return show("samples", visitor, sets=rows, more=more, kinds=list(SampleKind))


@router.get("/samples/{samples_id}")
def one_set(samples_id: str, visitor: VisitorDep, services: ServicesDep) -> Response:
    visitor.must(Scope.SAMPLES_WRITE, Scope.JOBS_READ)
    with services.database.connect() as connection:
        found = sample_rows.get(connection, visitor.caller.tenant, parse_id(samples_id, "set of samples"))
    return show("sample_set", visitor, found=found)
