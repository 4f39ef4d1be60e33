"""All configuration, read once from the environment: DATABASE_URL, REDIS_URL and names that start with LETHE_.

A user with a GPU or a cluster changes these and nothing else. `docs/settings.md` lists them.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import unquote, urlsplit

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.domain.confinement import NONE, named_layers
from app.domain.quota import Quota
from app.domain.worker import Queue, QueueSizes

MIB = 1024 * 1024
GIB = 1024 * MIB
SHORTEST_SECRET = 20
STORE_SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")  # read by the client of an S3 vault itself
SHORTEST_PEPPER = 32


_BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]+(/[A-Za-z0-9._-]+)*")
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\[\]:-]+")


def vault_address(given: Path | str) -> Path | str:
    """A folder, or s3://bucket/prefix as it is. Raises ValueError for what is meant as the latter and is none."""
    if isinstance(given, Path) or not given.startswith("s3:"):
        return Path(given)
    if not _BUCKET.fullmatch(given):
        raise ValueError("name a folder, or a bucket as s3://bucket or s3://bucket/prefix")
    return given


VaultAddress = Annotated[Path | str, BeforeValidator(vault_address)]


class InspectionSettings(BaseSettings):
    """What one inspection may take: all that `lethe scan` reads. Sizes are bytes and times are seconds."""

    model_config = SettingsConfigDict(env_prefix="LETHE_", env_ignore_empty=True, extra="ignore")

    model_max_bytes: int = Field(default=32 * GIB, gt=0, description="of an archive, unpacked")
    inspect_seconds: float = Field(default=600, gt=0, description="wall-clock limit of one inspection")
    inspect_memory_bytes: int = Field(default=16 * GIB, gt=0)
    sandbox_without: str = Field(default=NONE, description="layers of the sandbox to go without, by comma")

    @property
    def sandbox_gone_without(self) -> frozenset[str]:
        return named_layers(self.sandbox_without)

    @field_validator("sandbox_without")
    @classmethod
    def _layers_that_exist(cls, names: str) -> str:
        named_layers(names)
        return names


