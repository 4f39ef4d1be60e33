"""An upload: bytes that arrive in one or more requests and end up in the vault under their SHA-256."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Upload:
    """`received` of `length` bytes are safely on disk. `metadata` is the tus header as it came. `sha256` names the
    object in the vault; it exists once the last byte was stored, and then `received == length`."""

    id: UUID
    tenant: str
    name: str
    length: int
    received: int
    sha256: str | None
    metadata: str
    expires_at: datetime
    created_at: datetime

    @property
    def finished(self) -> bool:
        return self.sha256 is not None


@dataclass(frozen=True, slots=True)
class Checksum:
    """What the caller says the bytes hash to. `algorithm` is a name that hashlib knows."""

    algorithm: str
    digest: bytes
