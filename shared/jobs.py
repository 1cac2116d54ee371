"""The job's state machine: every change is one guarded `UPDATE`, never a read and then a write.

    queued ──claim──▶ processing ──complete──▶ succeeded
      ▲ ▲                │ │ └──────fail──────▶ failed ──┐
      │ └─release, fail──┘ └───────cancel────▶ canceled ─┤
      │    with retry, reap                              │
      └──────────────────────retry───────────────────────┘

A worker may change a job only while it is `processing` under that worker's attempt number, which is the
fencing token: claims count it up, so whatever a late worker still says finds no row and changes nothing.
While the shards of a long recording run, the job is `processing` and has no lease: nobody holds it, see `shards`.
All functions take a session within a transaction, and write before they read (see `shared.db`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    CursorResult,
    Executable,
    Row,
    and_,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from shared.db import Sessions, is_away, now_plus
from shared.errors import IdempotencyConflict, InvalidCursor, JobNotFound, StateConflict
from shared.logs import get_logger
from shared.storage import result_prefix, shard_prefix, upload_prefix
from shared.tables import Attempt, Garbage, Job, ModelReport, Phase, Shard, ShardStatus, Status

log = get_logger(__name__)


@dataclass(frozen=True)
class NewJob:
    """What a client asked for, with the upload already in storage."""

    id: UUID
    owner: str
    model: str
    options: dict[str, Any]
    client_metadata: dict[str, Any]
    filename: str | None
    upload_key: str
    upload_bytes: int
    idempotency_key: str | None = None
    request_hash: str | None = None


@dataclass(frozen=True)
class Plan:
    """How a long recording was cut.

    Attributes:
        attempt: that cut it, and under whose number the shards lie in storage.
        samples: of the recording, at the model's sample rate.
        seconds: length of the recording.
        warnings: about the recording, from the attempt that decoded it.
    """

    attempt: int
    samples: int
    seconds: float
    shards_total: int
    shards_done: int
    warnings: list[dict[str, str]] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        """Whether the results of all shards are there."""
        return self.shards_done == self.shards_total


@dataclass(frozen=True)
class Claim:
    """One attempt that a worker holds: the job's data and the fencing token.

    Attributes:
        plan: once there are shards.
        is_long: an attempt before has put it back uncut, and now it is its turn.
    """

    job_id: UUID
    attempt: int
    model: str
    options: dict[str, Any]
    upload_key: str
    plan: Plan | None = None
    is_long: bool = False


@dataclass(frozen=True)
class Download:
    """How far the checkpoint's download is; `waiting`: another process does it, and these are its figures."""

    bytes_done: int
    bytes_total: int
    bytes_per_second: float
    waiting: bool


@dataclass(frozen=True)
class Progress:
    """How far an attempt is. `moved` counts every sign of progress, so that a hang can be told from work."""

    phase: Phase
    audio_seconds_done: float = 0.0
    audio_seconds_total: float | None = None
    moved: int = 0
    download: Download | None = None


# --- the client's side -------------------------------------------------------------------------------------


def create_job(sessions: Sessions, new: NewJob) -> tuple[Job, bool]:
    """Insert the row in a transaction of its own; whether it is new is the second value.

    Raises:
        IdempotencyConflict: the key was used for another request.
    """
    job = Job(
        id=new.id,
        owner=new.owner,
        status=Status.QUEUED,
        model=new.model,
        options=new.options,
        client_metadata=new.client_metadata,
        filename=new.filename,
        upload_key=new.upload_key,
        upload_bytes=new.upload_bytes,
        idempotency_key=new.idempotency_key,
        request_hash=new.request_hash,
        attempt=0,
        attempts_charged=0,
        audio_seconds_done=0.0,
        run_after=now_plus(),
        created_at=now_plus(),
        warnings=[],
        artifacts=[],
    )
    try:
        with sessions.begin() as session:
            session.add(job)
            session.flush()
            session.refresh(job)
        return job, True
    except IntegrityError:
        with sessions() as session:
            earlier = find_idempotent(session, new.owner, new.idempotency_key, new.request_hash)
        if earlier is None:
            raise
        return earlier, False


