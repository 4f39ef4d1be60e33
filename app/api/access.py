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
from app.domain.errors import Forbidden
from app.domain.identity import Scope
from app.identity.gate import Gate

PREFIX = "/v1"
SCHEME = "key"


class GateLayer:
    """An ASGI layer: requests below /v1 come through with their caller in `request.state.caller`, or not at all."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not f"{scope['path']}/".startswith(f"{PREFIX}/"):
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            headers = request.headers.getlist("authorization")
            known = self._gate.recall(headers)
            request.state.caller = known or await run_in_threadpool(self._gate.admit, headers)
        except Exception as error:  # whatever it is: the request goes no further
            answer = await failures.answer(request, error)
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)


@dataclass(frozen=True)
class Needs:
    """A dependency: the caller has one of these scopes, or `admin`. Raises Forbidden."""

    any_of: tuple[Scope, ...]

    async def __call__(self, caller: CallerDep) -> None:
        if not any(caller.may(scope) for scope in self.any_of):
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
    routes = [route for route in iter_route_contexts(app.routes) if f"{route.path}".startswith(f"{PREFIX}/")]
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
