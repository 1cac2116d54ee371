"""Provide what operators see and do: items that are stuck, workers, draining them, queueing again, disk usage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import and_, func, or_, select, update
from sqlalchemy.orm import Session

from shared import jobs
from shared.db import now_plus
from shared.errors import JobNotFound
from shared.tables import Garbage, Job, Status, Worker, WorkItem, WorkStatus
from shared.work import UNSYNCHRONIZED
from shared.worker_registry import PRESENT_SECONDS


@dataclass(frozen=True)
class Stuck:
    """An item that does not move, since when and why."""

    job_id: UUID
    kind: str
    number: int
    worker: str | None
    since: datetime
    reason: str


@dataclass(frozen=True)
class WorkerState:
    """A worker of the registry, and the number of items that it has in hand."""

    name: str
    seen_at: datetime
    draining_since: datetime | None
    in_hand: int


def find_stuck(session: Session, *, quiet_seconds: float, waiting_seconds: float) -> list[Stuck]:
    """Return attempts that make no progress and due items that no worker claims, the oldest first.

    Args:
        quiet_seconds: how long an attempt must have made no progress.
        waiting_seconds: how long an item must have been due.
    """
    has_expired = WorkItem.lease_until < now_plus()
    quiet = and_(WorkItem.status == WorkStatus.PROCESSING, WorkItem.progress_at < now_plus(-quiet_seconds))
    due = and_(WorkItem.status == WorkStatus.QUEUED, WorkItem.run_after < now_plus(-waiting_seconds))
    workers = [worker for worker in list_workers(session, present_only=True) if worker.draining_since is None]
    found = []
    for item, is_lost in session.execute(select(WorkItem, has_expired).where(or_(quiet, due))):
        if item.status is WorkStatus.QUEUED:
            reason = "all workers are busy" if workers else "no worker takes items"
            since = item.run_after
        else:
            reason = "its worker is gone; a scheduler rescues it" if is_lost else "its worker makes no progress"
            since = item.progress_at or item.run_after
        if item.error_code:
            reason += f"; the attempt before failed with {item.error_code}"
        found.append(Stuck(item.job_id, item.kind, item.number, item.worker, since, reason))
    return sorted(found, key=lambda stuck: stuck.since)


def list_workers(session: Session, *, present_only: bool = False) -> list[WorkerState]:
    """Return the registered workers, by name."""
    in_hand = (
        select(func.count())
        .where(WorkItem.worker == Worker.name, WorkItem.status == WorkStatus.PROCESSING)
        .scalar_subquery()
    )
    query = select(Worker.name, Worker.seen_at, Worker.draining_since, in_hand).order_by(Worker.name)
    if present_only:
        query = query.where(Worker.seen_at >= now_plus(-PRESENT_SECONDS))
    return [WorkerState(*row) for row in session.execute(query)]


def set_draining(session: Session, names: Sequence[str] | None, *, is_draining: bool) -> list[str]:
    """Let workers claim nothing more, or again; return the names of those found. None means all of them."""
    change = update(Worker).values(draining_since=now_plus() if is_draining else None).returning(Worker.name)
    if names is not None:
        change = change.where(Worker.name.in_(names))
    return sorted(session.scalars(change.execution_options(**UNSYNCHRONIZED)))


def requeue(session: Session, job_id: UUID) -> str:
    """Queue a job's work again, and return what was done.

    A failed or canceled job is retried. Of one that is processing, the leases are ended: a scheduler takes
    its items from their workers, and the attempts count.

    Raises:
        JobNotFound, StateConflict: it waits already, or has succeeded.
    """
    job = session.get(Job, job_id)
    if job is None:
        raise JobNotFound(f"There is no transcription {job_id}.")
    if job.status is not Status.PROCESSING:
        jobs.retry_job(session, job.owner, job_id)
        return "queued again"
    held = and_(WorkItem.job_id == job_id, WorkItem.status == WorkStatus.PROCESSING)
    ended = session.execute(
        update(WorkItem).where(held).values(lease_until=now_plus(-1)), execution_options=UNSYNCHRONIZED
    )
    return f"{ended.rowcount} leases ended; a scheduler queues the items again"  # type: ignore[attr-defined]


def count_ended(session: Session, days: float) -> int:
    """Return the number of jobs that ended more than so many days ago."""
    ended = select(func.count()).select_from(Job).where(Job.finished_at < now_plus(-days * 86_400))
    return session.scalar(ended) or 0


def measure_usage(session: Session) -> list[tuple[str, int, int]]:
    """Return owner, number of jobs and bytes of recordings of each owner, the largest first."""
    size = func.coalesce(func.sum(Job.upload_bytes).filter(Job.upload_removed_at.is_(None)), 0)
    query = select(Job.owner, func.count(), size).group_by(Job.owner).order_by(size.desc())
    return [(owner, count, int(stored)) for owner, count, stored in session.execute(query)]


def count_garbage(session: Session) -> int:
    """Return the number of prefixes in storage that are still to be deleted."""
    return session.scalar(select(func.count()).select_from(Garbage)) or 0
