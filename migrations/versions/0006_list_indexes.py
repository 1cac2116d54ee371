"""Indexes for the filters of lists, and for the sweeper's search for expired jobs.

Revision ID: 0006
Revises: 0005
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

INDEXES = {
    "ix_jobs_owner_status_id": ["owner", "status", "id"],
    "ix_jobs_owner_model_id": ["owner", "model", "id"],
    "ix_jobs_owner_model_status_id": ["owner", "model", "status", "id"],
    "ix_jobs_finished_at": ["finished_at"],
}


def upgrade() -> None:
    for name, columns in INDEXES.items():
        op.create_index(name, "jobs", columns)


def downgrade() -> None:
    for name in INDEXES:
        op.drop_index(name, "jobs")
