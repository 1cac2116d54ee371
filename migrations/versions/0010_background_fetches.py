"""Model reports: progress and failure of fetching weights in the background.

Revision ID: 0010
Revises: 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("model_reports", sa.Column("download", sa.JSON(none_as_null=True)))
    op.add_column("model_reports", sa.Column("error", sa.String(500)))


def downgrade() -> None:
    op.drop_column("model_reports", "error")
    op.drop_column("model_reports", "download")
