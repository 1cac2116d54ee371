"""Progress of a job's checkpoint download. Nullable: workers that do not know the column leave it alone.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("download", sa.JSON()))


def downgrade() -> None:
    op.drop_column("jobs", "download")
