"""Uploads in parts, and recordings that several jobs share.

Revision ID: 0017
Revises: 0016
"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "uploads",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=True),
        sa.Column("content_type", sa.String(length=128), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("part_size", sa.Integer(), nullable=False),
        sa.Column("token", sa.String(length=2048), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("verifying_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uploads")),
    )
    op.create_index(op.f("ix_uploads_expires_at"), "uploads", ["expires_at"])
    op.add_column("jobs", sa.Column("recording_id", sa.Uuid(), nullable=True))
    op.create_index(op.f("ix_jobs_recording_id"), "jobs", ["recording_id"])


def downgrade() -> None:
    op.drop_index(op.f("ix_jobs_recording_id"), "jobs")
    op.drop_column("jobs", "recording_id")
    op.drop_table("uploads")
    # The previous release has no handler for them; their jobs end when they expire.
    op.execute("DELETE FROM work_items WHERE kind = 'fetch_url'")
