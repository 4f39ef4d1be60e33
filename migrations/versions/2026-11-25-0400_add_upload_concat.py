"""add what an upload is to others: a part of one, or joined from parts"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "202611250400"
down_revision = "202611250300"


def upgrade() -> None:
    comment = "the Upload-Concat header, as it came"
    op.add_column("uploads", sa.Column("concat", sa.Text(), server_default="", nullable=False, comment=comment))


def downgrade() -> None:
    op.drop_column("uploads", "concat")
