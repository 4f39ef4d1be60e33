"""All configuration, read once from the environment: DATABASE_URL, REDIS_URL and names that start with LETHE_.

A user with a GPU or a cluster changes these and nothing else. `docs/settings.md` lists them.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

MIB = 1024 * 1024
GIB = 1024 * MIB


class Settings(BaseSettings):
    """Sizes are bytes and times are seconds."""

    model_config = SettingsConfigDict(env_prefix="LETHE_", env_ignore_empty=True, extra="ignore")

    database_url: str = Field(validation_alias="DATABASE_URL", description="PostgreSQL, postgresql://...")
    redis_url: str = Field(validation_alias="REDIS_URL", description="Celery's broker, redis://...")
    vault: Path = Field(default=Path("var/vault"), description="folder that holds every stored file")
    api_key: SecretStr | None = Field(default=None, description="the key that callers send: lethe_<keyid>_<secret>")

    upload_max_bytes: int = Field(default=16 * GIB, gt=0)
    upload_ttl_seconds: float = Field(default=24 * 3600, gt=0, description="an unfinished upload lives this long")
    samples_max_bytes: int = Field(default=64 * MIB, gt=0)
    samples_max_rows: int = Field(default=200_000, gt=0)
    body_max_bytes: int = Field(default=1 * MIB, gt=0, description="for JSON bodies")
    body_grace_seconds: float = Field(default=30, gt=0, description="a body that pauses for longer is given up")
    head_grace_seconds: float = Field(default=30, gt=0, description="a request's head that takes longer is given up")
    model_max_bytes: int = Field(default=32 * GIB, gt=0, description="of an archive, unpacked")

    lease_seconds: float = Field(
        default=30,
        gt=0,
        description="a worker's claim lasts this long without a heartbeat",
    )
    heartbeat_seconds: float = Field(default=5, gt=0)
    sweep_seconds: float = Field(default=5, gt=0, description="the sweeper's period")
    resend_seconds: float = Field(
        default=15,
        gt=0,
        description="a queued row nobody claimed is sent again after this",
    )
    max_attempts: int = Field(default=3, gt=0, description="claims before a job or a model is given up")

    worker_slots: int = Field(default=2, gt=0, description="tasks that one worker runs at a time")
    inspect_seconds: float = Field(default=600, gt=0, description="wall-clock limit of one inspection")
    inspect_memory_bytes: int = Field(default=16 * GIB, gt=0)
    job_seconds: float = Field(default=24 * 3600, gt=0, description="wall-clock limit of one job")
    torch_threads: int = Field(default=0, ge=0, description="threads of one job on the CPU; 0: one per core")
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")

    @field_validator("database_url")
    @classmethod
    def _psycopg(cls, url: str) -> str:
        return sqlalchemy_url(url)


class StandaloneSettings(BaseSettings):
    """What `python -m app.standalone` reads beside the above; it sets DATABASE_URL and REDIS_URL itself."""

    model_config = SettingsConfigDict(env_prefix="LETHE_", env_ignore_empty=True, extra="ignore")

    data: Path = Field(default=Path("var/lethe"), description="folder of the whole service")
    host: str = Field(default="127.0.0.1", description="address that the API listens on")
    port: int = Field(default=8420, ge=0, le=65535, description="0: any free port")
    api_key: SecretStr | None = Field(default=None, description="else one is made at the first start, and kept")
    vault: Path | None = Field(default=None, description="folder that holds every stored file; else one in `data`")
    worker_slots: int = Field(default=2, gt=0, description="tasks that the worker runs at a time")


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The process's settings. Raises pydantic's ValidationError, which names each variable that is wrong."""
    return Settings.model_validate({})


def sqlalchemy_url(url: str) -> str:
    """SQLAlchemy's name for PostgreSQL through psycopg 3, whatever form of the scheme came in."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.split("+")[0] not in ("postgresql", "postgres"):
        raise ValueError("DATABASE_URL must name a PostgreSQL database: postgresql://user:password@host/name")
    return f"postgresql+psycopg://{rest}"
