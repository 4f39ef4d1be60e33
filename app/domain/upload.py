"""An upload: bytes that arrive in one or more requests and end up in the vault under their SHA-256."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

# What Upload-Concat says: a part, or the addresses of the parts behind this word.
PARTIAL, FINAL = "partial", "final;"


@dataclass(frozen=True, slots=True)
class Upload:
    """`received` of `length` bytes are safely on disk. `metadata` and `concat` are tus headers as they came. `sha256`
    names the object in the vault; it exists once the last byte was stored, and then `received == length`."""

    id: UUID
    tenant: str
    name: str
    length: int
    received: int
    sha256: str | None
    metadata: str
    concat: str
    expires_at: datetime
    created_at: datetime

    @property
    def finished(self) -> bool:
        return self.sha256 is not None

    @property
    def joined(self) -> bool:
        """From parts: it takes no bytes of its own."""
        return self.concat.startswith(FINAL)


@dataclass(frozen=True, slots=True)
class Checksum:
    """What the caller says the bytes hash to. `algorithm` is a name that hashlib knows."""

    algorithm: str
    digest: bytes
