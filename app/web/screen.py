"""How the dashboard's pages are made: templates, the signed-in visitor, failures as pages, and what a page may load.

Guarantees: nothing comes from another site and no script or style stands inside a page (`POLICY`); whatever came from
outside is escaped; who is not signed in sees the door and nothing else; a failure is a page with the status, the
words and the headers that the API would answer with.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Protocol, TypeVar
from urllib.parse import quote
from uuid import UUID

from fastapi import Depends, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from sqlalchemy import Connection

from app.api import failures
from app.api.access import session_cookie
from app.api.deps import Services, ServicesDep
from app.domain.errors import Forbidden, Unauthenticated
from app.domain.identity import Caller, Scope
from app.domain.ids import parse_id
from app.reports import page

HOME = "/ui"
FIRST_PAGE = f"{HOME}/jobs"
SIGN_IN = f"{HOME}/sign-in"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
ROWS = 25  # of a list on one page


class _Row(Protocol):
    @property
    def id(self) -> UUID: ...


R = TypeVar("R", bound=_Row)
Page = Callable[[Connection, str, int, UUID | None], Sequence[R]]  # of a tenant, so many, from the one before on

_templates = Environment(
    loader=ChoiceLoader([PackageLoader("app.web"), page.TEMPLATES]),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def _moment(at: datetime | None) -> str:
    return "-" if at is None else at.strftime("%Y-%m-%d %H:%M:%S")


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"


_templates.filters |= {"moment": _moment, "size": _size}


@dataclass(frozen=True, slots=True)
class Visitor:
    """Somebody who is signed in. `token` goes with every change that a page asks for."""

    caller: Caller
    token: str

    @property
    def is_admin(self) -> bool:
        return self.caller.may(Scope.ADMIN)

    def must(self, *any_of: Scope) -> None:
        """Raises Forbidden."""
        if not self.caller.may(*any_of):
            raise Forbidden(f"This page needs the scope {' or '.join(any_of)}: sign in with a key that has it.")


async def visitor(request: Request, services: ServicesDep) -> Visitor:
    """Whom the gate knows by the session's cookie. Raises Unauthenticated."""
    cookie, caller = session_cookie(request), request.state.caller
    if cookie is None or caller is None:
        raise Unauthenticated("Sign in first.")
    return Visitor(caller, services.gate.sessions.csrf_token(cookie))


VisitorDep = Annotated[Visitor, Depends(visitor)]


class PageRoute(APIRoute):
    """A route whose failures are pages; who is not signed in is led to the door and, from there, back."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        made = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await made(request)
            except Unauthenticated:
                back = f"{request.url.path}?{request.url.query}" if request.url.query else request.url.path
                return RedirectResponse(f"{SIGN_IN}?next={quote(back, safe='')}", 303)
            except Exception as error:  # whatever it is: a page says what the API would
                return _failure(await failures.answer(request, error))

        return handle


def _failure(told: Response) -> Response:
    problem = json.loads(bytes(told.body))
    headers = {name: value for name, value in told.headers.items() if not name.startswith("content-")}
    return show("problem", None, told.status_code, headers, problem=problem)


def listed(
    visitor: Visitor, services: Services, fetch: Page[R], after: str | None, what: str
) -> tuple[Sequence[R], UUID | None]:
    """One page of the tenant's rows that follow `after`, the id of a `what`; and the last where more follow."""
    last = parse_id(after, what) if after is not None else None
    with services.database.connect() as connection:
        found = fetch(connection, visitor.caller.tenant, ROWS + 1, last)
    rows = found[:ROWS]
    return rows, rows[-1].id if len(found) > ROWS else None


def show(
    name: str,
    visitor: Visitor | None,
    status: int = 200,
    headers: dict[str, str] | None = None,
    /,
    **words: Any,
) -> Response:
    """The page made of one template."""
    text = _templates.get_template(f"{name}.html.j2").render(visitor=visitor, **words)
    return HTMLResponse(text, status, {"Content-Security-Policy": POLICY, **(headers or {})})