def find_idempotent(session: Session, owner: str, key: str | None, request_hash: str | None) -> Job | None:
    """The job that an earlier request with this key made, if there was one.

    Raises:
        IdempotencyConflict: the earlier request was another.
    """
    if key is None:
        return None
    job = session.scalar(select(Job).where(Job.owner == owner, Job.idempotency_key == key))
    if job is not None and job.request_hash != request_hash:
        raise IdempotencyConflict(
            "This Idempotency-Key was used before with another recording or other options: use a new key."
        )
    return job


def get_job(session: Session, owner: str, job_id: UUID) -> Job:
    """One job of this owner.

    Raises:
        JobNotFound: there is none, or it is another owner's.
    """
    job = session.scalar(select(Job).where(Job.id == job_id, Job.owner == owner))
    if job is None:
        raise JobNotFound(f"There is no transcription {job_id}.")
    return job


def list_jobs(
    session: Session,
    owner: str,
    *,
    status: Status | None = None,
    model: str | None = None,
    limit: int = 20,
    cursor: str | None = None,
) -> tuple[Sequence[Job], str | None]:
    """Return a page of jobs, newest first, and the cursor of the next page; what cannot be read is left out."""
    query = select(Job.id).where(Job.owner == owner).order_by(Job.id.desc()).limit(limit + 1)
    if status is not None:
        query = query.where(Job.status == status)
    if model is not None:
        query = query.where(Job.model == model)
    if cursor is not None:
        try:
            query = query.where(Job.id < UUID(cursor))
        except ValueError:
            raise InvalidCursor("The cursor is not one of ours: leave it out to start anew.") from None
    ids = session.scalars(query).all()
    following = str(ids[limit - 1]) if len(ids) > limit else None
    return _read_jobs(session, ids[:limit]), following


def _read_jobs(session: Session, job_ids: Sequence[UUID]) -> list[Job]:
    """Read jobs in this order: all at once, or one by one if that fails for what one of them holds."""
    try:
        found = session.scalars(select(Job).where(Job.id.in_(job_ids)).order_by(Job.id.desc())).all()
        return list(found)
    except Exception as error:
        if is_away(error):
            raise
    readable: list[Job] = []
    for job_id in job_ids:
        try:
            readable += session.scalars(select(Job).where(Job.id == job_id)).all()
        except Exception as error:
            if is_away(error):
                raise
            log.error("job_cannot_be_read", job_id=str(job_id), error=repr(error)[:500])
    return readable


def cancel_job(session: Session, owner: str, job_id: UUID) -> Job:
    """Cancel a job that has not ended; a job canceled before is given back as it is.

    Raises:
        JobNotFound, StateConflict: it succeeded or failed already.
    """
    job: Job | None = session.scalar(
        update(Job)
        .where(Job.id == job_id, Job.owner == owner, Job.status.in_((Status.QUEUED, Status.PROCESSING)))
        .values(status=Status.CANCELED, finished_at=now_plus(), **_AT_REST, **_IN_ONE_PIECE)
        .returning(Job)
    )
    if job is not None:
        _close_attempts(session, Attempt.job_id == job_id, outcome="canceled")
        session.execute(delete(Shard).where(Shard.job_id == job_id), execution_options=_UNSYNCHRONIZED)
        # Attempt by attempt: the next one may plan anew before these are removed.
        _note_garbage(session, [shard_prefix(job_id, number + 1) for number in range(job.attempt)])
        return job
    job = get_job(session, owner, job_id)
    if job.status is not Status.CANCELED:
        raise StateConflict(f"The transcription has already {job.status}; there is nothing to cancel.")
    return job


def retry_job(session: Session, owner: str, job_id: UUID) -> Job:
    """Queue a failed or canceled job again, with all its attempts before it. Finished shards stay finished.

    Raises:
        JobNotFound, StateConflict: it is waiting, running or succeeded.
    """
    job: Job | None = session.scalar(
        update(Job)
        .where(Job.id == job_id, Job.owner == owner, Job.status.in_((Status.FAILED, Status.CANCELED)))
        .values(
            **_QUEUED_AGAIN,
            attempts_charged=0,
            finished_at=None,
            error_code=None,
            error_detail=None,
            run_after=now_plus(),
        )
        .returning(Job)
    )
    if job is None:
        status = get_job(session, owner, job_id).status
        raise StateConflict(f"Only a failed or canceled transcription can be retried; this one is {status}.")
    unfinished = update(Shard).where(
        Shard.job_id == job_id, Shard.status.in_((ShardStatus.QUEUED, ShardStatus.FAILED))
    )
    session.execute(
        unfinished.values(
            status=ShardStatus.QUEUED,
            attempts_charged=0,
            run_after=now_plus(),
            rung_at=None,
            error_code=None,
            error_detail=None,
        ),
        execution_options=_UNSYNCHRONIZED,
    )
    return job


