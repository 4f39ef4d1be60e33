"""add workers, as they speak, and the queue of each job"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "202611251230"
down_revision = "202611251200"


def upgrade() -> None:
    op.create_table(
        "workers",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("said", postgresql.JSONB(), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_workers")),
    )
    op.add_column("jobs", sa.Column("queue", sa.Text(), server_default="cpu", nullable=False))


def downgrade() -> None:
    op.drop_column("jobs", "queue")
    op.drop_table("workers")
