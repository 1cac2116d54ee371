"""A mark for waiting jobs known to be long: they are split when no shards of their owner are waiting.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TURN = sa.text("coalesce(served_at, created_at)")


def upgrade() -> None:
    op.add_column("jobs", sa.Column("is_long", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.drop_index("ix_jobs_turn", "jobs")
    op.create_index("ix_jobs_turn", "jobs", ["status", "owner", "is_long", TURN])


def downgrade() -> None:
    op.drop_index("ix_jobs_turn", "jobs")
    op.create_index("ix_jobs_turn", "jobs", ["status", "owner", TURN])
    op.drop_column("jobs", "is_long")
