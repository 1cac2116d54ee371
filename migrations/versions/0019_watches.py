"""Periods in which a scheduler watched storage; recordings that are removed before their jobs.

Revision ID: 0019
Revises: 0018
"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "watches",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_watches")),
    )
    op.add_column("jobs", sa.Column("upload_removed_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("workers", sa.Column("draining_since", sa.DateTime(timezone=True), nullable=True))
    op.add_column("workers", sa.Column("started_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("workers", "started_at")
    op.drop_column("workers", "draining_since")
    op.drop_column("jobs", "upload_removed_at")
    op.drop_table("watches")
