"""Wiring of the API process, and nothing else. Never imports torch or transformers: what is uploaded is only received
here; workers look inside."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator

from fastapi import Depends, FastAPI
from starlette.types import Lifespan

from app.api import artifacts, described, events, failures, health, jobs, models, samples, uploads
from app.api.bodies import BodyCap
from app.api.deps import KEY_DESCRIBED, Services, authenticate
from app.api.tus import TusLayer
from app.intake.receive import Receiver
from app.jobs.dispatch import Dispatcher
from app.settings import Settings
from app.settings import settings as read_settings
from app.store.changes import ChangeFeed
from app.store.database import open_database
from app.store.vault import Vault

# Bodies that are read piece by piece, each with limits of its own; every other one is capped before a route runs.
STREAMED = re.compile(r"(POST|PATCH) /v1/uploads(/[^/]*)?$|PUT /v1/uploads/|POST /v1/samples$")


def create_app(settings: Settings | None = None) -> FastAPI:
    """The API over the given settings, or over the environment's. Refuses to be built without an API key."""
    settings = settings or read_settings()
    if settings.api_key is None:
        raise SystemExit("Set LETHE_API_KEY (lethe_<keyid>_<secret>): the API answers nobody without a key.")
    app = create_routes(_lifespan)
    database, vault = open_database(settings.database_url), Vault(settings.vault)
    app.state.services = Services(
        settings=settings,
        database=database,
        vault=vault,
        receiver=Receiver(database, vault, settings.upload_ttl_seconds, settings.upload_max_bytes),
        dispatcher=Dispatcher(settings.redis_url),
        changes=ChangeFeed(settings.database_url),
    )
    app.add_middleware(BodyCap, settings.body_max_bytes, settings.body_grace_seconds, STREAMED)
    app.add_middleware(TusLayer, "/v1/uploads")
    return app


def create_routes(lifespan: Lifespan[FastAPI] | None = None) -> FastAPI:
    """Every route and every error of the API, without the services behind them: enough to describe it."""
    app = FastAPI(
        title="Lethe",
        version="1",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses={"default": failures.DESCRIBED},
    )
    failures.install(app)
    app.include_router(health.router)
    for room in (uploads, models, samples, jobs, events, artifacts):
        app.include_router(room.router, prefix="/v1", dependencies=[Depends(authenticate), KEY_DESCRIBED])
    described.install(app)
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    services: Services = app.state.services
    listener = asyncio.create_task(services.changes.listen())
    try:
        yield
    finally:
        listener.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await listener
        services.database.dispose()
