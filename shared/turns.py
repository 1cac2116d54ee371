"""Whose turn it is: which job, or shard of a job, a worker that is free takes next.

A ring says that there is work, not which: as many rings go out as there are jobs and shards waiting, and who hears
one takes what is best. First come owners of whom the fewest jobs and shards run just now; then the job that has
not been on a worker for the longest time, counted from its creation if it never was. So a recording of three
hours, which every shard puts back behind those who came in the meantime, does not hold up the short ones, and
nothing waits for ever.

Of an owner's long recordings one after the other is cut: as long as shards wait, a job that is known to be long
does too, so that only what is being worked on lies in storage uncompressed. That a job is long shows when an
attempt has opened its recording, and `must_wait` then says whether to put it back.

Who is at a long recording looks for short jobs that nobody took (`unheard_for`): see `worker.giving_way`.

What is best is looked up without a lock; taking it is the guarded statement of `jobs` or `shards`. If another
worker was faster, the next best is tried.
"""

from __future__ import annotations

import random
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from shared.db import Sessions, now_plus
from shared.jobs import TURN, Claim, claim_job
from shared.shards import RUNS_IN_SHARDS, ShardClaim, claim_shard, is_due
from shared.tables import Job, Shard, ShardStatus, Status

LINE_SECONDS = 1.0  # how old a place in line may be
LINE_LENGTH = 1000  # jobs that are told their place; who comes after them is told that of the next one
LOOKED_AT = 8  # candidates looked up at once: enough for some workers that come at the same moment
TRIES = 5


@dataclass(frozen=True)
class Unit:
    """A job, or one of its shards, that waits since `turn`."""

    turn: datetime
    job_id: UUID
    shard: int | None


def claim_next(
    sessions: Sessions,
    *,
    worker: str,
    lease_seconds: float,
    max_attempts: int,
    unheard_for: float | None = None,
) -> Claim | ShardClaim | None:
    """Take the job or shard whose turn it is; None when nothing is due.

    Args:
        unheard_for: only jobs, not known to be long, that have been due for so many seconds.
    """
    how = {"worker": worker, "lease_seconds": lease_seconds, "max_attempts": max_attempts}
    for _ in range(TRIES):
        with sessions() as session:
            units = next_units(session, max_attempts=max_attempts, unheard_for=unheard_for)
        for unit in units:
            claim: Claim | ShardClaim | None
            with sessions.begin() as session:
                if unit.shard is None:
                    claim = claim_job(session, unit.job_id, **how)  # type: ignore[arg-type]
                else:
                    claim = claim_shard(session, unit.job_id, unit.shard, **how)  # type: ignore[arg-type]
            if claim is not None:
                return claim
        if not units:
            return None
        time.sleep(random.uniform(0.01, 0.05))  # noqa: S311 - all of them were taken by others just now
    return None


def next_units(
    session: Session, *, max_attempts: int, unheard_for: float | None = None, limit: int = LOOKED_AT
) -> list[Unit]:
    """What is best to take now, best first; all of owners of whom equally many jobs and shards run."""
    running = _running(session)
    waiting = _owners(session)
    for level in sorted({running[owner] for owner in waiting}):
        owners = [owner for owner in waiting if running[owner] == level]
        if unheard_for is None:
            units = _units(session, owners, max_attempts, limit)
        else:
            units = _jobs(session, owners, max_attempts, limit, is_long=False, due_for=unheard_for)
        if units:
            return units
    return []


class WaitingLine:
    """Tells jobs their place among all that wait. Read once a second, however many ask."""

    def __init__(self) -> None:
        self._front: list[tuple[datetime, UUID]] = []  # in the order of their turns
        self._back: list[tuple[datetime, UUID]] = []  # those that are known to be long, and not cut
        self._read_at = float("-inf")
        self._reading = threading.Lock()

    def position(self, session: Session, job: Job) -> int | None:
        """1 for the job whose turn is next, of all owners'; None for one that does not wait."""
        if job.status is not Status.QUEUED:
            return None
        with self._reading:
            if time.monotonic() - self._read_at > LINE_SECONDS:
                self._read_at = time.monotonic()  # before: if the database is away, not each of us waits for it
                self._front, self._back = _line(session)
            front, back = self._front, self._back
        place = (job.served_at or job.created_at, job.id)
        if job.is_long:
            return len(front) + bisect_left(back, place) + 1
        return bisect_left(front, place) + 1


