"""The keys of a tenant, over HTTP: an admin makes, lists, rotates and revokes them.

A key is shown once, in the answer that makes it. The operator does the same for every tenant with `lethe keys`."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app.api.access import needs
from app.api.deps import CallerDep, Services, ServicesDep
from app.api.paging import link_to_next
from app.domain.errors import OperatorError
from app.domain.identity import ApiKey, KeyOrder, Scope
from app.domain.ids import parse_id
from app.identity import api_keys
from app.store import key_rows

router = APIRouter(tags=["keys"], dependencies=[needs(Scope.ADMIN)])

NO_STORE = {"Cache-Control": "no-store"}
Name = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")]


class NewKey(BaseModel):
    """A key of the caller's own tenant."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    scopes: list[Scope] = Field(min_length=1, max_length=len(Scope))
    days: int | None = Field(default=90, ge=1, le=3650, strict=True, description="until it expires; null: never")


class Rotation(BaseModel):
    model_config = ConfigDict(extra="forbid")

    overlap_hours: float = Field(default=24, ge=0, le=720, strict=True, description="how long the old key stays good")


class KeyView(BaseModel):
    """A key without its secret. `last_used_at` is exact to the minute."""

    id: UUID
    tenant: str
    name: str
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    replaced_by: UUID | None

    @classmethod
    def of(cls, key: ApiKey) -> KeyView:
        values: dict[str, Any] = {name: getattr(key, name) for name in cls.model_fields}
        return cls(**values | {"scopes": sorted(key.scopes)})


class MadeKey(BaseModel):
    """`key` is shown here and never again."""

    key: str
    facts: KeyView


class KeyPage(BaseModel):
    data: list[KeyView]
    has_more: bool


@router.post("/keys", status_code=201, response_model=MadeKey)
def create_key(new: NewKey, caller: CallerDep, services: ServicesDep) -> Response:
    """Make a key. Keep what is answered: it is not shown again."""
    lifetime = timedelta(days=new.days) if new.days is not None else None
    order = KeyOrder(caller.tenant, new.name, frozenset(new.scopes), lifetime)
    return _made(*api_keys.make(services.database, _pepper(services), order, caller.name))


@router.get("/keys", response_model=KeyPage)
def list_keys(
    request: Request,
    caller: CallerDep,
    services: ServicesDep,
    after: Annotated[str | None, Query(description="the last id of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Response:
    """The tenant's keys, the newest first; also those that are void."""
    last = parse_id(after, "key") if after is not None else None
    with services.database.connect() as connection:
        found = key_rows.page(connection, caller.tenant, limit + 1, last)
    page = KeyPage(data=[KeyView.of(key) for key in found[:limit]], has_more=len(found) > limit)
    headers = NO_STORE | link_to_next(request, page.data[-1].id if page.has_more else None)
    return JSONResponse(page.model_dump(mode="json"), headers=headers)


@router.post("/keys/{key_id}/rotate", status_code=201, response_model=MadeKey)
def rotate_key(key_id: str, caller: CallerDep, services: ServicesDep, rotation: Rotation | None = None) -> Response:
    """A new key with the same name, scopes and lifetime; the old one stays good for the overlap."""
    overlap, old = timedelta(hours=(rotation or Rotation()).overlap_hours), parse_id(key_id, "key")
    made = api_keys.rotate(services.database, _pepper(services), caller.tenant, old, caller.name, overlap=overlap)
    services.gate.forget(old)
    return _made(*made)


@router.delete("/keys/{key_id}", status_code=204)
def revoke_key(key_id: str, caller: CallerDep, services: ServicesDep) -> Response:
    """Void from now on, in every API process within seconds. The key stays in the list."""
    found = parse_id(key_id, "key")
    api_keys.revoke(services.database, caller.tenant, found, caller.name)
    services.gate.forget(found)
    return Response(status_code=204)


def _made(key: ApiKey, text: str) -> Response:
    view = MadeKey(key=text, facts=KeyView.of(key))
    return JSONResponse(view.model_dump(mode="json"), 201, NO_STORE)


def _pepper(services: Services) -> str:
    pepper = services.settings.key_pepper
    if pepper is None:
        raise OperatorError("Keys cannot be made here: the operator has not set LETHE_KEY_PEPPER.")
    return pepper.get_secret_value()
