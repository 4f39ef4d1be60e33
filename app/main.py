"""Wiring of the API process, and nothing else. Never imports torch or transformers: what is uploaded is only received
here; workers look inside."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator

from fastapi import Depends, FastAPI
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Lifespan

from app import logs, traces
from app.api import (
    artifacts,
    described,
    events,
    failures,
    health,
    jobs,
    keys,
    metrics,
    models,
    quota,
    reports,
    samples,
    signing_key,
    uploads,
    webhooks,
    workers,
)
from app.api.access import PREFIX, GateLayer, describe
from app.api.bodies import BodyCap
from app.api.deps import KEY_DESCRIBED, Services, authenticate
from app.api.edge import EXPOSED, Edge
from app.api.polls import PollLayer
from app.api.rate_limit import RateLimit
from app.api.request_log import RequestLog
from app.api.tus import TusLayer
from app.identity.gate import Gate
from app.identity.oidc import Issuer, TokenReader
from app.intake.expire import remove_strays
from app.intake.receive import Receiver
from app.jobs.dispatch import Dispatcher
from app.settings import Settings, between_commas
from app.settings import settings as read_settings
from app.store.bucket_vault import open_vault
from app.store.changes import ChangeFeed
from app.store.database import open_database
from app.store.glance import Glance
from app.store.rate_counter import RateCounter
from app.web import install as dashboard

log = logging.getLogger(__name__)

TIDY_SECONDS = 3600.0
# Bodies that are read piece by piece, each with limits of its own; every other one is capped before a route runs.
STREAMED = re.compile(r"(POST|PATCH) /v1/uploads(/[^/]*)?$|PUT /v1/uploads/|POST /v1/samples$")


def create_app(settings: Settings | None = None) -> FastAPI:
    """The API over the given settings, or over the environment's. Refuses to be built where no caller could have a
    key: it answers nobody without one, whatever address it listens on."""
    if settings is None:
        settings = read_settings()
        logs.configure(settings.secrets())  # it is a process of its own
        traces.begin("lethe-api")
    if settings.api_key is None and settings.key_pepper is None and settings.oidc_issuer is None:
        raise SystemExit(
            "Set LETHE_API_KEY (lethe_<keyid>_<secret>) or LETHE_KEY_PEPPER: the API answers nobody without a key."
        )
    app = create_routes(_lifespan)
    database, vault = open_database(settings.database_url), open_vault(settings.vault, settings.scratch)
    app.state.services = Services(
        settings=settings,
        database=database,
        vault=vault,
        receiver=Receiver(database, vault, settings.upload_ttl_seconds, settings.upload_max_bytes, settings.quota()),
        dispatcher=Dispatcher(settings.redis_url),
        changes=ChangeFeed(settings.database_url),
        glance=Glance(settings.database_url),
        gate=(gate := _gate(settings, database)),
        quota=settings.quota(),
    )
    dashboard.install(app)
    counter = RateCounter(settings.redis_url)
    app.add_middleware(BodyCap, settings.body_max_bytes, settings.body_grace_seconds, STREAMED)
    if settings.rate_per_minute:
        app.add_middleware(RateLimit, counter, settings.rate_per_minute)
    app.add_middleware(GateLayer, gate)  # around the cap: no body is read for a stranger
    app.add_middleware(TusLayer, "/v1/uploads")
    if origins := between_commas(settings.cors_origins):
        app.add_middleware(
            CORSMiddleware, allow_origins=origins, allow_methods=failures.METHODS, allow_headers=["*"],
            expose_headers=EXPOSED,
        )  # fmt: skip
    _surround(app, settings, counter)
    return app


def _surround(app: FastAPI, settings: Settings, counter: RateCounter) -> None:
    """Put the layers that hold for every answer around also the framework's own, which answers for faults of ours."""
    build = app.build_middleware_stack
    hosts = [name.lower() for name in between_commas(settings.allowed_hosts)]
    services, most = app.state.services, settings.rate_per_minute

    def surrounded() -> ASGIApp:
        return RequestLog(
            Edge(PollLayer(traces.around(build()), services.gate, services.glance, counter, most), hosts)
        )

    app.build_middleware_stack = surrounded  # type: ignore[method-assign]


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
    app.include_router(metrics.router, dependencies=[Depends(authenticate), KEY_DESCRIBED])
    for room in (
        uploads,
        models,
        samples,
        jobs,
        events,
        reports,
        artifacts,
        keys,
        quota,
        workers,
        signing_key,
        webhooks,
    ):
        app.include_router(room.router, prefix=PREFIX, dependencies=[Depends(authenticate), KEY_DESCRIBED])
    describe(app)
    described.install(app)
    return app


def _gate(settings: Settings, database: Engine) -> Gate:
    tokens = None
    if settings.oidc_issuer is not None and settings.oidc_audience is not None:
        issuer = Issuer(
            settings.oidc_issuer, settings.oidc_audience, settings.oidc_jwks_url, settings.oidc_tenant_claim
        )
        tokens = TokenReader(issuer)
    operator_key, pepper = (
        secret.get_secret_value() if secret else None for secret in (settings.api_key, settings.key_pepper)
    )
    return Gate(database, operator_key, pepper, tokens)


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    services: Services = app.state.services
    tasks = [asyncio.create_task(each) for each in (services.changes.listen(), _tidy(services))]
    await services.glance.open()
    try:
        yield
    finally:
        await services.glance.close()
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        services.database.dispose()


async def _tidy(services: Services) -> None:
    """What uploads left on this host's scratch goes, also where no worker runs."""
    while True:
        try:
            await run_in_threadpool(remove_strays, services.database, services.vault)
        except (SQLAlchemyError, OSError) as error:
            log.warning("the scratch was not tidied: %s", type(error).__name__)
        await asyncio.sleep(TIDY_SECONDS)