def delete_job(session: Session, owner: str, job_id: UUID) -> None:
    """Remove the row in any state, and put down what is to be removed from storage.

    Raises:
        JobNotFound
    """
    deleted = delete(Job).where(Job.id == job_id, Job.owner == owner).returning(Job.id)
    if session.scalar(deleted) is None:
        raise JobNotFound(f"There is no transcription {job_id}.")
    _note_garbage(session, all_prefixes([job_id]))


# --- the worker's side -------------------------------------------------------------------------------------


def claim_job(
    session: Session, job_id: UUID, *, worker: str, lease_seconds: float, max_attempts: int
) -> Claim | None:
    """Take a job that is due, or whose lease ran out; None when another has it, or it has ended."""
    claimed = session.execute(
        update(Job)
        .where(
            Job.id == job_id,
            Job.attempts_charged < max_attempts,
            or_(
                and_(Job.status == Status.QUEUED, Job.run_after <= now_plus()),
                and_(Job.status == Status.PROCESSING, Job.lease_until < now_plus()),
            ),
        )
        .values(
            status=Status.PROCESSING,
            attempt=Job.attempt + 1,
            attempts_charged=Job.attempts_charged + 1,
            worker=worker,
            lease_until=now_plus(lease_seconds),
            started_at=func.coalesce(Job.started_at, now_plus()),
            progress_at=now_plus(),
            phase=None,
            download=None,
            audio_seconds_done=0.0,
            transcribing_since=None,
        )
        .returning(*CLAIMED)
    ).one_or_none()
    if claimed is None:
        return None
    _close_attempts(session, Attempt.job_id == job_id, outcome="lost")
    return open_attempt(session, claimed, worker=worker)


def open_attempt(session: Session, claimed: Row[Any], *, worker: str) -> Claim:
    """Put down an attempt that has just begun; `claimed` are the columns `CLAIMED` of its job."""
    session.execute(
        insert(Attempt).values(job_id=claimed.id, number=claimed.attempt, worker=worker, started_at=now_plus())
    )
    plan = None
    if claimed.planned_by is not None:
        plan = Plan(
            attempt=claimed.planned_by,
            samples=claimed.samples,
            seconds=claimed.audio_seconds_total,
            shards_total=claimed.shards_total,
            shards_done=claimed.shards_done,
            warnings=claimed.warnings,
        )
    return Claim(
        claimed.id,
        claimed.attempt,
        claimed.model,
        claimed.options,
        claimed.upload_key,
        plan,
        claimed.is_long,
    )


def renew_lease(
    session: Session, claim: Claim, *, lease_seconds: float, progress: Progress | None, moved: bool
) -> bool:
    """Extend the lease and record progress; False when the attempt is no longer ours: stop, say nothing."""
    values: dict[str, Any] = {"lease_until": now_plus(lease_seconds)}
    if progress is not None:
        values |= {
            "phase": progress.phase,
            "audio_seconds_done": progress.audio_seconds_done,
            "download": asdict(progress.download) if progress.download else None,
        }
        if progress.audio_seconds_total is not None:  # else an earlier attempt's is as good
            values["audio_seconds_total"] = progress.audio_seconds_total
        if progress.phase is Phase.TRANSCRIBING:
            values["transcribing_since"] = func.coalesce(Job.transcribing_since, now_plus())
    if moved:
        values["progress_at"] = now_plus()
    return changed(session, update(Job).where(*held_under(claim)).values(values))


