"""What every route may ask for: the process's services, and the caller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer
from sqlalchemy import Engine

from app.domain.errors import Unauthenticated
from app.domain.identity import Caller
from app.domain.quota import Quota
from app.identity.gate import Gate
from app.intake.receive import Receiver
from app.jobs.dispatch import Dispatcher
from app.settings import Settings
from app.store.changes import ChangeFeed
from app.store.glance import Glance
from app.store.vault import Vault


@dataclass(frozen=True, slots=True)
class Services:
    """Made once by `create_app`; lives as long as the process."""

    settings: Settings
    database: Engine
    vault: Vault
    receiver: Receiver
    dispatcher: Dispatcher
    changes: ChangeFeed
    glance: Glance
    gate: Gate
    quota: Quota


async def services(request: Request) -> Services:
    """Asynchronous, for anything else would be called in a thread."""
    found: Services = request.app.state.services
    return found


async def authenticate(request: Request) -> Caller:
    """The caller whom `access.GateLayer` let in. Closed where that layer is missing."""
    caller = getattr(request.state, "caller", None)
    if not isinstance(caller, Caller):
        raise Unauthenticated("Nobody is known here without the gate.")
    return caller


# Says in the OpenAPI document that a key is needed; `authenticate` is what asks for it.
KEY_DESCRIBED = Security(
    HTTPBearer(
        scheme_name="key",
        bearerFormat="lethe_<keyid>_<secret>",
        description="An API key, or a token of the configured OpenID Connect issuer. Each call lists the scopes of "
        "which it needs one; `admin` stands for all.",
        auto_error=False,
    )
)

ServicesDep = Annotated[Services, Depends(services)]
CallerDep = Annotated[Caller, Depends(authenticate)]
