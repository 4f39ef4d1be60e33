"""Is the process alive, and can it do its work? Answered without a key, and without telling more than that."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app.api.deps import Services, ServicesDep
from app.api.failures import RETRY_AFTER_SECONDS, problem
from app.domain.confinement import Confinement
from app.domain.errors import DependencyDown, SandboxUnavailable
from app.store import worker_rows
from app.store.database import ping

router = APIRouter(tags=["health"])


@router.get("/livez")
async def livez() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/version")
def show_version() -> dict[str, str]:
    return {"name": "lethe", "version": version("lethe"), "api": "v1"}


@router.get("/readyz")
def readyz(services: ServicesDep) -> JSONResponse:
    """200 when every part can work; else 503 with the names of those that cannot.

    `sandboxes` says what the workers that spoke lately are confined by. While none has, `sandbox` is no part: uploads
    and jobs are taken all the same, and wait."""
    checks: dict[str, Callable[[Services], object]] = {
        "database": lambda s: ping(s.database),
        "redis": lambda s: s.dispatcher.ping(),
        "storage": lambda s: s.vault.check(),
    }
    parts = {name: _answers(check, services) for name, check in checks.items()}
    found = _sandboxes(services)
    told: dict[str, object] = {"parts": parts}
    if found:
        parts["sandbox"] = any(each.holds for each in found)
        told["sandboxes"] = [each.to_dict() for each in found]
    missing = [name for name, fine in parts.items() if not fine]
    if not missing:
        return JSONResponse({"status": "ok"} | told)
    lack = "" if parts.get("sandbox", True) else f" {found[0].lack()}"
    code = SandboxUnavailable.code if missing == ["sandbox"] else DependencyDown.code
    detail = f"Not ready: {', '.join(missing)}.{lack}"
    return problem(503, code, detail, {"Retry-After": str(RETRY_AFTER_SECONDS)}, members=told)


def _sandboxes(services: Services) -> list[Confinement]:
    """None while the database does not answer."""
    try:
        with services.database.connect() as connection:
            return worker_rows.sandboxes(connection)
    except (DBAPIError, PoolTimeout):
        return []


def _answers(check: Callable[[Services], object], services: Services) -> bool:
    try:
        check(services)
    except Exception:  # whatever the reason, this part is not ready
        return False
    return True
