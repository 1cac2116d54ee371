"""Jobs, their attempts, model reports of workers, and prefixes to remove from storage.

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("phase", sa.String(32)),
        sa.Column("model", sa.String(64), nullable=False),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("client_metadata", sa.JSON(), nullable=False),
        sa.Column("filename", sa.String(255)),
        sa.Column("upload_key", sa.String(255), nullable=False),
        sa.Column("upload_bytes", sa.BigInteger(), nullable=False),
        sa.Column("idempotency_key", sa.String(255)),
        sa.Column("request_hash", sa.String(64)),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("attempts_charged", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String(255)),
        sa.Column("lease_until", TIME),
        sa.Column("run_after", TIME, nullable=False),
        sa.Column("rung_at", TIME),
        sa.Column("audio_seconds_done", sa.Double(), nullable=False),
        sa.Column("audio_seconds_total", sa.Double()),
        sa.Column("progress_at", TIME),
        sa.Column("transcribing_since", TIME),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("started_at", TIME),
        sa.Column("finished_at", TIME),
        sa.Column("error_code", sa.String(64)),
        sa.Column("error_detail", sa.String(1000)),
        sa.Column("note_count", sa.Integer()),
        sa.Column("artifacts", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
        sa.UniqueConstraint("owner", "idempotency_key", name="uq_jobs_owner_idempotency_key"),
    )
    op.create_index("ix_jobs_owner_id", "jobs", ["owner", "id"])
    op.create_index("ix_jobs_status_run_after", "jobs", ["status", "run_after"])
    op.create_index("ix_jobs_status_lease_until", "jobs", ["status", "lease_until"])
    op.create_table(
        "attempts",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String(255), nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("finished_at", TIME),
        sa.Column("outcome", sa.String(16)),
        sa.Column("error_code", sa.String(64)),
        sa.Column("error_detail", sa.String(1000)),
        sa.PrimaryKeyConstraint("job_id", "number", name="pk_attempts"),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name="fk_attempts_job_id_jobs", ondelete="CASCADE"
        ),
    )
    op.create_table(
        "model_reports",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("installed", sa.Boolean(), nullable=False),
        sa.Column("realtime_factor", sa.Double()),
        sa.Column("updated_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_model_reports"),
    )
    op.create_table(
        "garbage",
        sa.Column("prefix", sa.String(255), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("prefix", name="pk_garbage"),
    )


def downgrade() -> None:
    for table in ("garbage", "model_reports", "attempts", "jobs"):
        op.drop_table(table)
