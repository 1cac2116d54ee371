"""One queue of work items, replacing jobs and shards that workers claim.

Every job gets its items, whatever its state, so that none is lost and failed ones can be retried. Running work is
queued again and the attempt is not counted: workers of the previous release can no longer complete it.

Revision ID: 0009
Revises: 0008
"""

from collections import defaultdict
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from alembic import op
from uuid6 import uuid7

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
BATCH = 500

JOBS = sa.table(
    "jobs",
    *[sa.column(name, sa.Uuid()) for name in ("id",)],
    *[sa.column(name, sa.String()) for name in ("owner", "status", "upload_key", "error_code", "error_detail")],
    *[sa.column(name, sa.Integer()) for name in ("attempt", "attempts_charged", "planned_by", "samples")],
    *[sa.column(name, sa.Integer()) for name in ("shards_total", "shards_done")],
    *[sa.column(name, TIME) for name in ("run_after", "served_at", "created_at", "started_at", "finished_at")],
    sa.column("audio_seconds_total", sa.Double()),
    sa.column("is_long", sa.Boolean()),
    sa.column("warnings", sa.JSON()),
)
SHARDS = sa.table(
    "shards",
    sa.column("job_id", sa.Uuid()),
    *[sa.column(name, sa.Integer()) for name in ("number", "first", "stop", "attempt", "attempts_charged")],
    *[sa.column(name, sa.Double()) for name in ("seconds", "seconds_done")],
    *[sa.column(name, sa.String()) for name in ("audio_key", "result_key", "status", "error_code", "error_detail")],
    *[sa.column(name, TIME) for name in ("run_after", "started_at", "finished_at")],
)


