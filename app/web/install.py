"""Puts the dashboard into the app: its pages below /ui, and the files that they load."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, FastAPI, Response
from fastapi.responses import RedirectResponse
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from app.domain.errors import NotFound
from app.reports.page import STYLE
from app.web import admin, jobs, models, sign_in
from app.web.screen import FIRST_PAGE, HOME, PageRoute

HERE = Path(__file__).parent
REVALIDATED = {"Cache-Control": "no-cache"}
_rest = APIRouter(route_class=PageRoute, include_in_schema=False)


class _Files(StaticFiles):
    """With a validator, so that a browser keeps them and asks whether they have changed."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        answer = await super().get_response(path, scope)
        answer.headers.update(REVALIDATED)
        return answer


async def report_style() -> Response:
    """The style that reports carry inside them."""
    return Response(STYLE, headers=REVALIDATED, media_type="text/css")


@_rest.get("/{path:path}")
async def nothing_here(path: str) -> Response:
    raise NotFound(f"There is no page '{path}'.")


def install(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    @app.get(HOME, include_in_schema=False)
    async def home() -> Response:
        return RedirectResponse(FIRST_PAGE, 303)

    for room in (sign_in, jobs, models, admin):
        app.include_router(room.router, prefix=HOME)
    app.add_api_route(f"{HOME}/static/report.css", report_style, include_in_schema=False)
    app.mount(f"{HOME}/static", _Files(directory=HERE / "static"))
    app.include_router(_rest, prefix=HOME)