def _line(session: Session) -> tuple[list[tuple[datetime, UUID]], list[tuple[datetime, UUID]]]:
    def read(query: Select[datetime, UUID]) -> list[tuple[datetime, UUID]]:
        ordered = query.order_by(TURN, Job.id).limit(LINE_LENGTH)
        return [(turn, job_id) for turn, job_id in session.execute(ordered)]

    queued = select(TURN, Job.id).where(Job.status == Status.QUEUED)
    sharded = select(TURN, Job.id).join(Shard, Shard.job_id == Job.id).where(*is_due()).distinct()
    front = read(queued.where(Job.is_long.is_(False))) + read(sharded)
    return sorted(front), read(queued.where(Job.is_long.is_(True)))


def must_wait(session: Session, job_id: UUID) -> bool:
    """Whether a job that is long is to wait before it is cut: other shards of its owner do."""
    owner = select(Job.owner).where(Job.id == job_id).scalar_subquery()
    return session.scalar(_owners_of_due_shards().where(Job.owner == owner).limit(1)) is not None


def _running(session: Session) -> Counter[str]:
    """How many jobs and shards of each owner workers hold."""
    held = (Job.status == Status.PROCESSING, Job.lease_until.is_not(None))
    jobs = select(Job.owner, func.count()).where(*held).group_by(Job.owner)
    shards = (
        select(Job.owner, func.count())
        .join(Shard, Shard.job_id == Job.id)
        .where(Shard.status == ShardStatus.PROCESSING)
        .group_by(Job.owner)
    )
    counts: Counter[str] = Counter()
    for query in (jobs, shards):
        for owner, count in session.execute(query):
            counts[owner] += count
    return counts


def _owners(session: Session) -> set[str]:
    """Owners of jobs and shards that wait: a few steps in the index for each of them, however many wait."""
    queued = Job.status == Status.QUEUED
    first = select(func.min(Job.owner).label("owner")).where(queued).cte("owners", recursive=True)
    following = select(func.min(Job.owner)).where(queued, Job.owner > first.c.owner).scalar_subquery()
    owners = first.union_all(select(following).where(first.c.owner.is_not(None)))
    found = set(session.scalars(select(owners.c.owner).where(owners.c.owner.is_not(None))))
    sharded = select(Job.owner).where(*RUNS_IN_SHARDS).distinct()
    return found | set(session.scalars(sharded))


def _units(session: Session, owners: Collection[str], max_attempts: int, limit: int) -> list[Unit]:
    shards = (
        select(TURN, Job.id, Shard.number)
        .join(Shard, Shard.job_id == Job.id)
        .where(*is_due(), Job.owner.in_(owners), Shard.attempts_charged < max_attempts)
        .order_by(TURN, Job.id, Shard.number)
        .limit(limit)
    )
    units = [Unit(turn, job_id, number) for turn, job_id, number in session.execute(shards)]
    units += _jobs(session, owners, max_attempts, limit, is_long=False)
    busy = set(session.scalars(_owners_of_due_shards()))
    units += _jobs(session, [owner for owner in owners if owner not in busy], max_attempts, limit, is_long=True)
    return sorted(units, key=lambda unit: (unit.turn, unit.job_id, unit.shard or 0))[:limit]


def _jobs(
    session: Session,
    owners: Collection[str],
    max_attempts: int,
    limit: int,
    *,
    is_long: bool,
    due_for: float = 0.0,
) -> list[Unit]:
    # Written so that no database takes the index of `run_after` for this: nearly all that is queued is due.
    has_been_due = func.coalesce(Job.run_after, Job.created_at) <= now_plus(-due_for)
    jobs = (
        select(TURN, Job.id)
        .where(
            Job.status == Status.QUEUED,
            Job.owner.in_(owners),
            Job.is_long.is_(is_long),
            has_been_due,
            Job.attempts_charged < max_attempts,
        )
        .order_by(TURN)
        .limit(limit)
    )
    return [Unit(turn, job_id, None) for turn, job_id in session.execute(jobs)]


def _owners_of_due_shards() -> Select[str]:
    return select(Job.owner).join(Shard, Shard.job_id == Job.id).where(*is_due()).distinct()
