"""In and out: a person shows a key once, and the browser keeps a cookie that no script can read.

Guarantees: only a page of this very site may sign somebody in or out (by Sec-Fetch-Site, or by Origin where a browser
does not send that); after signing in nobody is led to another site.
"""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import parse_qs, urlsplit

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse

from app.api.deps import ServicesDep
from app.domain.errors import Forbidden, Unauthenticated
from app.identity.sessions import LIFETIME_SECONDS, cookie_name
from app.web.screen import FIRST_PAGE, HOME, SIGN_IN, PageRoute, show

router = APIRouter(route_class=PageRoute, include_in_schema=False)

_INSIDE = re.compile(rf"{HOME}/[A-Za-z0-9/_.-]*(\?[A-Za-z0-9=&_.%-]*)?")
Next = Annotated[str, Query(alias="next", max_length=2000)]


@router.get("/sign-in")
async def door(after: Next = FIRST_PAGE) -> Response:
    return show("sign_in", None, after=_inside(after), wrong=False)


@router.post("/sign-in")
async def sign_in(request: Request, services: ServicesDep, after: Next = FIRST_PAGE) -> Response:
    _same_site(request)
    form = parse_qs((await request.body()).decode("ascii", "replace"))
    try:
        cookie = await run_in_threadpool(services.gate.sign_in, form.get("key", [""])[0].strip())
    except Unauthenticated:
        return show("sign_in", None, 401, after=_inside(after), wrong=True)
    answer = RedirectResponse(_inside(after), 303)
    _keep(request, answer, cookie)
    return answer


@router.post("/sign-out")
async def sign_out(request: Request) -> Response:
    _same_site(request)
    answer = RedirectResponse(SIGN_IN, 303)
    answer.delete_cookie(
        cookie_name(request.url.scheme), httponly=True, samesite="strict", secure=request.url.scheme == "https"
    )
    return answer


def _keep(request: Request, answer: Response, cookie: str) -> None:
    scheme = request.url.scheme
    answer.set_cookie(
        cookie_name(scheme), cookie, LIFETIME_SECONDS, httponly=True, samesite="strict", secure=scheme == "https"
    )


def _same_site(request: Request) -> None:
    """Raises Forbidden for a form of another site (OWASP: CSRF prevention, verifying origin)."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        is_ours = site == "same-origin"
    else:
        is_ours = origin is not None and urlsplit(origin).netloc == request.headers.get("host")
    if not is_ours:
        raise Forbidden("Sign in from the service's own page.")


def _inside(after: str) -> str:
    return after if _INSIDE.fullmatch(after) else FIRST_PAGE
