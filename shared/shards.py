"""The shards of a long recording: what `jobs` does for a job, for a row each, that any worker may take.

    waiting ──before it done──▶ queued ──claim──▶ processing ──complete──▶ succeeded
                                  ▲ ▲                │ └─fail, reap─▶ failed, and the job with it
                                  │ └─release, reap──┤
                                  └─fail with retry──┘

An attempt cuts the recording and hands its job over: the job stays `processing`, but has no lease, so that nobody
holds it and nobody misses its worker. Who completes the last shard takes the job up again, in the same
transaction, to make notes of all results. When that attempt dies the next one finds the results where they are. A
job that ends ends its shards: each statement here asks whether it still runs.

Whoever changes job and shard locks the job first, so that no two transactions wait for each other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, exists, func, insert, or_, select, tuple_, update
from sqlalchemy.orm import Session, aliased

from shared.db import now_plus
from shared.jobs import CLAIMED, Claim, changed, close_own_attempt, held_under, open_attempt
from shared.tables import Job, Phase, Shard, ShardStatus, Status


@dataclass(frozen=True)
class NewShard:
    """Segments first, …, stop - 1 of a recording; `seconds` of it, and where lies what they hear."""

    first: int
    stop: int
    seconds: float
    audio_key: str


@dataclass(frozen=True)
class ShardClaim:
    """One attempt at a shard that a worker holds.

    Attributes:
        plan: number of the attempt that cut the recording.
        before_key: where the results of the shard before lie, if they are there already.
        last_error: code of what an earlier attempt failed of.
    """

    job_id: UUID
    plan: int
    number: int
    attempt: int
    first: int
    stop: int
    seconds: float
    audio_key: str
    before_key: str | None
    last_error: str | None
    model: str
    options: dict[str, Any]


@dataclass(frozen=True)
class Completed:
    """What came of a finished shard.

    Attributes:
        won: whether it was still ours.
        is_next_due: whether the one after it waited for it, and now for a worker.
        assembly: the job, taken to be assembled, if it was the last one.
    """

    won: bool
    is_next_due: bool = False
    assembly: Claim | None = None


@dataclass(frozen=True)
class ShardsProgress:
    """How far the shards of a job are; `attempts`: the most that one of them took."""

    done: int
    total: int
    seconds_done: float
    eta_seconds: float | None
    attempts: int


# --- from the job to its shards ----------------------------------------------------------------------------


def plan_job(
    session: Session,
    claim: Claim,
    shards: Sequence[NewShard],
    *,
    samples: int,
    seconds: float,
    in_order: bool,
    warnings: Sequence[dict[str, str]] = (),
) -> bool:
    """Insert the shards of a recording and let go of its job; False when the attempt is stale.

    Args:
        samples, seconds: of the whole recording.
        in_order: a shard needs the result of the one before it.
        warnings: about the recording.
    """
    planned = {
        "planned_by": claim.attempt,
        "samples": samples,
        "audio_seconds_total": seconds,
        "shards_total": len(shards),
        "shards_done": 0,
        "warnings": list(warnings),
    }
    if not changed(session, update(Job).where(*held_under(claim)).values(**planned, **_handed_over())):
        return False
    session.execute(
        insert(Shard).values(
            [
                {
                    "job_id": claim.job_id,
                    "number": number,
                    "first": shard.first,
                    "stop": shard.stop,
                    "seconds": shard.seconds,
                    "audio_key": shard.audio_key,
                    "status": ShardStatus.WAITING if in_order and number else ShardStatus.QUEUED,
                    "attempt": 0,
                    "attempts_charged": 0,
                    "run_after": now_plus(),
                    "seconds_done": 0.0,
                }
                for number, shard in enumerate(shards)
            ]
        )
    )
    return close_own_attempt(session, claim, "handed_over")


def was_planned(session: Session, claim: Claim) -> bool:
    """Whether the job's shards are those that this very attempt has cut."""
    mine = select(Job.id).where(Job.id == claim.job_id, Job.planned_by == claim.attempt)
    return session.scalar(mine) is not None