class Settings(InspectionSettings):
    """Sizes are bytes and times are seconds."""

    database_url: str = Field(validation_alias="DATABASE_URL", description="PostgreSQL, postgresql://...")
    redis_url: str = Field(validation_alias="REDIS_URL", description="Celery's broker, redis://...")
    vault: VaultAddress = Field(
        default=Path("var/vault"), description="folder that holds every stored file, or s3://bucket/prefix"
    )
    scratch: Path | None = Field(default=None, description="folder of this host for what arrives and for runs")
    api_key: SecretStr | None = Field(
        default=None, min_length=SHORTEST_SECRET, description="the operator's key: tenant `default`, every scope"
    )
    key_pepper: SecretStr | None = Field(
        default=None, min_length=SHORTEST_PEPPER, description="what the digests of all other keys are made with"
    )
    webhook_key: SecretStr | None = Field(
        default=None, min_length=SHORTEST_PEPPER, description="what the secrets of webhooks are sealed with"
    )
    webhook_networks: str = Field(default="none", description="networks beside the Internet that webhooks may reach")
    webhook_seconds: float = Field(default=2, gt=0, description="how often a worker looks for what is to be told")
    signing_key: str | None = Field(
        default=None, description="signs what is delivered: a PEM file, or the URI of a key in a KMS"
    )
    signing_public_key: Path | None = Field(
        default=None, description="its public half as a PEM file: what GET /v1/signing-key tells"
    )
    oidc_issuer: str | None = Field(default=None, description="who makes the tokens that are taken beside keys")
    oidc_audience: str | None = Field(default=None, description="what their `aud` must name")
    oidc_jwks_url: str | None = Field(default=None, description="the issuer's keys; else its discovery tells")
    oidc_tenant_claim: str = Field(default="tenant", min_length=1, description="the claim that names the tenant")

    trusted_proxies: str = Field(
        default="none",
        description="addresses and networks, between commas, whose X-Forwarded-Proto and -For are believed",
    )
    metrics_port: int | None = Field(default=None, ge=1, le=65535, description="a worker's metrics; None: not served")
    metrics_host: str = Field(default="127.0.0.1", description="the address that they are served at")

    allowed_hosts: str = Field(default="*", description="names that Host may have, between commas; *: any")
    cors_origins: str = Field(default="none", description="origins whose pages may call, between commas")

    upload_max_bytes: int = Field(default=16 * GIB, gt=0)
    upload_ttl_seconds: float = Field(default=24 * 3600, gt=0, description="an unfinished upload lives this long")
    samples_max_bytes: int = Field(default=64 * MIB, gt=0)
    samples_max_rows: int = Field(default=200_000, gt=0)
    body_max_bytes: int = Field(default=1 * MIB, gt=0, description="for JSON bodies")
    body_grace_seconds: float = Field(default=30, gt=0, description="a body that pauses for longer is given up")
    rate_per_minute: int = Field(default=6000, ge=0, description="requests of one key; 0: not counted")
    tenant_bytes: int = Field(default=256 * GIB, gt=0, description="what one tenant may store")
    tenant_uploads: int = Field(default=1000, gt=0, description="unfinished uploads of one tenant")
    tenant_jobs: int = Field(default=10_000, gt=0, description="jobs of one tenant that have not ended")
    tenant_running_jobs: int = Field(default=0, ge=0, description="of these, how many run at a time; 0: no bound")
    head_grace_seconds: float = Field(default=30, gt=0, description="a request's head that takes longer is given up")

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
    max_attempts: int = Field(
        default=3, gt=0, description="claims since its last resume point before a job (or a model) is given up"
    )
    retain_jobs_seconds: float = Field(
        default=0, ge=0, description="a job that has ended is deleted after this, with what it delivered; 0: never"
    )
    collect_after_seconds: float = Field(
        default=24 * 3600, gt=0, description="a stored file that nothing speaks of any more goes after this"
    )
    scrub_seconds: float = Field(
        default=7 * 24 * 3600, gt=0, description="every stored file is read against its hash this often"
    )

    worker_slots: int = Field(default=2, gt=0, description="tasks that one worker runs at a time")
    queues: str = Field(default="cpu,gpu,large", description="the queues that a worker serves, between commas")
    gpu_bytes: int = Field(default=2 * GIB, gt=0, description="a model with more bytes of weights is for queue gpu")
    large_bytes: int = Field(default=16 * GIB, gt=0, description="one with more than this is for queue large")
    drain_seconds: float = Field(
        default=20, ge=0, description="a worker that is stopped gives its jobs so long to end, then hands them back"
    )
    job_seconds: float = Field(default=24 * 3600, gt=0, description="wall-clock limit of one job")
    start_ahead: bool = Field(
        default=True, description="a worker keeps a child ready for its next request; it holds half a GB of memory"
    )
    torch_threads: int = Field(default=0, ge=0, description="threads of one job on the CPU; 0: one per core")
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda|cuda:\d+(,cuda:\d+)*)$")

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, text: str) -> str:
        if any(not _ORIGIN.fullmatch(origin) for origin in between_commas(text)):
            raise ValueError("name origins as https://host or https://host:port, between commas, or none")
        return text

    @field_validator("queues")
    @classmethod
    def _queues_that_exist(cls, names: str) -> str:
        known = tuple(Queue)
        if not (asked := between_commas(names)) or any(name not in known for name in asked):
            raise ValueError(f"name one or more of {', '.join(known)}, between commas")
        return names

    @property
    def served_queues(self) -> tuple[str, ...]:
        return tuple(between_commas(self.queues))

    @property
    def queue_sizes(self) -> QueueSizes:
        return QueueSizes(self.gpu_bytes, self.large_bytes)

    def quota(self) -> Quota:
        return Quota(self.tenant_bytes, self.tenant_uploads, self.tenant_jobs, self.tenant_running_jobs)

    def secrets(self) -> list[str]:
        """What must never be shown: the secrets themselves, and the passwords inside URLs."""
        given = [value.get_secret_value() for _, value in self if isinstance(value, SecretStr)]
        given += filter(None, (os.environ.get(name) for name in STORE_SECRETS))
        passwords = [urlsplit(url).password or "" for url in (self.database_url, self.redis_url)]
        return [each for password in passwords for each in (password, unquote(password))] + given

    @field_validator("database_url")
    @classmethod
    def _psycopg(cls, url: str) -> str:
        return sqlalchemy_url(url)

    @field_validator("oidc_issuer", "oidc_jwks_url")
    @classmethod
    def _trusted(cls, url: str | None) -> str | None:
        if url is not None and not trusted_url(url):
            raise ValueError("it must be an https:// address (http:// only on the loopback address)")
        return url

    @model_validator(mode="after")
    def _whole_issuer(self) -> Self:
        if (self.oidc_issuer is None) != (self.oidc_audience is None):
            raise ValueError("LETHE_OIDC_ISSUER and LETHE_OIDC_AUDIENCE come together")
        return self


class StandaloneSettings(BaseSettings):
    """What `python -m app.standalone` reads beside the above; it sets DATABASE_URL and REDIS_URL itself."""

    model_config = SettingsConfigDict(env_prefix="LETHE_", env_ignore_empty=True, extra="ignore")

    data: Path = Field(default=Path("var/lethe"), description="folder of the whole service")
    host: str = Field(default="127.0.0.1", description="address that the API listens on")
    port: int = Field(default=8420, ge=0, le=65535, description="0: any free port")
    api_key: SecretStr | None = Field(default=None, description="else one is made at the first start, and kept")
    key_pepper: SecretStr | None = Field(default=None, description="else one is made at the first start, and kept")
    vault: VaultAddress | None = Field(default=None, description="as below; else a folder in `data`")
    worker_slots: int = Field(default=2, gt=0, description="tasks that the worker runs at a time")


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The process's settings. Raises pydantic's ValidationError, which names each variable that is wrong."""
    return Settings.model_validate({})


def trusted_url(url: str) -> bool:
    """Whether what is read there cannot be changed on the way: TLS, or this very machine."""
    parts = urlsplit(url)
    return (parts.scheme == "https" and bool(parts.hostname)) or (
        parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost")
    )


def sqlalchemy_url(url: str) -> str:
    """SQLAlchemy's name for PostgreSQL through psycopg 3, whatever form of the scheme came in."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.split("+")[0] not in ("postgresql", "postgres"):
        raise ValueError("DATABASE_URL must name a PostgreSQL database: postgresql://user:password@host/name")
    return f"postgresql+psycopg://{rest}"


def between_commas(text: str) -> list[str]:
    """The words of a list; nothing of `none`."""
    words = [word.strip() for word in text.split(",")]
    return [word for word in words if word and word != "none"]
