"""Who may call what: the caller is known before any of the body is read, and every route says which scope it needs.

Guarantees: below /v1 nothing is answered, parsed or buffered for whom the gate does not admit; an API with a route
that asks for no scope is never built (`describe`); who lacks the scope is told which.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import RouteContext, iter_route_contexts
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Connection

from app.api import failures
from app.api.deps import CallerDep
from app.domain.errors import Forbidden, Unauthenticated
from app.domain.identity import Caller, Scope
from app.identity.gate import Gate
from app.identity.sessions import CSRF_HEADER, cookie_name

PREFIX = "/v1"
PAGES = "/ui"
GUARDED = (f"{PREFIX}/", "/metrics/")
SCHEME = "key"


class GateLayer:
    """An ASGI layer: requests below /v1, and for /metrics, come through with their caller in
    `request.state.caller`, or not at all; those below /ui with the caller of their session, or with None."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        is_page = scope["type"] == "http" and scope["path"].startswith(f"{PAGES}/")
        if scope["type"] != "http" or not (is_page or f"{scope['path']}/".startswith(GUARDED)):
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            state = request.state
            state.caller = await self._visitor(request) if is_page else await self._caller(request)
        except Exception as error:  # whatever it is: the request goes no further
            answer = await failures.answer(request, error)
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _caller(self, request: Request) -> Caller:
        """By the Authorization header; by the session's cookie only where there is none."""
        headers = request.headers.getlist("authorization")
        cookie = session_cookie(request) if not headers else None
        if cookie is not None:
            token = request.headers.get(CSRF_HEADER)
            return await run_in_threadpool(self._gate.admit_session, cookie, request.method, token)
        known = self._gate.recall(headers)
        return known if known is not None else await run_in_threadpool(self._gate.admit, headers)

    async def _visitor(self, request: Request) -> Caller | None:
        """A page shows and changes nothing: whom it does not know it leads to the door."""
        try:
            cookie = session_cookie(request)
            return await run_in_threadpool(self._gate.admit_session, cookie, "GET", None) if cookie else None
        except Unauthenticated:
            return None


def session_cookie(request: Request) -> str | None:
    """By the name that it has over this scheme."""
    return request.cookies.get(cookie_name(request.url.scheme))


@dataclass(frozen=True)
class Needs:
    """A dependency: the caller has one of these scopes, or `admin`. Raises Forbidden."""

    any_of: tuple[Scope, ...]

    async def __call__(self, caller: CallerDep) -> None:
        if not caller.may(*self.any_of):
            missing = " or ".join(self.any_of)
            raise Forbidden(f"This call needs the scope {missing}: use a key that has it.", scopes=list(self.any_of))


def needs(*any_of: Scope) -> Any:
    """For a route's `dependencies`."""
    return Depends(Needs(any_of))


def scopes_of(route: RouteContext) -> tuple[Scope, ...]:
    """What the route asks for; nothing where it forgets to ask."""
    return next(_needs(route.dependant), Needs(())).any_of


def describe(app: FastAPI) -> None:
    """Make the OpenAPI document say which scopes a call needs, any one of them.

    Raises RuntimeError where a route names none: an API with such a route is never built."""
    routes = [route for route in iter_route_contexts(app.routes) if f"{route.path}/".startswith(GUARDED)]
    if open_to_all := [route.path for route in routes if not scopes_of(route)]:
        raise RuntimeError(f"These routes ask for no scope: {open_to_all}")
    document = app.openapi

    def openapi() -> dict[str, Any]:
        found = document()
        for route in routes:
            calls = found["paths"].get(route.path_format, {})
            for method in set(calls) & {name.lower() for name in route.methods or ()}:
                calls[method]["security"] = [{SCHEME: [scope]} for scope in scopes_of(route)]
        return found

    app.openapi = openapi  # type: ignore[method-assign]


def _needs(dependant: Dependant) -> Iterator[Needs]:
    for each in dependant.dependencies:
        if isinstance(each.call, Needs):
            yield each.call
