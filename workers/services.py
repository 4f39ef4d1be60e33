"""What a worker process works with, made once and shared by its threads."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from functools import lru_cache

from sqlalchemy import Engine

from app.settings import Settings, settings
from app.store.bucket_vault import open_vault
from app.store.database import open_database
from app.store.vault import Vault
from workers.drain import Drain
from workers.signing import SigningKey, open_key
from workers.start import Ahead


@dataclass(frozen=True, slots=True)
class Services:
    """`worker` names this process in a claim, for people who look; `signing` is the key for what is
    delivered; `drain` says when this process ends; `ahead` may have a child ready for the next request."""

    settings: Settings
    database: Engine
    vault: Vault
    worker: str
    signing: SigningKey | None = None
    drain: Drain = field(default_factory=Drain)
    ahead: Ahead = field(default_factory=Ahead)

    @property
    def actor(self) -> str:
        """This process in the audit trail."""
        return f"worker:{self.worker}"


@lru_cache(maxsize=1)
def services() -> Services:
    """Those of this process, from its environment."""
    known = settings()
    return Services(
        settings=known,
        database=open_database(known.database_url),
        vault=open_vault(known.vault, known.scratch),
        signing=open_key(known.signing_key, known.signing_public_key) if known.signing_key else None,
        worker=f"{socket.gethostname()}:{os.getpid()}",
    )
