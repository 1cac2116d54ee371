"""Quotas of single keys, and repeated requests for uploads.

Revision ID: 0021
Revises: 0020
"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("quota_jobs", sa.Integer(), nullable=True))
    op.add_column("api_keys", sa.Column("quota_audio_seconds", sa.Double(), nullable=True))
    op.add_column("api_keys", sa.Column("quota_stored_bytes", sa.BigInteger(), nullable=True))
    op.add_column("uploads", sa.Column("idempotency_key", sa.String(length=255), nullable=True))
    op.add_column("uploads", sa.Column("request_hash", sa.String(length=64), nullable=True))
    op.create_index(
        op.f("ix_uploads_owner_idempotency_key"), "uploads", ["owner", "idempotency_key"], unique=True
    )


def downgrade() -> None:
    op.drop_index(op.f("ix_uploads_owner_idempotency_key"), table_name="uploads")
    for column in ("request_hash", "idempotency_key"):
        op.drop_column("uploads", column)
    for column in ("quota_stored_bytes", "quota_audio_seconds", "quota_jobs"):
        op.drop_column("api_keys", column)
