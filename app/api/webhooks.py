"""Webhooks over HTTP: an admin says who is told of what, tries it, and has it told again."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from app.api.access import needs
from app.api.deps import CallerDep, Services, ServicesDep
from app.api.paging import link_to_next
from app.domain.identity import Scope
from app.domain.ids import parse_id
from app.domain.outbound import LONGEST_URL, networks
from app.domain.webhook import EVENTS, Notice, Webhook
from app.store import webhook_rows
from app.store.sealed import Seal
from app.webhooks import manage

router = APIRouter(tags=["webhooks"], dependencies=[needs(Scope.ADMIN)])

NO_STORE = {"Cache-Control": "no-store"}
Url = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_URL)]
Events = Annotated[list[str], Field(min_length=1, max_length=len(EVENTS), description=f"of {', '.join(EVENTS)}")]


class NewWebhook(BaseModel):
    model_config = ConfigDict(extra="forbid")

    url: Url
    events: Events


class WebhookChange(BaseModel):
    """What is left out stays."""

    model_config = ConfigDict(extra="forbid")

    url: Url | None = None
    events: Events | None = None
    enabled: bool | None = Field(default=None, strict=True)


class Replay(BaseModel):
    model_config = ConfigDict(extra="forbid")

    since: AwareDatetime = Field(description="all deliveries that failed, of events since then")


class WebhookView(BaseModel):
    id: UUID
    url: str
    events: list[str]
    disabled: str | None = Field(description="why nothing is sent; null: it is")
    created_at: datetime

    @classmethod
    def of(cls, hook: Webhook) -> WebhookView:
        return cls(**{name: getattr(hook, name) for name in cls.model_fields} | {"events": list(hook.events)})


class MadeWebhook(BaseModel):
    """`secret` is shown here and never again."""

    secret: str
    facts: WebhookView


class WebhookPage(BaseModel):
    data: list[WebhookView]
    has_more: bool


class DeliveryView(BaseModel):
    """`id` is the webhook-id that the receiver sees. `answer` is the HTTP status of the last try."""

    id: UUID
    type: str
    status: str = Field(description="waiting, delivered or failed")
    attempts: int
    answer: int | None
    trouble: str | None
    next_at: datetime | None
    created_at: datetime

    @classmethod
    def of(cls, notice: Notice) -> DeliveryView:
        return cls(**{name: getattr(notice, name) for name in cls.model_fields})


class DeliveryPage(BaseModel):
    data: list[DeliveryView]
    has_more: bool


class Replayed(BaseModel):
    count: int


@router.post("/webhooks", status_code=201, response_model=MadeWebhook)
def create_webhook(new: NewWebhook, caller: CallerDep, services: ServicesDep) -> Response:
    """Have events told to an address. Keep the secret that is answered: it is not shown again."""
    return _made(*manage.make(_desk(services), caller, new.url, new.events))


@router.get("/webhooks", response_model=WebhookPage)
def list_webhooks(
    request: Request,
    caller: CallerDep,
    services: ServicesDep,
    after: Annotated[str | None, Query(description="the last id of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Response:
    """The tenant's webhooks, the newest first."""
    last = parse_id(after, "webhook") if after is not None else None
    with services.database.connect() as connection:
        found = webhook_rows.page(connection, caller.tenant, limit + 1, last)
    page = WebhookPage(data=[WebhookView.of(hook) for hook in found[:limit]], has_more=len(found) > limit)
    return _page(request, page)


@router.get("/webhooks/{hook_id}")
def show_webhook(hook_id: str, caller: CallerDep, services: ServicesDep) -> WebhookView:
    with services.database.connect() as connection:
        return WebhookView.of(webhook_rows.get(connection, caller.tenant, parse_id(hook_id, "webhook")))


@router.patch("/webhooks/{hook_id}")
def change_webhook(hook_id: str, wanted: WebhookChange, caller: CallerDep, services: ServicesDep) -> WebhookView:
    """Another address, other events, or enabled again after its receiver was gone."""
    found = parse_id(hook_id, "webhook")
    return WebhookView.of(manage.change(_desk(services), caller, found, **wanted.model_dump()))


@router.delete("/webhooks/{hook_id}", status_code=204)
def delete_webhook(hook_id: str, caller: CallerDep, services: ServicesDep) -> Response:
    """With what is still on its way."""
    manage.delete(_desk(services), caller, parse_id(hook_id, "webhook"))
    return Response(status_code=204)


@router.post("/webhooks/{hook_id}/rotate", status_code=201, response_model=MadeWebhook)
def rotate_webhook(hook_id: str, caller: CallerDep, services: ServicesDep) -> Response:
    """Another secret. For a day each delivery is signed with the old one as well."""
    return _made(*manage.rotate(_desk(services), caller, parse_id(hook_id, "webhook")))


@router.post("/webhooks/{hook_id}/test", status_code=202)
def test_webhook(hook_id: str, caller: CallerDep, services: ServicesDep) -> DeliveryView:
    """Send an event that tells of nothing; its delivery says what came of it."""
    return DeliveryView.of(manage.send_test(_desk(services), caller, parse_id(hook_id, "webhook")))


@router.get("/webhooks/{hook_id}/deliveries", response_model=DeliveryPage)
def list_deliveries(  # noqa: PLR0917 - one argument for each query parameter
    request: Request,
    hook_id: str,
    caller: CallerDep,
    services: ServicesDep,
    after: Annotated[str | None, Query(description="the last id of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Response:
    """What was sent, or waits to be, the newest first."""
    last, found = parse_id(after, "delivery") if after is not None else None, parse_id(hook_id, "webhook")
    with services.database.connect() as connection:
        hook = webhook_rows.get(connection, caller.tenant, found)
        sent = webhook_rows.notices(connection, hook.id, limit + 1, last)
    return _page(
        request, DeliveryPage(data=[DeliveryView.of(each) for each in sent[:limit]], has_more=len(sent) > limit)
    )


@router.post("/webhooks/{hook_id}/deliveries/{delivery_id}/replay", status_code=202)
def replay_delivery(hook_id: str, delivery_id: str, caller: CallerDep, services: ServicesDep) -> Replayed:
    """Send one delivery again, under the same webhook-id."""
    hook, only = parse_id(hook_id, "webhook"), parse_id(delivery_id, "delivery")
    return Replayed(count=manage.replay(_desk(services), caller, hook, only=only))


@router.post("/webhooks/{hook_id}/replay", status_code=202)
def replay_failed(hook_id: str, wanted: Replay, caller: CallerDep, services: ServicesDep) -> Replayed:
    """Send all deliveries again that have failed."""
    hook = parse_id(hook_id, "webhook")
    return Replayed(count=manage.replay(_desk(services), caller, hook, since=wanted.since))


def _desk(services: Services) -> manage.Desk:
    known = services.settings
    seal = Seal(known.webhook_key.get_secret_value()) if known.webhook_key else None
    return manage.Desk(services.database, seal, networks(known.webhook_networks))


def _made(hook: Webhook, secret: str) -> Response:
    view = MadeWebhook(secret=secret, facts=WebhookView.of(hook))
    return JSONResponse(view.model_dump(mode="json"), 201, NO_STORE)


def _page(request: Request, page: Any) -> Response:
    headers = NO_STORE | link_to_next(request, page.data[-1].id if page.has_more else None)
    return JSONResponse(page.model_dump(mode="json"), headers=headers)
