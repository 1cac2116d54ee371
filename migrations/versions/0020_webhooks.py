"""Webhooks: where a client wants to be told that a job has ended, and what they are signed with.

Revision ID: 0020
Revises: 0019
"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("webhook_url", sa.String(length=2000), nullable=True))
    op.add_column("jobs", sa.Column("webhook_events", sa.JSON(), server_default="[]", nullable=False))
    op.create_table(
        "webhook_secrets",
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("secret", sa.String(length=100), nullable=False),
        sa.Column("previous", sa.String(length=100), nullable=True),
        sa.Column("rotated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("owner", name=op.f("pk_webhook_secrets")),
    )


def downgrade() -> None:
    # The previous release has no handler for them.
    op.execute("DELETE FROM work_items WHERE kind = 'webhook'")
    op.drop_table("webhook_secrets")
    op.drop_column("jobs", "webhook_events")
    op.drop_column("jobs", "webhook_url")
