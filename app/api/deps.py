"""What every route may ask for: the process's services, and a caller with a key."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer
from sqlalchemy import Engine

from app.domain.errors import Unauthenticated
from app.domain.identity import Caller, Scope
from app.intake.receive import Receiver
from app.jobs.dispatch import Dispatcher
from app.settings import Settings
from app.store.changes import ChangeFeed
from app.store.sandbox_board import SandboxBoard
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
    sandboxes: SandboxBoard


def services(request: Request) -> Services:
    found: Services = request.app.state.services
    return found


def authenticate(request: Request) -> Caller:
    """Bearer authentication (RFC 6750), compared in constant time. Without a key nothing is answered."""
    key = services(request).settings.api_key
    scheme, _, sent = request.headers.get("authorization", "").partition(" ")
    known = key is not None and hmac.compare_digest(sent.strip().encode(), key.get_secret_value().encode())
    if scheme.lower() != "bearer" or not known:
        raise Unauthenticated("Send the API key: 'Authorization: Bearer lethe_<keyid>_<secret>'.")
    return Caller("default", "key", frozenset(Scope))


# Says in the OpenAPI document that a key is needed; `authenticate` is what asks for it.
KEY_DESCRIBED = Security(HTTPBearer(scheme_name="key", bearerFormat="lethe_<keyid>_<secret>", auto_error=False))

ServicesDep = Annotated[Services, Depends(services)]
CallerDep = Annotated[Caller, Depends(authenticate)]
