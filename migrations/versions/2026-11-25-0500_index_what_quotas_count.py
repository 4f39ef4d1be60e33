"""index what quotas count: a tenant's uploads, and its jobs by status"""

from __future__ import annotations

from alembic import op

revision = "202611250500"
down_revision = "202611250400"


def upgrade() -> None:
    op.create_index(op.f("ix_uploads_tenant"), "uploads", ["tenant"])
    op.create_index(op.f("ix_jobs_tenant_status"), "jobs", ["tenant", "status"])


def downgrade() -> None:
    op.drop_index(op.f("ix_jobs_tenant_status"), table_name="jobs")
    op.drop_index(op.f("ix_uploads_tenant"), table_name="uploads")