def complete_job(
    session: Session,
    claim: Claim,
    *,
    artifacts: list[dict[str, Any]],
    note_count: int,
    audio_seconds: float,
    warnings: Sequence[dict[str, str]] = (),
) -> bool:
    """End the job as succeeded; False when the attempt is stale and its results are to be discarded."""
    completed = (
        update(Job)
        .where(*held_under(claim))
        .values(
            status=Status.SUCCEEDED,
            finished_at=now_plus(),
            artifacts=artifacts,
            warnings=list(warnings),
            note_count=note_count,
            audio_seconds_done=audio_seconds,
            audio_seconds_total=audio_seconds,
            error_code=None,
            error_detail=None,
            **_AT_REST,
        )
    )
    if not changed(session, completed):
        return False
    if claim.plan is not None:
        _note_garbage(session, [shard_prefix(claim.job_id)])
    return close_own_attempt(session, claim, "succeeded")


def fail_attempt(
    session: Session,
    claim: Claim,
    *,
    code: str,
    detail: str,
    retry_after_seconds: float | None,
    max_attempts: int,
    is_charged: bool = True,
) -> bool:
    """End the attempt: the job waits for another one if that may help and one is left, else it has failed.

    An attempt that is not charged leaves as many as there were before it.
    """
    error = {"error_code": code, "error_detail": detail[:1000]}
    if retry_after_seconds is not None:
        charge = 0 if is_charged else 1
        again = update(Job).where(*held_under(claim), Job.attempts_charged - charge < max_attempts)
        again = again.values(
            **_QUEUED_AGAIN,
            attempts_charged=Job.attempts_charged - charge,
            run_after=now_plus(retry_after_seconds),
            served_at=now_plus(),
            **error,
        )
        if changed(session, again):
            return close_own_attempt(session, claim, "failed", **error)
    failed = update(Job).where(*held_under(claim))
    failed = failed.values(status=Status.FAILED, finished_at=now_plus(), **error, **_AT_REST)
    return changed(session, failed) and close_own_attempt(session, claim, "failed", **error)


def was_completed(session: Session, claim: Claim) -> bool:
    """Whether this very attempt is the one that succeeded: a commit may be made and seem to have failed."""
    completed = (Job.id == claim.job_id, Job.attempt == claim.attempt, Job.status == Status.SUCCEEDED)
    return session.scalar(select(Job.id).where(*completed)) is not None


def count_failures(session: Session, job_id: UUID, code: str) -> int:
    """How many attempts at a job ended with this error."""
    failed = select(func.count()).select_from(Attempt)
    return session.scalar(failed.where(Attempt.job_id == job_id, Attempt.error_code == code)) or 0


def release_job(session: Session, claim: Claim) -> bool:
    """Hand a job back on shutdown: it is queued again, and the attempt does not count."""
    released = (
        update(Job)
        .where(*held_under(claim))
        .values(**_QUEUED_AGAIN, attempts_charged=Job.attempts_charged - 1, run_after=now_plus())
    )
    return changed(session, released) and close_own_attempt(session, claim, "released")


def hold_back(session: Session, claim: Claim) -> bool:
    """Put back a job that turned out to be long: other shards of its owner are done first, then it is cut."""
    held_back = (
        update(Job)
        .where(*held_under(claim))
        .values(
            **_QUEUED_AGAIN,
            attempts_charged=Job.attempts_charged - 1,
            continuations=Job.continuations + 1,
            is_long=True,
            started_at=None,
        )
    )
    return changed(session, held_back) and close_own_attempt(session, claim, "held_back")


def report_model(session: Session, name: str, *, installed: bool, realtime_factor: float | None) -> None:
    """Put down what a worker knows of a model; an unknown speed leaves the last measured one."""
    values: dict[str, Any] = {"installed": installed, "updated_at": now_plus()}
    if realtime_factor is not None:
        values["realtime_factor"] = realtime_factor
    if not changed(session, update(ModelReport).where(ModelReport.name == name).values(values)):
        session.execute(insert(ModelReport).values(name=name, **values))


# --- the scheduler's side ----------------------------------------------------------------------------------


def count_waiting(session: Session) -> int:
    """Queued jobs that are due."""
    waiting = select(func.count()).select_from(Job)
    return session.scalar(waiting.where(Job.status == Status.QUEUED, Job.run_after <= now_plus())) or 0


