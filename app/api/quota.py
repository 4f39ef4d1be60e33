"""What the caller's tenant may use, and uses."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from app.api.access import needs
from app.api.deps import CallerDep, ServicesDep
from app.domain.identity import Scope
from app.store import quota_rows

router = APIRouter(tags=["quota"], dependencies=[needs(*Scope)])


class Share(BaseModel):
    used: int
    limit: int


class QuotaView(BaseModel):
    """`bytes` of uploads, samples and models; `uploads` that are unfinished; `jobs` that have not ended."""

    bytes: Share
    uploads: Share
    jobs: Share


@router.get("/quota")
def show_quota(caller: CallerDep, services: ServicesDep) -> QuotaView:
    """What the tenant uses of what it may."""
    quota = services.quota
    with services.database.connect() as connection:
        used = quota_rows.usage(connection, caller.tenant)
    return QuotaView(
        bytes=Share(used=used.bytes, limit=quota.bytes),
        uploads=Share(used=used.uploads, limit=quota.uploads),
        jobs=Share(used=used.jobs, limit=quota.jobs),
    )
