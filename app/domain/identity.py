"""Who calls, and what they may do."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from app.domain.errors import BadRequest

# The tenant of the operator's own key, and of everything that was made before there were tenants.
DEFAULT_TENANT = "default"
_TENANT = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?")


class Scope(StrEnum):
    """What a key allows. `admin` allows everything, and alone what concerns keys and tenants."""

    MODELS_WRITE = "models:write"
    SAMPLES_WRITE = "samples:write"
    JOBS_WRITE = "jobs:write"
    JOBS_READ = "jobs:read"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller. `name` says who acted, for the audit trail and the log: never a secret."""

    tenant: str
    name: str
    scopes: frozenset[Scope]

    def may(self, *any_of: Scope) -> bool:
        """Whether one of these scopes is theirs; `admin` stands for all."""
        return not self.scopes.isdisjoint({*any_of, Scope.ADMIN})


@dataclass(frozen=True, slots=True)
class KeyOrder:
    """What a key is to be. `lifetime` None: it does not expire."""

    tenant: str
    name: str
    scopes: frozenset[Scope]
    lifetime: timedelta | None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as everybody may see it: without its secret. `last_used_at` is exact to the minute; `replaced_by` is the
    key that a rotation made of this one."""

    id: UUID
    tenant: str
    name: str
    scopes: frozenset[Scope]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    replaced_by: UUID | None

    @property
    def lifetime(self) -> timedelta | None:
        return self.expires_at - self.created_at if self.expires_at else None


def is_tenant(name: object) -> bool:
    return isinstance(name, str) and _TENANT.fullmatch(name) is not None


def check_tenant(name: str) -> str:
    """The name itself. Raises BadRequest."""
    if not is_tenant(name):
        raise BadRequest(
            "A tenant is named with 1 to 63 of a-z 0-9 . _ - and begins and ends with a letter or digit."
        )
    return name
