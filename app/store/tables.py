"""The tables. The schema is made by `migrations/`; a test holds the two against each other."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _created() -> Column[object]:
    return Column(
        "created_at",
        DateTime(timezone=True),
        nullable=False,
        server_default=func.clock_timestamp(),
    )


def _tenant() -> Column[object]:
    return Column("tenant", Text, nullable=False)


# A resumable upload. `received` never passes what is on disk; `sha256` is set when the last byte is in the vault.
uploads = Table(
    "uploads",
    metadata,
    Column("id", Uuid, primary_key=True),
    _tenant(),
    Column("name", Text, nullable=False),
    Column("length", BigInteger, nullable=False),
    Column("received", BigInteger, nullable=False, server_default="0"),
    Column("sha256", Text),
    Column(
        "metadata",
        Text,
        nullable=False,
        server_default="",
        comment="the Upload-Metadata header, as it came",
    ),
    Column(
        "concat",
        Text,
        nullable=False,
        server_default="",
        comment="the Upload-Concat header, as it came",
    ),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    _created(),
    CheckConstraint("received >= 0 AND received <= length", name="received_within_length"),
    CheckConstraint("(received = length) = (sha256 IS NOT NULL)", name="finished"),
    Index(None, "tenant"),
    Index(None, "expires_at"),
)

models = Table(
    "models",
    metadata,
    Column("id", Uuid, primary_key=True),
    _tenant(),
    Column("name", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("source", JSONB, nullable=False),
    Column("digest", Text),
    Column("manifest", JSONB),
    Column("facts", JSONB),
    Column("findings", JSONB, nullable=False, server_default="[]"),
    Column("metadata", JSONB, nullable=False, server_default="{}"),
    Column("token", BigInteger, nullable=False, server_default="0"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("lease_until", DateTime(timezone=True)),
    Column("sent_at", DateTime(timezone=True)),
    _created(),
    Column("inspected_at", DateTime(timezone=True)),
    CheckConstraint("status IN ('inspecting', 'admitted', 'rejected')", name="status"),
    CheckConstraint(
        "status <> 'admitted' OR (digest IS NOT NULL AND manifest IS NOT NULL AND facts IS NOT NULL)",
        name="admitted",
    ),
    UniqueConstraint("tenant", "id"),
    Index(None, "digest"),
    Index(
        "ix_models_inspecting",
        "created_at",
        postgresql_where=text("status = 'inspecting'"),
    ),
)

# A set of samples, kept in the vault as JSONL that Lethe wrote itself (`sha256`).
samples = Table(
    "samples",
    metadata,
    Column("id", Uuid, primary_key=True),
    _tenant(),
    Column("name", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("rows", Integer, nullable=False),
    Column(
        "summary",
        JSONB,
        nullable=False,
        comment="counts by label, optional columns present, preview",
    ),
    _created(),
    CheckConstraint("kind IN ('triggered', 'clean')", name="kind"),
    UniqueConstraint("tenant", "id"),
)

# What a job names is of its own tenant: the foreign keys hold the tenant too.
jobs = Table(
    "jobs",
    metadata,
    Column("id", Uuid, primary_key=True),
    _tenant(),
    Column("status", Text, nullable=False),
    Column("phase", Text),
    Column("progress", Double, nullable=False, server_default="0"),
    Column("version", BigInteger, nullable=False, server_default="0"),
    Column("token", BigInteger, nullable=False, server_default="0"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("queue", Text, nullable=False, server_default="cpu"),
    Column(
        "lease_until",
        DateTime(timezone=True),
        comment="nobody else may claim the job before; of a queued job: when its next try may begin",
    ),
    Column("worker", Text),
    Column("sent_at", DateTime(timezone=True)),
    Column("model_id", Uuid, nullable=False),
    Column("base_model_id", Uuid),
    Column("triggered_id", Uuid, nullable=False),
    Column("clean_id", Uuid, nullable=False),
    Column("method", Text, nullable=False),
    Column("recipe", JSONB, nullable=False),
    Column("policy", JSONB, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("metadata", JSONB, nullable=False, server_default="{}"),
    Column("idempotency_key", Text),
    Column("request_sha256", Text, nullable=False),
    Column("verdict", Text),
    Column("failure", JSONB),
    Column("report", JSONB),
    Column("artifact", JSONB, comment="the manifest of the delivered files"),
    _created(),
    Column(
        "updated_at",
        DateTime(timezone=True),
        nullable=False,
        server_default=func.clock_timestamp(),
    ),
    Column("started_at", DateTime(timezone=True)),
    Column("finished_at", DateTime(timezone=True)),
    CheckConstraint(
        "status IN ('queued', 'running', 'cancelling', 'succeeded', 'failed', 'cancelled', 'quarantined')",
        name="status",
    ),
    CheckConstraint(
        "status <> 'succeeded' OR (report IS NOT NULL AND artifact IS NOT NULL)",
        name="delivered",
    ),
    CheckConstraint("progress >= 0 AND progress <= 1", name="progress"),
    ForeignKeyConstraint(["tenant", "model_id"], ["models.tenant", "models.id"]),
    ForeignKeyConstraint(["tenant", "base_model_id"], ["models.tenant", "models.id"]),
    ForeignKeyConstraint(["tenant", "triggered_id"], ["samples.tenant", "samples.id"]),
    ForeignKeyConstraint(["tenant", "clean_id"], ["samples.tenant", "samples.id"]),
    UniqueConstraint("tenant", "idempotency_key"),
    Index(None, "tenant", "id"),
    Index(None, "tenant", "status"),
    Index(None, "model_id"),
    Index("ix_jobs_status", "status", "id"),
    Index(
        "ix_jobs_open",
        "lease_until",
        postgresql_where=text("status IN ('queued', 'running', 'cancelling')"),
    ),
)

# The history of a job: status and phase changes and per-step metrics, in one numbered line.
# `seq` is taken from jobs.version under the job's row lock, so it has no holes that fill in later.
job_events = Table(
    "job_events",
    metadata,
    Column("job_id", Uuid, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column(
        "at",
        DateTime(timezone=True),
        nullable=False,
        server_default=func.clock_timestamp(),
    ),
    Column("kind", Text, nullable=False),
    Column(
        "step",
        Integer,
        comment="of a metric: its key, so that a batch written again is not doubled",
    ),
    Column("data", JSONB, nullable=False),
    CheckConstraint("kind IN ('status', 'phase', 'metric')", name="kind"),
    CheckConstraint("(kind = 'metric') = (step IS NOT NULL)", name="step"),
    Index(
        "uq_job_events_job_id_step",
        "job_id",
        "step",
        unique=True,
        postgresql_where=text("step IS NOT NULL"),
    ),
)

# States of a running job to go on from, the newest two; none of a job that has ended.
resume_points = Table(
    "resume_points",
    metadata,
    Column("job_id", Uuid, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("step", Integer, primary_key=True, autoincrement=False),
    Column("manifest", JSONB, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
)

# How far a walk through the vault is: `position` is the last object that it came to, empty where it is over.
vault_walks = Table(
    "vault_walks",
    metadata,
    Column("name", Text, primary_key=True),
    Column("position", Text, nullable=False),
    Column("began_at", DateTime(timezone=True), nullable=False),
)

# Workers that spoke lately, and what they said of themselves.
workers = Table(
    "workers",
    metadata,
    Column("name", Text, primary_key=True),
    Column("said", JSONB, nullable=False),
    Column("seen_at", DateTime(timezone=True), nullable=False),
)

# A key of a caller. `digest` is what is left of it (app.identity.api_keys); the key itself was shown once.
api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Uuid, primary_key=True, comment="the keyid"),
    _tenant(),
    Column("name", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("scopes", JSONB, nullable=False),
    _created(),
    Column("expires_at", DateTime(timezone=True)),
    Column("revoked_at", DateTime(timezone=True)),
    Column("last_used_at", DateTime(timezone=True), comment="to the minute"),
    Column("replaced_by", Uuid, ForeignKey("api_keys.id"), comment="the key that a rotation made of it"),
    CheckConstraint("length(digest) = 32", name="digest"),
    Index(None, "tenant", "id"),
)

# Who did what: a chain of hashes (app.domain.audit). A trigger of the migration refuses every change but an insert.
audit = Table(
    "audit",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("at", DateTime(timezone=True), nullable=False),
    _tenant(),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("details", JSONB, nullable=False),
    Column("previous", Text, nullable=False),
    Column("hash", Text, nullable=False),
    CheckConstraint("length(previous) = 64 AND length(hash) = 64", name="hashes"),
)

# Who is told of what. `position` is the last entry of the audit trail that was looked at; the secrets are sealed.
webhooks = Table(
    "webhooks",
    metadata,
    Column("id", Uuid, primary_key=True),
    _tenant(),
    Column("url", Text, nullable=False),
    Column("events", JSONB, nullable=False),
    Column("secret", LargeBinary, nullable=False),
    Column("old_secret", LargeBinary),
    Column("old_until", DateTime(timezone=True)),
    Column("disabled", Text),
    Column("position", BigInteger, nullable=False),
    _created(),
    Index(None, "tenant", "id"),
)

# One event on its way to one webhook; `seq` is its entry in the audit trail. While it is being sent, `next_at` lies
# ahead: whoever sends it has until then.
notices = Table(
    "notices",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("webhook_id", Uuid, ForeignKey("webhooks.id", ondelete="CASCADE"), nullable=False),
    Column("seq", BigInteger),
    Column("type", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("status", Text, nullable=False, server_default="waiting"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("answer", Integer),
    Column("trouble", Text),
    Column("next_at", DateTime(timezone=True)),
    _created(),
    CheckConstraint("status IN ('waiting', 'delivered', 'failed')", name="status"),
    UniqueConstraint("webhook_id", "seq"),
    Index("ix_notices_due", "next_at", postgresql_where=text("status = 'waiting'")),
)