def upgrade() -> None:
    items = _create_work_items()
    connection = op.get_bind()
    last = UUID(int=0)
    while jobs := connection.execute(
        sa.select(JOBS).where(JOBS.c.id > last).order_by(JOBS.c.id).limit(BATCH)
    ).all():
        last = jobs[-1].id
        shards = defaultdict(list)
        ids = [job.id for job in jobs if job.planned_by is not None]
        for shard in connection.execute(sa.select(SHARDS).where(SHARDS.c.job_id.in_(ids))):
            shards[shard.job_id].append(shard)
        rows = [row for job in jobs for row in items_of(job, shards[job.id])]
        connection.execute(sa.insert(items), rows)
    _move_attempts()
    op.add_column("jobs", sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"))
    op.execute("UPDATE jobs SET attempts = attempt - continuations")
    op.execute(
        "UPDATE jobs SET status = 'queued', phase = NULL, download = NULL, audio_seconds_done = 0, "
        "transcribing_since = NULL WHERE status = 'processing' AND planned_by IS NULL"
    )
    op.execute(
        "UPDATE jobs SET phase = 'transcribing', download = NULL "
        "WHERE status = 'processing' AND planned_by IS NOT NULL"
    )
    op.drop_table("shards")
    for index in ("ix_jobs_turn", "ix_jobs_status_run_after", "ix_jobs_status_lease_until"):
        op.drop_index(index, "jobs")
    for column in (
        *("attempt", "attempts_charged", "worker", "lease_until", "run_after", "served_at", "progress_at"),
        *("planned_by", "samples", "shards_done", "continuations", "is_long"),
    ):
        op.drop_column("jobs", column)


def items_of(job: Any, shards: list[Any]) -> list[dict[str, Any]]:
    """Return the work items of a job, according to its progress."""
    is_split = job.planned_by is not None
    is_failed = job.status == "failed"
    is_running = int(job.status == "processing")
    first = {
        "id": UUID(str(uuid7())),
        "job_id": job.id,
        "parent_id": None,
        "owner": job.owner,
        "kind": "transcribe",
        "number": 0,
        "status": "succeeded" if is_split else "queued" if is_running else job.status,
        "blocked_by": None,
        "payload": {},
        "input_key": job.upload_key,
        "result_key": None,
        "seconds": None,
        "seconds_done": 0.0,
        "served_at": job.served_at or job.created_at,
        "is_long": job.is_long and not is_split,
        "run_after": job.run_after,
        "attempt": job.planned_by if is_split else job.attempt,
        "attempts_counted": 0 if is_split else max(0, job.attempts_charged - is_running),
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "error_code": job.error_code,
        "error_detail": job.error_detail,
    }
    if not is_split:
        return [first]
    rows = [first]
    # The other shards of a failed job are canceled, so that they are not claimed before it is retried.
    states = {"waiting": "blocked", "processing": "queued", "queued": "canceled" if is_failed else "queued"}
    for shard in sorted(shards, key=lambda shard: shard.number):
        rows.append(
            {
                **first,
                "id": UUID(str(uuid7())),
                "parent_id": first["id"],
                "kind": "shard",
                "number": shard.number,
                "status": states.get(shard.status, shard.status),
                "blocked_by": shard.number - 1 if shard.status == "waiting" else None,
                "payload": {"first": shard.first, "stop": shard.stop},
                "input_key": shard.audio_key,
                "result_key": shard.result_key,
                "seconds": shard.seconds,
                "seconds_done": shard.seconds if shard.status == "succeeded" else 0.0,
                "run_after": shard.run_after,
                "attempt": shard.attempt,
                "attempts_counted": max(0, shard.attempts_charged - int(shard.status == "processing")),
                "started_at": shard.started_at,
                "finished_at": shard.finished_at,
                "error_code": shard.error_code,
                "error_detail": shard.error_detail,
            }
        )
    if job.status == "succeeded":
        state = "succeeded"
    elif job.shards_done == job.shards_total:
        state = "failed" if is_failed else "queued"
    else:
        state = "blocked"
    rows.append(
        {
            **first,
            "id": UUID(str(uuid7())),
            "parent_id": first["id"],
            "kind": "assemble",
            "number": job.shards_total,
            "status": state,
            "blocked_by": job.shards_total - 1,
            "payload": {
                "samples": job.samples,
                "seconds": job.audio_seconds_total,
                "split_by_attempt": job.planned_by,
                "warnings": job.warnings,
            },
            "input_key": None,
            "attempt": job.attempt - job.planned_by,
            "attempts_counted": max(0, job.attempts_charged - is_running),
            "started_at": None,
            "finished_at": None,
        }
    )
    return rows


def _create_work_items() -> sa.Table:
    items = op.create_table(
        "work_items",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("parent_id", sa.Uuid()),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("blocked_by", sa.Integer()),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("input_key", sa.String(255)),
        sa.Column("result_key", sa.String(255)),
        sa.Column("seconds", sa.Double()),
        sa.Column("seconds_done", sa.Double(), nullable=False),
        sa.Column("served_at", TIME, nullable=False),
        sa.Column("is_long", sa.Boolean(), nullable=False),
        sa.Column("run_after", TIME, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("attempts_counted", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String(255)),
        sa.Column("lease_until", TIME),
        sa.Column("progress_at", TIME),
        sa.Column("started_at", TIME),
        sa.Column("finished_at", TIME),
        sa.Column("error_code", sa.String(64)),
        sa.Column("error_detail", sa.String(1000)),
        sa.PrimaryKeyConstraint("id", name="pk_work_items"),
        sa.UniqueConstraint("job_id", "kind", "number", name="uq_work_items_job_id_kind_number"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_work_items_job_id_jobs", ondelete="CASCADE"),
    )
    op.create_index(
        "ix_work_items_line", "work_items", ["status", "owner", "is_long", "served_at", "number"]
    )
    for columns in (["status", "kind", "owner"], ["status", "run_after"], ["status", "lease_until"]):
        op.create_index(f"ix_work_items_{'_'.join(columns)}", "work_items", columns)
    return items


def _move_attempts() -> None:
    """Turn attempts at a job into attempts at its first item or, after it was split, at its assembly."""
    op.execute("CREATE TABLE old_attempts AS SELECT * FROM attempts")
    op.drop_table("attempts")
    op.create_table(
        "attempts",
        sa.Column("item_id", sa.Uuid(), nullable=False),
        *_attempt_columns(),
        sa.PrimaryKeyConstraint("item_id", "number", name="pk_attempts"),
        sa.ForeignKeyConstraint(
            ["item_id"], ["work_items.id"], name="fk_attempts_item_id_work_items", ondelete="CASCADE"
        ),
    )
    now = sa.bindparam("now", datetime.now(UTC), TIME)
    op.get_bind().execute(
        sa.text(
            """
            INSERT INTO attempts (item_id, number, worker, started_at, finished_at, outcome, error_code, error_detail)
            SELECT work_items.id,
              CASE work_items.kind WHEN 'assemble' THEN old.number - jobs.planned_by ELSE old.number END,
              old.worker, old.started_at, CASE WHEN old.outcome IS NULL THEN :now ELSE old.finished_at END,
              CASE coalesce(old.outcome, 'handed_over') WHEN 'held_back' THEN 'deferred'
                WHEN 'handed_over' THEN CASE old.number WHEN jobs.planned_by THEN 'succeeded' ELSE 'released' END
                ELSE old.outcome END,
              old.error_code, old.error_detail
            FROM old_attempts AS old
            JOIN jobs ON jobs.id = old.job_id
            JOIN work_items ON work_items.job_id = old.job_id
              AND work_items.kind = CASE WHEN old.number > jobs.planned_by THEN 'assemble' ELSE 'transcribe' END
            """
        ).bindparams(now)
    )
    op.drop_table("old_attempts")


def _attempt_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String(255), nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("finished_at", TIME),
        sa.Column("outcome", sa.String(16)),
        sa.Column("error_code", sa.String(64)),
        sa.Column("error_detail", sa.String(1000)),
    ]


def downgrade() -> None:
    """Queue all jobs that have not ended again, in one piece."""
    columns: list[sa.Column[Any]] = [
        sa.Column("is_long", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("run_after", TIME, nullable=False, server_default="2000-01-01 00:00:00.000000"),
        sa.Column("worker", sa.String(255)),
        sa.Column("samples", sa.BigInteger()),
    ]
    for name in ("attempt", "attempts_charged", "continuations"):
        columns.append(sa.Column(name, sa.Integer(), nullable=False, server_default="0"))
    columns += [sa.Column(name, TIME) for name in ("lease_until", "served_at", "progress_at")]
    columns += [sa.Column(name, sa.Integer()) for name in ("planned_by", "shards_done")]
    for column in columns:
        op.add_column("jobs", column)
    latest = "(SELECT max(attempt) FROM work_items WHERE job_id = jobs.id AND parent_id IS NULL)"
    op.execute(f"UPDATE jobs SET attempt = {latest}, shards_total = NULL")
    op.execute("UPDATE jobs SET status = 'queued', phase = NULL WHERE status = 'processing'")
    op.create_index("ix_jobs_status_run_after", "jobs", ["status", "run_after"])
    op.create_index("ix_jobs_status_lease_until", "jobs", ["status", "lease_until"])
    turn = sa.text("coalesce(served_at, created_at)")
    op.create_index("ix_jobs_turn", "jobs", ["status", "owner", "is_long", turn])
    op.execute("CREATE TABLE old_attempts AS SELECT * FROM attempts")
    op.drop_table("attempts")
    op.create_table(
        "attempts",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        *_attempt_columns(),
        sa.PrimaryKeyConstraint("job_id", "number", name="pk_attempts"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_attempts_job_id_jobs", ondelete="CASCADE"),
    )
    names = "number, worker, started_at, finished_at, outcome, error_code, error_detail"
    op.execute(
        f"INSERT INTO attempts (job_id, {names}) "
        f"SELECT work_items.job_id, {', '.join(f'old.{name}' for name in names.split(', '))} "
        "FROM old_attempts AS old JOIN work_items ON work_items.id = old.item_id AND work_items.parent_id IS NULL"
    )
    op.drop_table("old_attempts")
    op.drop_table("work_items")
    op.drop_column("jobs", "attempts")
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