def hand_over(session: Session, claim: Claim) -> bool:
    """Let go of a job whose shards are not all done yet, so that they are run; False when the attempt is stale."""
    assert claim.plan is not None
    handed = update(Job).where(*held_under(claim), Job.shards_done < Job.shards_total).values(**_handed_over())
    return changed(session, handed) and close_own_attempt(session, claim, "handed_over")


def _handed_over() -> dict[str, Any]:
    """What is written into a job that nobody holds. It got this far: its attempts are counted anew."""
    return {
        "attempts_charged": 0,
        "worker": None,
        "lease_until": None,
        "progress_at": None,
        "download": None,
        "phase": Phase.TRANSCRIBING,
        "audio_seconds_done": 0.0,
        "served_at": now_plus(),
    }


# --- the worker's side -------------------------------------------------------------------------------------


def claim_shard(
    session: Session, job_id: UUID, number: int, *, worker: str, lease_seconds: float, max_attempts: int
) -> ShardClaim | None:
    """Take a shard that is due; None when another has it, or its job has ended."""
    candidate = aliased(Shard)
    due = (
        select(candidate.number)
        .join(Job, Job.id == candidate.job_id)
        .where(
            candidate.job_id == job_id,
            candidate.number == number,
            candidate.status == ShardStatus.QUEUED,
            candidate.run_after <= now_plus(),
            candidate.attempts_charged < max_attempts,
            *RUNS_IN_SHARDS,
        )
        .with_for_update(skip_locked=True, of=candidate)  # ignored by SQLite
    )
    claimed = session.execute(
        update(Shard)
        .where(
            Shard.job_id == job_id,
            Shard.number == due.scalar_subquery(),
            Shard.status == ShardStatus.QUEUED,
        )
        .values(
            status=ShardStatus.PROCESSING,
            attempt=Shard.attempt + 1,
            attempts_charged=Shard.attempts_charged + 1,
            worker=worker,
            lease_until=now_plus(lease_seconds),
            started_at=now_plus(),
            progress_at=now_plus(),
            seconds_done=0.0,
        )
        .returning(Shard.attempt, Shard.first, Shard.stop, Shard.seconds, Shard.audio_key, Shard.error_code),
        execution_options={"synchronize_session": False},
    ).one_or_none()
    if claimed is None:
        return None
    before = select(Shard.result_key).where(Shard.job_id == job_id, Shard.number == number - 1)
    job = session.execute(select(Job.planned_by, Job.model, Job.options).where(Job.id == job_id)).one()
    return ShardClaim(
        job_id=job_id,
        plan=job.planned_by,
        number=number,
        attempt=claimed.attempt,
        first=claimed.first,
        stop=claimed.stop,
        seconds=claimed.seconds,
        audio_key=claimed.audio_key,
        before_key=session.scalar(before),
        last_error=claimed.error_code,
        model=job.model,
        options=job.options,
    )


def renew_shard(
    session: Session, claim: ShardClaim, *, lease_seconds: float, seconds_done: float, moved: bool
) -> bool:
    """Extend the lease and record progress; False when shard or job are no longer ours: stop, say nothing."""
    values: dict[str, Any] = {"lease_until": now_plus(lease_seconds), "seconds_done": seconds_done}
    if moved:
        values["progress_at"] = now_plus()
    job_runs = exists().where(*_job_runs(claim))
    return changed(session, update(Shard).where(*_held_under(claim), job_runs).values(values))


