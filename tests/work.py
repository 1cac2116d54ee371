"""Jobs and work items for tests of the queue: short names for what clients, workers and the scheduler do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import select, update
from uuid6 import uuid7

from shared import jobs, work
from shared.db import Sessions, now_plus
from shared.jobs import NewJob
from shared.kinds import ASSEMBLE, SHARD, TRANSCRIBE, Claim, Held, NewItem, Progress, Result
from shared.tables import Attempt, Job, WorkItem

MAX_ATTEMPTS = 3
KEY = "shards/somewhere/results"


def add_job(sessions: Sessions, **changes: object) -> UUID:
    job_id = UUID(str(uuid7()))
    fields = {
        "id": job_id,
        "owner": "public",
        "model": "basic_pitch",
        "options": {},
        "client_metadata": {},
        "filename": "song.wav",
        "upload_key": f"uploads/{job_id}/audio",
        "upload_bytes": 10,
    }
    job, _ = jobs.create_job(sessions, NewJob(**(fields | changes)))  # type: ignore[arg-type]
    return job.id


def get(sessions: Sessions, job_id: UUID) -> Job:
    with sessions() as session:
        return session.scalars(select(Job).where(Job.id == job_id)).one()


def item(sessions: Sessions, job_id: UUID, kind: str = TRANSCRIBE, number: int | None = None) -> WorkItem:
    with sessions() as session:
        query = select(WorkItem).where(WorkItem.job_id == job_id, WorkItem.kind == kind)
        if number is not None:
            query = query.where(WorkItem.number == number)
        return session.scalars(query).one()


def items(sessions: Sessions, job_id: UUID, kind: str) -> Sequence[WorkItem]:
    with sessions() as session:
        return work.list_items(session, job_id, kind)


def change_items(sessions: Sessions, job_id: UUID, kind: str = TRANSCRIBE, number: int = 0, **values: Any) -> None:
    """Write columns of an item, past the state machine."""
    with sessions.begin() as session:
        changed = update(WorkItem).where(WorkItem.job_id == job_id, WorkItem.kind == kind)
        if kind == SHARD:
            changed = changed.where(WorkItem.number == number)
        session.execute(changed.values(values))


def claim(
    sessions: Sessions,
    job_id: UUID,
    kind: str = TRANSCRIBE,
    number: int | None = None,
    *,
    worker: str = "a",
    lease_seconds: float = 60,
    max_attempts: int = MAX_ATTEMPTS,
) -> Claim | None:
    item_id = item(sessions, job_id, kind, number).id
    with sessions.begin() as session:
        return work.claim(session, item_id, worker=worker, lease_seconds=lease_seconds, max_attempts=max_attempts)


def must_claim(sessions: Sessions, job_id: UUID, *which: Any, **how: Any) -> Claim:
    claimed = claim(sessions, job_id, *which, **how)
    assert claimed is not None
    return claimed


def renew(sessions: Sessions, held: Held, progress: Progress | None = None, *, moved: bool = True) -> bool:
    with sessions.begin() as session:
        return work.renew(session, held, lease_seconds=60, progress=progress, moved=moved)


def complete(sessions: Sessions, claimed: Claim) -> bool:
    """As the handler of its kind does."""
    with sessions.begin() as session:
        if claimed.kind == SHARD:
            return work.complete(session, claimed, result_key=KEY)
        result = Result(artifacts=[{"name": "x", "key": "results/j/1/x"}], note_count=3, audio_seconds=1.5)
        return work.complete(session, claimed, result=result)


def fail(sessions: Sessions, held: Held, *, retry_after: float | None, is_counted: bool = True) -> bool:
    with sessions.begin() as session:
        return work.fail(
            session,
            held,
            code="broken",
            detail="It broke.",
            retry_after_seconds=retry_after,
            max_attempts=MAX_ATTEMPTS,
            is_counted=is_counted,
        )


def release(sessions: Sessions, held: Held) -> bool:
    with sessions.begin() as session:
        return work.release(session, held)


def defer(sessions: Sessions, held: Held) -> bool:
    with sessions.begin() as session:
        return work.defer(session, held)


def expire_lease(sessions: Sessions, held: Held) -> None:
    with sessions.begin() as session:
        session.execute(update(WorkItem).where(WorkItem.id == held.id).values(lease_until=now_plus(-1)))


Which = list[tuple[str, int]]


def rescue(
    sessions: Sessions, *, stall_seconds: float = 900, max_attempts: int = MAX_ATTEMPTS
) -> tuple[Which, Which]:
    """Kind and number of what is queued again, and of what failed for good."""
    requeued, failed = work.rescue(sessions, max_attempts=max_attempts, stall_seconds=stall_seconds)
    return [(held.kind, held.number) for held in requeued], [(held.kind, held.number) for held in failed]


def split(
    sessions: Sessions, claimed: Claim, *, count: int = 3, in_order: bool = False, seconds: float = 8.0
) -> bool:
    """Complete an item as the handler does that finds a recording long."""
    shards = [
        NewItem(
            SHARD,
            number,
            blocked_by=number - 1 if in_order and number else None,
            input_key=f"shards/{claimed.job_id}/{claimed.attempt}/{number}/audio",
            seconds=seconds,
            payload={"first": 4 * number, "stop": 4 * number + 4},
        )
        for number in range(count)
    ]
    payload = {"samples": 8000 * count, "seconds": seconds * count, "split_by_attempt": claimed.attempt}
    assembly = NewItem(ASSEMBLE, count, blocked_by=count - 1, payload=payload)
    job = {"shards_total": count, "audio_seconds_total": seconds * count}
    with sessions.begin() as session:
        return work.complete(session, claimed, then=[*shards, assembly], job=job)


def add_split_job(sessions: Sessions, **how: Any) -> UUID:
    job_id = add_job(sessions)
    assert split(sessions, must_claim(sessions, job_id), **how)
    return job_id


def states(sessions: Sessions, job_id: UUID, kind: str = SHARD) -> list[tuple[str, int]]:
    """Status and attempts of the items of a kind."""
    return [(found.status.value, found.attempt) for found in items(sessions, job_id, kind)]


def outcomes(sessions: Sessions, job_id: UUID) -> list[str | None]:
    """How the attempts at all items of a job ended, in the order in which they began."""
    with sessions() as session:
        query = select(Attempt.outcome).join(WorkItem, WorkItem.id == Attempt.item_id)
        return list(session.scalars(query.where(WorkItem.job_id == job_id).order_by(Attempt.started_at)))