def take_unrung(session: Session, *, ring_again_seconds: float | None, limit: int = 500) -> list[UUID]:
    """Queued jobs that are due and were not rung for lately, or never yet (None), marked as rung for now."""
    unheard: ColumnElement[bool] = Job.rung_at.is_(None)
    if ring_again_seconds is not None:
        unheard = or_(unheard, Job.rung_at < now_plus(-ring_again_seconds))
    due = (
        select(Job.id)
        .where(Job.status == Status.QUEUED, Job.run_after <= now_plus(), unheard)
        .order_by(Job.id)
        .limit(limit)
        .with_for_update(skip_locked=True)  # ignored by SQLite
    )
    rung = update(Job).where(Job.id.in_(due)).values(rung_at=now_plus()).returning(Job.id)
    return sorted(session.scalars(rung.execution_options(synchronize_session=False)))


def forget_rings(session: Session, job_ids: Sequence[UUID] | None = None) -> None:
    """Mark queued jobs as not rung for: these, whose message did not go out, or all, when Redis lost them."""
    forgotten = update(Job).where(Job.status == Status.QUEUED).values(rung_at=None)
    session.execute(forgotten if job_ids is None else forgotten.where(Job.id.in_(job_ids)))


def reap_jobs(session: Session, *, max_attempts: int, stall_seconds: float) -> tuple[list[UUID], list[UUID]]:
    """Return jobs whose worker is gone, or has stopped moving: (queued again, failed for good)."""
    lost = and_(
        Job.status == Status.PROCESSING,
        or_(Job.lease_until < now_plus(), Job.progress_at < now_plus(-stall_seconds)),
    )
    error = {
        "error_code": "worker_lost",
        "error_detail": "The worker stopped in mid-job (killed, out of memory, or hanging).",
    }
    # One row that a paused process holds locked must not keep the others waiting. Ignored by SQLite.
    free = Job.id.in_(select(Job.id).where(lost).with_for_update(skip_locked=True))
    again = (
        update(Job)
        .where(lost, free, Job.attempts_charged < max_attempts)
        .values(**_QUEUED_AGAIN, run_after=now_plus(), **error)
        .returning(Job.id)
        .execution_options(synchronize_session=False)
    )
    requeued = list(session.scalars(again))
    over = (
        update(Job)
        # The guard again: a lease may have ended since the first statement.
        .where(lost, free, Job.attempts_charged >= max_attempts)
        .values(status=Status.FAILED, finished_at=now_plus(), **error, **_AT_REST)
        .returning(Job.id)
        .execution_options(synchronize_session=False)
    )
    failed = list(session.scalars(over))
    _close_attempts(session, Attempt.job_id.in_(requeued + failed), outcome="lost", **error)
    return requeued, failed + _fail_spent(session, max_attempts)


def _fail_spent(session: Session, max_attempts: int) -> list[UUID]:
    """Fail what waits and may not be claimed any more, as when fewer attempts are allowed than before."""
    spent = (
        update(Job)
        .where(Job.status == Status.QUEUED, Job.attempts_charged >= max_attempts)
        .values(
            status=Status.FAILED,
            finished_at=now_plus(),
            error_code=func.coalesce(Job.error_code, "worker_lost"),
            error_detail=func.coalesce(Job.error_detail, "All attempts are used up."),
            **_AT_REST,
        )
        .returning(Job.id)
        .execution_options(synchronize_session=False)
    )
    return list(session.scalars(spent))


def expire_jobs(session: Session, *, ttl_days: float, limit: int = 500) -> list[UUID]:
    """Delete jobs that ended too long ago, and put down their files as garbage."""
    # A subquery is evaluated once: with the clock's function itself no index could be used.
    end = select(now_plus(-ttl_days * 86400)).scalar_subquery()
    old = select(Job.id).where(Job.finished_at < end).order_by(Job.finished_at).limit(limit)
    deleted = delete(Job).where(Job.id.in_(old)).returning(Job.id)
    expired = list(session.scalars(deleted.execution_options(synchronize_session=False)))
    _note_garbage(session, all_prefixes(expired))
    return expired


def find_kept(session: Session, job_ids: Sequence[UUID]) -> dict[UUID, set[int]]:
    """Those of these jobs that there are, each with the attempts whose results are in use or being made."""
    query = select(Job.id, Job.attempt, Job.status, Job.artifacts).where(Job.id.in_(job_ids))
    kept: dict[UUID, set[int]] = {}
    for job_id, attempt, status, artifacts in session.execute(query):
        in_use = {attempt} if status is Status.PROCESSING else set()
        # A result of this attempt lies under results/{job}/{attempt}/.
        kept[job_id] = in_use | {int(artifact["key"].split("/")[-2]) for artifact in artifacts}
    return kept


