"""Level-triggered announcements: the time of the last announcement is no longer needed.

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_column("shards", "rung_at")
    op.drop_column("jobs", "rung_at")


def downgrade() -> None:
    for table in ("jobs", "shards"):
        op.add_column(table, sa.Column("rung_at", sa.DateTime(timezone=True)))