def complete_shard(
    session: Session, claim: ShardClaim, *, result_key: str, worker: str, lease_seconds: float
) -> Completed:
    """End a shard as succeeded. With the last one its worker takes the job, to assemble the results."""
    if not _lock_job(session, claim):
        return Completed(won=False)
    done = (
        update(Shard)
        .where(*_held_under(claim))
        .values(
            **_AT_REST,
            status=ShardStatus.SUCCEEDED,
            seconds_done=Shard.seconds,
            finished_at=now_plus(),
            result_key=result_key,
            error_code=None,
            error_detail=None,
        )
    )
    if not changed(session, done):
        return Completed(won=False)
    following = update(Shard).where(
        Shard.job_id == claim.job_id,
        Shard.number == claim.number + 1,
        Shard.status == ShardStatus.WAITING,
    )
    is_next_due = changed(session, following.values(status=ShardStatus.QUEUED, run_after=now_plus(), rung_at=None))
    counted = update(Job).where(Job.id == claim.job_id)
    changed(session, counted.values(shards_done=Job.shards_done + 1, served_at=now_plus()))
    # Two that finish at once wait for each other at the job's row, so exactly one of them sees all done.
    last = session.execute(
        update(Job)
        .where(*_job_runs(claim), Job.shards_done == Job.shards_total)
        .values(
            attempt=Job.attempt + 1,
            attempts_charged=Job.attempts_charged + 1,
            continuations=Job.continuations + 1,
            worker=worker,
            lease_until=now_plus(lease_seconds),
            progress_at=now_plus(),
            phase=Phase.WRITING_RESULTS,
            audio_seconds_done=Job.audio_seconds_total,
        )
        .returning(*CLAIMED),
        execution_options={"synchronize_session": False},
    ).one_or_none()
    assembly = None if last is None else open_attempt(session, last, worker=worker)
    return Completed(won=True, is_next_due=is_next_due, assembly=assembly)


def was_completed(session: Session, claim: ShardClaim, *, result_key: str) -> bool:
    """Whether it is this very attempt that completed the shard: an earlier try seemed to fail and did not."""
    mine = select(Shard.number).where(
        Shard.job_id == claim.job_id,
        Shard.number == claim.number,
        Shard.attempt == claim.attempt,
        Shard.status == ShardStatus.SUCCEEDED,
        Shard.result_key == result_key,
    )
    return session.scalar(mine) is not None


def fail_shard(
    session: Session,
    claim: ShardClaim,
    *,
    code: str,
    detail: str,
    retry_after_seconds: float | None,
    max_attempts: int,
    is_charged: bool = True,
) -> bool:
    """End the attempt: another one may help and is left, or the shard has failed, and its job with it.

    An attempt that is not charged leaves as many as there were before it.
    """
    if not _lock_job(session, claim):
        return False
    error = {"error_code": code, "error_detail": detail[:1000]}
    if retry_after_seconds is not None:
        charge = 0 if is_charged else 1
        again = update(Shard).where(*_held_under(claim), Shard.attempts_charged - charge < max_attempts)
        again = again.values(
            **_QUEUED_AGAIN,
            attempts_charged=Shard.attempts_charged - charge,
            run_after=now_plus(retry_after_seconds),
            **error,
        )
        if changed(session, again):
            return changed(session, update(Job).where(Job.id == claim.job_id).values(served_at=now_plus()))
    failed = update(Shard).where(*_held_under(claim))
    if not changed(session, failed.values(**_AT_REST, status=ShardStatus.FAILED, **error)):
        return False
    changed(session, _failed(Job.id == claim.job_id, **error))
    _stop_others(session, [claim.job_id])
    return True


def release_shard(session: Session, claim: ShardClaim) -> bool:
    """Hand a shard back on shutdown: it is queued again, and the attempt does not count."""
    released = (
        update(Shard)
        .where(*_held_under(claim), exists().where(*_job_runs(claim)))
        .values(**_QUEUED_AGAIN, attempts_charged=Shard.attempts_charged - 1, run_after=now_plus())
    )
    return changed(session, released)


# --- the scheduler's side ----------------------------------------------------------------------------------


def count_waiting(session: Session) -> int:
    """Shards that are due."""
    waiting = select(func.count()).select_from(Shard).join(Job, Job.id == Shard.job_id)
    return session.scalar(waiting.where(*is_due())) or 0


