"""Shards of long recordings, and fair scheduling. New columns are nullable or have a default, for older workers.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("jobs", sa.Column("served_at", TIME))
    op.add_column("jobs", sa.Column("planned_by", sa.Integer()))
    op.add_column("jobs", sa.Column("samples", sa.BigInteger()))
    op.add_column("jobs", sa.Column("shards_total", sa.Integer()))
    op.add_column("jobs", sa.Column("shards_done", sa.Integer()))
    op.add_column("jobs", sa.Column("continuations", sa.Integer(), nullable=False, server_default="0"))
    op.create_index("ix_jobs_turn", "jobs", ["status", "owner", sa.text("coalesce(served_at, created_at)")])
    op.create_table(
        "shards",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("first", sa.Integer(), nullable=False),
        sa.Column("stop", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("audio_key", sa.String(255), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("attempts_charged", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String(255)),
        sa.Column("lease_until", TIME),
        sa.Column("run_after", TIME, nullable=False),
        sa.Column("rung_at", TIME),
        sa.Column("seconds_done", sa.Double(), nullable=False),
        sa.Column("progress_at", TIME),
        sa.Column("started_at", TIME),
        sa.Column("finished_at", TIME),
        sa.Column("result_key", sa.String(255)),
        sa.Column("error_code", sa.String(64)),
        sa.Column("error_detail", sa.String(1000)),
        sa.PrimaryKeyConstraint("job_id", "number", name="pk_shards"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_shards_job_id_jobs", ondelete="CASCADE"),
    )
    op.create_index("ix_shards_status_run_after", "shards", ["status", "run_after"])
    op.create_index("ix_shards_status_lease_until", "shards", ["status", "lease_until"])


def downgrade() -> None:
    op.drop_table("shards")
    op.drop_index("ix_jobs_turn", "jobs")
    for column in ("continuations", "shards_done", "shards_total", "samples", "planned_by", "served_at"):
        op.drop_column("jobs", column)
