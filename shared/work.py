"""Work items: the steps that workers do for jobs, one row each, and the only state machine with leases.

    blocked ──those before──▶ queued ──claim──▶ processing ──complete──▶ succeeded
              succeeded        ▲ ▲                │ │ └──────fail──────▶ failed, and the job with it
                               │ └─release, defer─┤ └─────cancel──────▶ canceled
                               └─fail with retry, rescue

A worker may change an item only while it is `processing` under that worker's attempt number, which is the fencing
token: each claim increments it, so a write by a late worker matches no row and changes nothing. A job's status is
written in the same transaction. An item that completes may enqueue others (`then`), so that a job that has not
ended always has an item that a worker holds or may claim.

Every change is one guarded `UPDATE`, never a read followed by a write, and transactions begin with a write (see
`shared.db`). A transaction that changes job and item locks the job first, so that transactions do not deadlock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Executable, and_, exists, func, insert, or_, select, update
from sqlalchemy.orm import Session, aliased
from uuid6 import uuid7

from shared import garbage, tracing, webhook_events
from shared.db import Sessions, now_plus
from shared.kinds import CLAIMED_KINDS, FETCH_URL, KINDS, STEPS, Claim, Held, NewItem, Progress, Result
from shared.reported import reported_columns
from shared.tables import Attempt, Job, Status, Worker, WorkItem, WorkStatus

INSERT_ITEMS = insert(WorkItem).values(served_at=now_plus(), run_after=now_plus())  # built once

# --- for workers -------------------------------------------------------------------------------------------


def enqueue(
    session: Session, job_id: UUID, owner: str, items: Sequence[NewItem], *, parent_id: UUID | None = None
) -> list[UUID]:
    """Insert items of a job, due at once unless they are blocked; return their ids."""
    ids = [UUID(str(uuid7())) for _ in items]
    traceparent = tracing.traceparent()
    rows = [
        {
            "id": item_id,
            "job_id": job_id,
            "parent_id": parent_id,
            "owner": owner,
            "kind": item.kind,
            "number": item.number,
            "status": WorkStatus.QUEUED if item.blocked_by is None else WorkStatus.BLOCKED,
            "blocked_by": item.blocked_by,
            "payload": dict(item.payload),
            "input_key": item.input_key,
            "seconds": item.seconds,
            "seconds_done": 0.0,
            "is_long": False,
            "attempt": 0,
            "attempts_counted": 0,
            "traceparent": traceparent or item.traceparent,
        }
        for item_id, item in zip(ids, items, strict=True)
    ]
    if rows:
        session.connection().execute(INSERT_ITEMS, rows if len(rows) > 1 else rows[0])  # many at once take longer
    return ids


def claim(
    session: Session, item_id: UUID, *, worker: str, lease_seconds: float, max_attempts: int
) -> Claim | None:
    """Claim an item that is due; return None if another worker has it, its job has ended or this worker drains."""
    is_due = and_(
        WorkItem.id == item_id,
        WorkItem.status == WorkStatus.QUEUED,
        WorkItem.run_after <= now_plus(),
        WorkItem.attempts_counted < max_attempts,
        ~exists().where(Worker.name == worker, Worker.draining_since.is_not(None)),
    )
    # The first claim starts the job. Locked rows are skipped, so that a worker that is paused while it claims does
    # not block the others (SQLite ignores this: it has one writer at a time). Subqueries are scalar: a planner
    # that does not know of a burst of queued rows yet would evaluate `IN (…)` once for each of them.
    job_of_item = select(WorkItem.job_id).where(is_due, WorkItem.kind.in_(STEPS)).scalar_subquery()
    waiting = select(Job.id).where(Job.id == job_of_item, Job.status == Status.QUEUED)
    begun = update(Job).where(
        Job.id == waiting.with_for_update(skip_locked=True).scalar_subquery(), Job.status == Status.QUEUED
    )
    changed(session, begun.values(**_BEGUN))
    has_begun = or_(
        WorkItem.kind.not_in(STEPS), exists().where(Job.id == WorkItem.job_id, Job.status != Status.QUEUED)
    )
    free = select(WorkItem.id).where(is_due, has_begun).with_for_update(skip_locked=True, of=WorkItem)
    claimed = session.execute(
        update(WorkItem)
        .where(WorkItem.id == free.scalar_subquery(), WorkItem.status == WorkStatus.QUEUED)
        .values(
            status=WorkStatus.PROCESSING,
            attempt=WorkItem.attempt + 1,
            attempts_counted=WorkItem.attempts_counted + 1,
            worker=worker,
            lease_until=now_plus(lease_seconds),
            started_at=now_plus(),
            progress_at=now_plus(),
            seconds_done=0.0,
        )
        .returning(*(getattr(WorkItem, name) for name in _CLAIMED)),
        execution_options=UNSYNCHRONIZED,
    ).one_or_none()
    if claimed is None:
        return None
    session.execute(
        insert(Attempt).values(
            item_id=claimed.id,
            number=claimed.attempt,
            worker=worker,
            started_at=now_plus(),
        )
    )
    job = session.execute(select(Job.model, Job.options).where(Job.id == claimed.job_id)).one()
    return Claim(**claimed._mapping, model=job.model, options=job.options)


def renew(session: Session, held: Held, *, lease_seconds: float, progress: Progress | None, moved: bool) -> bool:
    """Extend the lease and record progress; return False if the lease was lost: stop, and write nothing."""
    values: dict[str, Any] = {"lease_until": now_plus(lease_seconds)}
    if progress is not None:
        values["seconds_done"] = progress.audio_seconds_done
        if KINDS[held.kind].reports:
            reported = update(Job).where(Job.id == held.job_id, exists().where(*held_under(held)))
            changed(session, reported.values(reported_columns(progress)))
    if moved:
        values["progress_at"] = now_plus()
    return changed(session, update(WorkItem).where(*held_under(held)).values(values))


def complete(
    session: Session,
    held: Claim,
    *,
    result_key: str | None = None,
    then: Sequence[NewItem] = (),
    job: Mapping[str, Any] | None = None,
    result: Result | None = None,
    unneeded: Sequence[str] = (),
) -> bool:
    """Mark an item as succeeded; return False if the attempt is stale and its results must be discarded.

    Args:
        then: items to enqueue for the same job.
        job: columns of the job to update.
        result: the job's result, which completes the job as well.
        unneeded: storage prefixes to record as garbage.
    """
    lock_job(session, held.job_id)
    done = (
        update(WorkItem)
        .where(*held_under(held))
        .values(
            **AT_REST,
            status=WorkStatus.SUCCEEDED,
            finished_at=now_plus(),
            seconds_done=func.coalesce(WorkItem.seconds, WorkItem.seconds_done),
            result_key=result_key,
            error_code=None,
            error_detail=None,
        )
    )
    if not changed(session, done):
        return False
    close_attempts(session, and_(Attempt.item_id == held.id, Attempt.number == held.attempt), "succeeded")
    enqueue(session, held.job_id, held.owner, then, parent_id=held.id)
    values = dict(job or {})
    if result is None:
        _move_back_in_line(session, held)
        _unblock(session, held.job_id)
    else:  # it was the job's last step
        values |= {
            "status": Status.SUCCEEDED,
            "finished_at": now_plus(),
            "artifacts": result.artifacts,
            "warnings": result.warnings,
            "note_count": result.note_count,
            "audio_seconds_done": result.audio_seconds,
            "audio_seconds_total": result.audio_seconds,
            "error_code": None,
            "error_detail": None,
            **JOB_AT_REST,
        }
    if values:
        changed(session, update(Job).where(Job.id == held.job_id).values(values))
    if result is not None:
        webhook_events.announce(session, held.job_id, enqueue)
    garbage.note(session, unneeded)
    return True


def was_completed(session: Session, held: Held) -> bool:
    """Return True if this attempt already completed the item, e.g. when the connection broke during COMMIT."""
    completed = (WorkItem.id == held.id, WorkItem.attempt == held.attempt, WorkItem.status == WorkStatus.SUCCEEDED)
    return session.scalar(select(WorkItem.id).where(*completed)) is not None


def fail(
    session: Session,
    held: Held,
    *,
    code: str,
    detail: str,
    retry_after_seconds: float | None,
    max_attempts: int,
    is_counted: bool = True,
) -> bool:
    """End the attempt: queue the item again if a retry may help and attempts are left, else fail it and its job.

    An attempt that is not counted does not use up any of MT3_MAX_ATTEMPTS.
    """
    lock_job(session, held.job_id)
    error = {"error_code": code, "error_detail": detail[:1000]}
    if retry_after_seconds is not None:
        uncounted = 0 if is_counted else 1
        guard = (*held_under(held), WorkItem.attempts_counted - uncounted < max_attempts)
        if _requeue(session, held, guard, "failed", uncounted=uncounted, after=retry_after_seconds, error=error):
            _move_back_in_line(session, held)
            return True
    return _fail_for_good(session, held, held_under(held), "failed", error)


def release(session: Session, held: Held, *, after: float = 0.0) -> bool:
    """Release an item, as on shutdown: queue it again at its old position, without counting the attempt."""
    lock_job(session, held.job_id)
    return _requeue(session, held, held_under(held), "released", uncounted=1, after=after)


def defer(session: Session, held: Held) -> bool:
    """Defer a recording that turned out to be long until no shards of its owner wait; do not count the attempt."""
    lock_job(session, held.job_id)
    if not _requeue(session, held, held_under(held), "deferred", uncounted=1, is_long=True):
        return False
    return changed(
        session, update(Job).where(Job.id == held.job_id).values(attempts=Job.attempts - 1, started_at=None)
    )


def count_failures(session: Session, held: Held, code: str) -> int:
    """Count the attempts at an item that ended with this error."""
    failed = select(func.count()).select_from(Attempt)
    return session.scalar(failed.where(Attempt.item_id == held.id, Attempt.error_code == code)) or 0


def list_items(session: Session, job_id: UUID, kind: str) -> Sequence[WorkItem]:
    """List the items of one kind of a job, in order."""
    query = select(WorkItem).where(WorkItem.job_id == job_id, WorkItem.kind == kind)
    return session.scalars(query.order_by(WorkItem.number)).all()


# --- for the scheduler -------------------------------------------------------------------------------------


def count_due(session: Session) -> int:
    """Count the items that a worker could claim now."""
    due = select(func.count()).where(WorkItem.status == WorkStatus.QUEUED, WorkItem.run_after <= now_plus())
    return session.scalar(due.where(WorkItem.kind.in_(CLAIMED_KINDS))) or 0


def rescue(sessions: Sessions, *, max_attempts: int, stall_seconds: float) -> tuple[list[Held], list[Held]]:
    """Rescue items of workers that are gone or make no progress; return those requeued, and those that failed.

    A queued item without attempts left fails, too, for example after MT3_MAX_ATTEMPTS was lowered.
    """
    lost = and_(
        WorkItem.status == WorkStatus.PROCESSING,
        or_(WorkItem.lease_until < now_plus(), WorkItem.progress_at < now_plus(-stall_seconds)),
    )
    has_attempts = WorkItem.attempts_counted < max_attempts
    is_exhausted = WorkItem.attempts_counted >= max_attempts
    is_unclaimable = and_(WorkItem.status == WorkStatus.QUEUED, is_exhausted)
    error: dict[str, Any] = {
        "error_code": "worker_lost",
        "error_detail": "The worker stopped in the middle of the job (killed, out of memory, or hanging).",
    }
    exhausted = {
        "error_code": func.coalesce(WorkItem.error_code, "worker_lost"),
        "error_detail": func.coalesce(WorkItem.error_detail, "All attempts are used up."),
    }
    columns = (WorkItem.id, WorkItem.job_id, WorkItem.kind, WorkItem.number, WorkItem.attempt)
    with sessions() as session:
        found = [Held(*row) for row in session.execute(select(*columns).where(or_(lost, is_unclaimable)))]
    requeued, failed = [], []
    for held in found:
        # One transaction each: a row that a paused process has locked must not block the others.
        this = (WorkItem.id == held.id, WorkItem.attempt == held.attempt)
        free = WorkItem.id == select(WorkItem.id).where(*this).with_for_update(skip_locked=True).scalar_subquery()
        with sessions.begin() as session:
            if not lock_job(session, held.job_id, wait=False):
                continue
            # Each statement checks again: the worker may have made progress since.
            if _requeue(session, held, (*this, free, lost, has_attempts), "lost", error=error):
                requeued.append(held)
            elif _fail_for_good(session, held, (*this, free, lost, is_exhausted), "lost", error) or _fail_for_good(
                session, held, (*this, free, is_unclaimable), "lost", exhausted
            ):
                failed.append(held)
    return requeued, failed


# --- helpers -----------------------------------------------------------------------------------------------

_CLAIMED = (
    *("id", "job_id", "kind", "number", "attempt"),
    *("owner", "input_key", "seconds", "payload", "is_long", "traceparent"),
)
AT_REST: dict[str, Any] = {"worker": None, "lease_until": None, "progress_at": None}
JOB_AT_REST: dict[str, Any] = {"phase": None, "download": None}
JOB_QUEUED: dict[str, Any] = {
    **JOB_AT_REST,
    "status": Status.QUEUED,
    "audio_seconds_done": 0.0,
    "transcribing_since": None,
}
_BEGUN: dict[str, Any] = {
    **JOB_QUEUED,
    "status": Status.PROCESSING,
    "attempts": Job.attempts + 1,
    "started_at": func.coalesce(Job.started_at, now_plus()),
}
UNSYNCHRONIZED: dict[str, Any] = {"synchronize_session": False}


def held_under(held: Held) -> tuple[ColumnElement[bool], ...]:
    """Return the guard of every change by a worker: this attempt still holds the item."""
    return (WorkItem.id == held.id, WorkItem.attempt == held.attempt, WorkItem.status == WorkStatus.PROCESSING)


def changed(session: Session, statement: Executable) -> bool:
    """Run a guarded statement; return True if it found its row."""
    return session.connection().execute(statement).rowcount == 1  # as no object of the session is of interest


def lock_job(session: Session, job_id: UUID, *, wait: bool = True) -> bool:
    """Lock the job until the end of the transaction; return False if it is gone or already locked."""
    job = Job.id == job_id
    if not wait:
        job = Job.id == select(Job.id).where(job).with_for_update(skip_locked=True).scalar_subquery()
    return changed(session, update(Job).where(job).values(owner=Job.owner))


def _requeue(
    session: Session,
    held: Held,
    guard: Sequence[ColumnElement[bool]],
    outcome: str,
    *,
    uncounted: int = 0,
    after: float = 0.0,
    error: Mapping[str, Any] | None = None,
    **values: Any,
) -> bool:
    """Queue an item again, and its job as well if none of its items has succeeded but the fetch of its source."""
    error = error or {}
    again = update(WorkItem).where(*guard)
    again = again.values(
        **AT_REST,
        status=WorkStatus.QUEUED,
        attempts_counted=WorkItem.attempts_counted - uncounted,
        run_after=now_plus(after),
        seconds_done=0.0,
        **error,
        **values,
    )
    if not changed(session, again):
        return False
    close_attempts(session, Attempt.item_id == held.id, outcome, **error)
    if held.kind not in STEPS:
        return True
    of_job = (WorkItem.job_id == held.job_id, WorkItem.kind.in_(STEPS), WorkItem.kind != FETCH_URL)
    is_begun = exists().where(*of_job, WorkItem.status == WorkStatus.SUCCEEDED)
    waits = update(Job).where(Job.id == held.job_id, Job.status == Status.PROCESSING, ~is_begun)
    changed(session, waits.values(**JOB_QUEUED, **error))
    return True


def _fail_for_good(
    session: Session,
    held: Held,
    guard: Sequence[ColumnElement[bool]],
    outcome: str,
    error: Mapping[str, Any],
) -> bool:
    """Fail an item, and its job unless that has ended; workers at its other items notice by heartbeat."""
    failed = update(WorkItem).where(*guard)
    failed = failed.values(**AT_REST, status=WorkStatus.FAILED, finished_at=now_plus(), **error)
    cause = session.execute(
        failed.returning(WorkItem.error_code, WorkItem.error_detail), execution_options=UNSYNCHRONIZED
    ).one_or_none()
    if cause is None:
        return False
    error = {"error_code": cause.error_code, "error_detail": cause.error_detail}
    close_attempts(session, Attempt.item_id == held.id, outcome, **error)
    job = update(Job).where(Job.id == held.job_id, Job.status.in_((Status.QUEUED, Status.PROCESSING)))
    if held.kind not in STEPS or not changed(
        session, job.values(status=Status.FAILED, finished_at=now_plus(), **JOB_AT_REST, **error)
    ):
        return True  # the job has ended before: this item does not change its outcome
    webhook_events.announce(session, held.job_id, enqueue)
    others = update(WorkItem).where(WorkItem.job_id == held.job_id, WorkItem.kind.in_(STEPS))
    others = others.where(WorkItem.status.in_((WorkStatus.QUEUED, WorkStatus.PROCESSING)))
    changed(session, others.values(**AT_REST, status=WorkStatus.CANCELED, finished_at=now_plus()))
    close_attempts(session, of_job(held.job_id), "canceled")
    return True


def _unblock(session: Session, job_id: UUID) -> None:
    """Queue the items whose predecessors have all succeeded."""
    other = aliased(WorkItem)
    unfinished = select(func.min(other.number)).where(other.job_id == job_id, other.status != WorkStatus.SUCCEEDED)
    unfinished = unfinished.where(other.kind.in_(STEPS))
    free = update(WorkItem).where(
        WorkItem.job_id == job_id,
        WorkItem.status == WorkStatus.BLOCKED,
        WorkItem.blocked_by < unfinished.scalar_subquery(),
    )
    changed(session, free.values(status=WorkStatus.QUEUED, run_after=now_plus()))


def _move_back_in_line(session: Session, held: Held) -> None:
    """Move the job's remaining items of this kind behind newer jobs; skip rows that are being claimed."""
    left = select(WorkItem.id).where(
        WorkItem.job_id == held.job_id,
        WorkItem.kind == held.kind,
        WorkItem.status.in_((WorkStatus.QUEUED, WorkStatus.BLOCKED)),
    )
    now = select(now_plus()).scalar_subquery()  # the same time for all of them, so that they stay in order
    free = WorkItem.id.in_(left.with_for_update(skip_locked=True))
    moved = update(WorkItem).where(WorkItem.job_id == held.job_id, free)
    changed(session, moved.values(served_at=now))


def of_job(job_id: UUID) -> ColumnElement[bool]:
    """Return the condition that an attempt belongs to a step of this job."""
    return Attempt.item_id.in_(select(WorkItem.id).where(WorkItem.job_id == job_id, WorkItem.kind.in_(STEPS)))


def close_attempts(session: Session, which: ColumnElement[bool], outcome: str, **error: Any) -> None:
    """Record the outcome of attempts that are still open."""
    closed = update(Attempt).where(which, Attempt.outcome.is_(None))
    changed(session, closed.values(outcome=outcome, finished_at=now_plus(), **error))