def take_unrung(session: Session, *, ring_again_seconds: float | None, limit: int = 500) -> list[tuple[UUID, int]]:
    """Shards (job, number) that are due and were not rung for lately, or never yet (None), now marked as rung."""
    candidate = aliased(Shard)
    unheard: ColumnElement[bool] = candidate.rung_at.is_(None)
    if ring_again_seconds is not None:
        unheard = or_(unheard, candidate.rung_at < now_plus(-ring_again_seconds))
    due = (
        select(candidate.job_id, candidate.number)
        .join(Job, Job.id == candidate.job_id)
        .where(
            candidate.status == ShardStatus.QUEUED,
            candidate.run_after <= now_plus(),
            unheard,
            *RUNS_IN_SHARDS,
        )
        .order_by(candidate.job_id, candidate.number)
        .limit(limit)
        .with_for_update(skip_locked=True, of=candidate)  # ignored by SQLite
    )
    rung = update(Shard).where(_is_one_of(due)).values(rung_at=now_plus()).returning(Shard.job_id, Shard.number)
    rows = session.execute(rung, execution_options={"synchronize_session": False})
    return sorted((row.job_id, row.number) for row in rows)


def forget_rings(session: Session, shards: Sequence[tuple[UUID, int]] | None = None) -> None:
    """Mark queued shards as not rung for: these, whose message did not go out, or all, when Redis lost them."""
    forgotten = update(Shard).where(Shard.status == ShardStatus.QUEUED).values(rung_at=None)
    changed(session, forgotten if shards is None else forgotten.where(_is_one_of(shards)))


def reap_shards(
    session: Session, *, max_attempts: int, stall_seconds: float
) -> tuple[list[tuple[UUID, int]], list[UUID]]:
    """Return shards whose worker is gone, or has stopped moving: (queued again, jobs that failed for good)."""
    lost = and_(
        Shard.status == ShardStatus.PROCESSING,
        or_(Shard.lease_until < now_plus(), Shard.progress_at < now_plus(-stall_seconds)),
    )
    error = {
        "error_code": "worker_lost",
        "error_detail": "The worker stopped in mid-job (killed, out of memory, or hanging).",
    }
    used_up = and_(lost, Shard.attempts_charged >= max_attempts)
    is_poisoned = and_(*RUNS_IN_SHARDS, exists().where(Shard.job_id == Job.id, used_up))
    failed = list(session.scalars(_failed(is_poisoned, **error).returning(Job.id)))
    if failed:
        over = update(Shard).where(Shard.job_id.in_(failed), used_up)
        changed(session, over.values(**_AT_REST, status=ShardStatus.FAILED, **error))
        _stop_others(session, failed)
    again = (
        update(Shard)
        .where(lost, Shard.attempts_charged < max_attempts)
        .values(**_QUEUED_AGAIN, run_after=now_plus(), **error)
        .returning(Shard.job_id, Shard.number)
    )
    rows = session.execute(again, execution_options={"synchronize_session": False})
    return [(row.job_id, row.number) for row in rows], failed


# --- the client's side -------------------------------------------------------------------------------------


def progress_of(session: Session, jobs: Iterable[Job], now: datetime) -> dict[UUID, ShardsProgress]:
    """How far the shards are of those jobs that have any.

    The time left comes from the speed at which attempts went until now, and from how many are running; between two
    shards, as if one was.
    """
    sharded = [job.id for job in jobs if job.planned_by is not None]
    if not sharded:
        return {}
    found: defaultdict[UUID, list[Shard]] = defaultdict(list)
    for shard in session.scalars(select(Shard).where(Shard.job_id.in_(sharded))):
        found[shard.job_id].append(shard)
    return {job_id: _progress(shards, now) for job_id, shards in found.items()}


def _progress(shards: Sequence[Shard], now: datetime) -> ShardsProgress:
    seconds_done = sum(shard.seconds_done for shard in shards)
    running = sum(shard.status is ShardStatus.PROCESSING for shard in shards)
    elapsed = sum(
        ((shard.finished_at or now) - shard.started_at).total_seconds()
        for shard in shards
        if shard.started_at and shard.status in (ShardStatus.PROCESSING, ShardStatus.SUCCEEDED)
    )
    left = sum(shard.seconds for shard in shards) - seconds_done
    is_known = elapsed > 0 and seconds_done > 0
    return ShardsProgress(
        done=sum(shard.status is ShardStatus.SUCCEEDED for shard in shards),
        total=len(shards),
        seconds_done=seconds_done,
        eta_seconds=round(left * elapsed / seconds_done / max(1, running), 1) if is_known else None,
        attempts=max(shard.attempt for shard in shards),
    )


