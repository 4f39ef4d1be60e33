"""add tenants and keys: what there was belongs to the tenant `default`"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "202611250200"
down_revision = "202611231200"

TENANTED = ("uploads", "models", "samples", "jobs")
# Columns of jobs that name a row of another table.
NAMED = {"model_id": "models", "base_model_id": "models", "triggered_id": "samples", "clean_id": "samples"}


def upgrade() -> None:
    for table in TENANTED:
        op.add_column(table, sa.Column("tenant", sa.Text(), server_default="default", nullable=False))
        op.alter_column(table, "tenant", server_default=None)
    for table in ("models", "samples"):
        op.create_unique_constraint(op.f(f"uq_{table}_tenant_id"), table, ["tenant", "id"])
    for column, table in NAMED.items():
        op.drop_constraint(op.f(f"fk_jobs_{column}"), "jobs", type_="foreignkey")
        op.create_foreign_key(op.f(f"fk_jobs_tenant_{column}"), "jobs", table, ["tenant", column], ["tenant", "id"])
    op.drop_constraint(op.f("uq_jobs_idempotency_key"), "jobs", type_="unique")
    op.create_unique_constraint(op.f("uq_jobs_tenant_idempotency_key"), "jobs", ["tenant", "idempotency_key"])
    op.create_index(op.f("ix_jobs_tenant_id"), "jobs", ["tenant", "id"], unique=False)
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Uuid(), nullable=False, comment="the keyid"),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("scopes", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True, comment="to the minute"),
        sa.Column("replaced_by", sa.Uuid(), nullable=True, comment="the key that a rotation made of it"),
        sa.CheckConstraint("length(digest) = 32", name=op.f("ck_api_keys_digest")),
        sa.ForeignKeyConstraint(["replaced_by"], ["api_keys.id"], name=op.f("fk_api_keys_replaced_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
    )
    op.create_index(op.f("ix_api_keys_tenant_id"), "api_keys", ["tenant", "id"], unique=False)


def downgrade() -> None:
    """Refused by the database where two tenants used the same Idempotency-Key: it would then be one key again."""
    op.drop_table("api_keys")
    op.drop_index(op.f("ix_jobs_tenant_id"), table_name="jobs")
    op.drop_constraint(op.f("uq_jobs_tenant_idempotency_key"), "jobs", type_="unique")
    op.create_unique_constraint(op.f("uq_jobs_idempotency_key"), "jobs", ["idempotency_key"])
    for column, table in NAMED.items():
        op.drop_constraint(op.f(f"fk_jobs_tenant_{column}"), "jobs", type_="foreignkey")
        op.create_foreign_key(op.f(f"fk_jobs_{column}"), "jobs", table, [column], ["id"])
    for table in ("models", "samples"):
        op.drop_constraint(op.f(f"uq_{table}_tenant_id"), table, type_="unique")
    for table in TENANTED:
        op.drop_column(table, "tenant")
