"""The public key that results are signed with, for whoever checks them."""

from __future__ import annotations

import hashlib

from fastapi import APIRouter
from pydantic import BaseModel, Field

from app.api.access import needs
from app.api.deps import ServicesDep
from app.domain.errors import NotFound
from app.domain.identity import Scope

router = APIRouter(tags=["service"], dependencies=[needs(*Scope)])


class SigningKeyView(BaseModel):
    id: str = Field(description="SHA-256 of the PEM, in hex: what a signature names its key by")
    pem: str


@router.get("/signing-key")
def show_signing_key(services: ServicesDep) -> SigningKeyView:
    """The key of what is delivered now. Get it by a way that you trust: a signature is worth that much."""
    file = services.settings.signing_public_key
    if file is None:
        raise NotFound("Results are not signed here, or the operator hands the key out: LETHE_SIGNING_PUBLIC_KEY.")
    pem = file.read_text(encoding="ascii")
    return SigningKeyView(id=hashlib.sha256(pem.encode()).hexdigest(), pem=pem)