def list_garbage(session: Session, *, older_than_seconds: float) -> list[str]:
    """Prefixes to delete from storage, by now beyond the reach of a worker that was still writing."""
    due = select(Garbage.prefix).where(Garbage.created_at < now_plus(-older_than_seconds))
    return list(session.scalars(due.order_by(Garbage.created_at).limit(500)))


def postpone_garbage(session: Session, prefix: str) -> None:
    """Put a prefix that storage did not delete behind the others."""
    session.execute(update(Garbage).where(Garbage.prefix == prefix).values(created_at=now_plus()))


def forget_garbage(session: Session, prefix: str) -> None:
    """The prefix is gone from storage."""
    session.execute(delete(Garbage).where(Garbage.prefix == prefix))


# --- pieces ------------------------------------------------------------------------------------------------

TURN = func.coalesce(Job.served_at, Job.created_at)
"""Jobs take turns in this order, least recently served first; as the index `ix_jobs_turn` has it."""

CLAIMED = (
    Job.id,
    Job.attempt,
    Job.model,
    Job.options,
    Job.upload_key,
    Job.planned_by,
    Job.samples,
    Job.audio_seconds_total,
    Job.shards_total,
    Job.shards_done,
    Job.warnings,
    Job.is_long,
)

_AT_REST: dict[str, Any] = {"phase": None, "download": None, "worker": None, "lease_until": None}
_QUEUED_AGAIN: dict[str, Any] = {
    **_AT_REST,
    "status": Status.QUEUED,
    "rung_at": None,
    "audio_seconds_done": 0.0,
    "transcribing_since": None,
}
_IN_ONE_PIECE: dict[str, Any] = {
    "planned_by": None,
    "samples": None,
    "shards_total": None,
    "shards_done": None,
}
_UNSYNCHRONIZED: dict[str, Any] = {"synchronize_session": False}


def held_under(claim: Claim) -> tuple[ColumnElement[bool], ...]:
    """That the job is in the hands of this attempt."""
    return (
        Job.id == claim.job_id,
        Job.attempt == claim.attempt,
        Job.status == Status.PROCESSING,
        Job.lease_until.is_not(None),
    )


def changed(session: Session, statement: Executable) -> bool:
    """Whether a guarded statement found its row."""
    result = cast("CursorResult[Any]", session.execute(statement, execution_options=_UNSYNCHRONIZED))
    return result.rowcount == 1


def close_own_attempt(session: Session, claim: Claim, outcome: str, **error: str) -> bool:
    """Put down how an attempt ended; always True."""
    mine = and_(Attempt.job_id == claim.job_id, Attempt.number == claim.attempt)
    _close_attempts(session, mine, outcome=outcome, **error)
    return True


def _close_attempts(session: Session, which: ColumnElement[bool], *, outcome: str, **error: str) -> None:
    closed = update(Attempt).where(which, Attempt.outcome.is_(None))
    session.execute(
        closed.values(outcome=outcome, finished_at=now_plus(), **error),
        execution_options=_UNSYNCHRONIZED,
    )


def all_prefixes(job_ids: Sequence[UUID]) -> list[str]:
    """Everything that jobs may have in storage."""
    return [prefix(job_id) for job_id in job_ids for prefix in (upload_prefix, result_prefix, shard_prefix)]


def _note_garbage(session: Session, prefixes: Sequence[str]) -> None:
    if prefixes:
        session.execute(delete(Garbage).where(Garbage.prefix.in_(prefixes)), execution_options=_UNSYNCHRONIZED)
        session.execute(insert(Garbage).values([{"prefix": p, "created_at": now_plus()} for p in prefixes]))


def eta_seconds(job: Job, now: datetime) -> float | None:
    """Seconds until the end, from the speed measured in this attempt; None while nothing is known."""
    if job.status is not Status.PROCESSING or not job.transcribing_since or not job.audio_seconds_total:
        return None
    elapsed = (now - job.transcribing_since).total_seconds()
    if job.audio_seconds_done <= 0 or elapsed <= 0:
        return None
    left = max(0.0, job.audio_seconds_total - job.audio_seconds_done)
    return round(left * elapsed / job.audio_seconds_done, 1)