def result_keys(session: Session, job_id: UUID) -> list[str]:
    """Where the results of all shards lie, in order."""
    query = select(Shard.result_key).where(Shard.job_id == job_id).order_by(Shard.number)
    return [key for key in session.scalars(query) if key is not None]


def find_kept(session: Session, job_ids: Sequence[UUID]) -> dict[UUID, set[int]]:
    """Those of these jobs that there are, each with the attempt whose shards are in use or being cut."""
    query = select(Job.id, Job.planned_by, Job.attempt, Job.status).where(Job.id.in_(job_ids))
    return {
        job_id: set() if status in (Status.SUCCEEDED, Status.CANCELED) else {planned_by or attempt}
        for job_id, planned_by, attempt, status in session.execute(query)
    }


def seconds_taken(session: Session, job_id: UUID) -> float:
    """How long workers were at the shards of a job, each in the attempt that succeeded."""
    shards = session.scalars(select(Shard).where(Shard.job_id == job_id, Shard.finished_at.is_not(None)))
    return sum((s.finished_at - s.started_at).total_seconds() for s in shards if s.finished_at and s.started_at)


# --- pieces ------------------------------------------------------------------------------------------------

RUNS_IN_SHARDS: tuple[ColumnElement[bool], ...] = (
    Job.status == Status.PROCESSING,
    Job.lease_until.is_(None),
    Job.planned_by.is_not(None),
)
"""That a job is at the stage where its shards are run."""

_AT_REST: dict[str, Any] = {"worker": None, "lease_until": None, "progress_at": None}
_QUEUED_AGAIN: dict[str, Any] = {
    **_AT_REST,
    "status": ShardStatus.QUEUED,
    "rung_at": None,
    "seconds_done": 0.0,
}


def is_due() -> tuple[ColumnElement[bool], ...]:
    """That a shard of a job waits for nothing but a worker."""
    return (*RUNS_IN_SHARDS, Shard.status == ShardStatus.QUEUED, Shard.run_after <= now_plus())


def _held_under(claim: ShardClaim) -> tuple[ColumnElement[bool], ...]:
    return (
        Shard.job_id == claim.job_id,
        Shard.number == claim.number,
        Shard.attempt == claim.attempt,
        Shard.status == ShardStatus.PROCESSING,
    )


def _job_runs(claim: ShardClaim) -> tuple[ColumnElement[bool], ...]:
    return (Job.id == claim.job_id, Job.planned_by == claim.plan, *RUNS_IN_SHARDS)


def _lock_job(session: Session, claim: ShardClaim) -> bool:
    """Keep others from changing the job until the end of the transaction; False when it has ended."""
    return changed(session, update(Job).where(*_job_runs(claim)).values(planned_by=claim.plan))


def _failed(which: ColumnElement[bool], **error: str) -> Any:
    failed = update(Job).where(which)
    failed = failed.values(status=Status.FAILED, phase=None, finished_at=now_plus(), **error)
    return failed.execution_options(synchronize_session=False)


def _stop_others(session: Session, job_ids: Sequence[UUID]) -> None:
    """Take the shards of failed jobs from their workers, who learn of it at the next beat. Not charged."""
    others = update(Shard).where(Shard.job_id.in_(job_ids), Shard.status == ShardStatus.PROCESSING)
    changed(session, others.values(**_QUEUED_AGAIN, attempts_charged=Shard.attempts_charged - 1))


def _is_one_of(shards: Select[UUID, int] | Sequence[tuple[UUID, int]]) -> ColumnElement[bool]:
    return tuple_(Shard.job_id, Shard.number).in_(shards)
