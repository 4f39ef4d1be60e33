"""The pages of a tenant's admins: keys, webhooks, workers."""

from __future__ import annotations

from fastapi import APIRouter, Response

from app.api.deps import ServicesDep
from app.api.workers import QueueView
from app.domain.identity import Scope
from app.domain.ids import parse_id
from app.domain.webhook import EVENTS
from app.store import key_rows, webhook_rows, worker_rows
from app.web.screen import ROWS, PageRoute, VisitorDep, listed, show

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/keys")
def every_key(visitor: VisitorDep, services: ServicesDep, after: str | None = None) -> Response:
    visitor.must(Scope.ADMIN)
    rows, more = listed(visitor, services, key_rows.page, after, "key")
    return show("keys", visitor, keys=rows, more=more, scopes=list(Scope))


@router.get("/webhooks")
def every_webhook(visitor: VisitorDep, services: ServicesDep, after: str | None = None) -> Response:
    visitor.must(Scope.ADMIN)
    rows, more = listed(visitor, services, webhook_rows.page, after, "webhook")
    return show("webhooks", visitor, hooks=rows, more=more, kinds=EVENTS)


@router.get("/webhooks/{hook_id}")
def one_webhook(hook_id: str, visitor: VisitorDep, services: ServicesDep) -> Response:
    visitor.must(Scope.ADMIN)
    with services.database.connect() as connection:
        hook = webhook_rows.get(connection, visitor.caller.tenant, parse_id(hook_id, "webhook"))
        sent = webhook_rows.notices(connection, hook.id, ROWS)
    return show("webhook", visitor, hook=hook, sent=sent)


@router.get("/workers")
def every_worker(visitor: VisitorDep, services: ServicesDep) -> Response:
    visitor.must(Scope.ADMIN)
    with services.database.connect() as connection:
        workers, waiting = worker_rows.alive(connection), worker_rows.waiting(connection, visitor.caller.tenant)
    return show("workers", visitor, workers=workers, queues=[QueueView.of(each, workers) for each in waiting])
