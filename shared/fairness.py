"""Fair scheduling: decide which work item an idle worker claims next. `shared.line` has the position of each job.

Owners with the fewest running items come first; among their jobs, the least recently served one, counted from its
creation if it was never served. Each completed shard moves a long recording behind the jobs that arrived in the
meantime, so three hours of music do not hold up short recordings, and no job starves.

An owner's long recordings are split one at a time: while shards are waiting, a job that is known to be long waits
too, so that storage holds uncompressed audio only for recordings in progress. A worker learns that a job is long
when it opens the recording; it defers the job if `must_defer` is true.

Candidates are selected without a lock; `work.claim` claims one with a guarded statement. If another worker was
faster, the next candidate is tried.
"""

from __future__ import annotations

import random
import time
from collections.abc import Collection, Iterable
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import Session

from shared import work
from shared.db import Sessions, now_plus
from shared.kinds import CLAIMED_KINDS, PARTS_OF_LONG, SHORT_KINDS, Claim
from shared.tables import WorkItem, WorkStatus

CANDIDATES = 8  # read at once: enough for several workers that claim at the same moment
TRIES = 5

QUEUED = WorkItem.status == WorkStatus.QUEUED


def claim_next(
    sessions: Sessions,
    *,
    worker: str,
    lease_seconds: float,
    max_attempts: int,
    short_for: float | None = None,
    without: Collection[str] = (),
) -> Claim | None:
    """Claim the item that is first in line; None when nothing is due.

    Args:
        short_for: consider only short items, not known to be long, that have been due for this many seconds.
        without: kinds that this worker has enough of.
    """
    for _ in range(TRIES):
        with sessions() as session:
            found = candidates(session, max_attempts=max_attempts, short_for=short_for, without=without)
        claim = claim_first(sessions, found, worker=worker, lease_seconds=lease_seconds, max_attempts=max_attempts)
        if claim is not None or not found:
            return claim
        time.sleep(random.uniform(0.01, 0.05))  # noqa: S311 - other workers just claimed all of them
    return None


def claim_first(
    sessions: Sessions, item_ids: Iterable[UUID], *, worker: str, lease_seconds: float, max_attempts: int
) -> Claim | None:
    """Claim the first of these items that no other worker has claimed meanwhile; None if there is none."""
    for item_id in item_ids:
        with sessions.begin() as session:
            claim = work.claim(
                session, item_id, worker=worker, lease_seconds=lease_seconds, max_attempts=max_attempts
            )
        if claim is not None:
            return claim
    return None


def candidates(
    session: Session,
    *,
    max_attempts: int,
    short_for: float | None = None,
    limit: int = CANDIDATES,
    without: Collection[str] = (),
) -> list[UUID]:
    """Return the items to claim next, best first, all of owners with the same number of running items."""
    kinds = [kind for kind in CLAIMED_KINDS if kind not in without]
    running = _count_running(session)
    waiting = _waiting_owners(session)
    for level in sorted({running.get(owner, 0) for owner in waiting}):
        owners = [owner for owner in waiting if running.get(owner, 0) == level]
        if short_for is not None:
            found = _first(session, owners, max_attempts, limit, SHORT_KINDS, due_for=short_for)
        else:
            found = _first(session, owners, max_attempts, limit, kinds)
            busy = set(session.scalars(_owners_of_waiting_parts()))
            may_split = [owner for owner in owners if owner not in busy]
            found += _first(session, may_split, max_attempts, limit, kinds, is_long=True)
        if found:
            return [item_id for *_, item_id in sorted(found)[:limit]]
    return []


def must_defer(session: Session, owner: str) -> bool:
    """Return True if a long recording must not be split yet, because shards of its owner are waiting."""
    return session.scalar(_owners_of_waiting_parts().where(WorkItem.owner == owner).limit(1)) is not None


def _count_running(session: Session) -> dict[str, int]:
    """Count the items of each owner that workers hold."""
    running = select(WorkItem.owner, func.count()).where(WorkItem.status == WorkStatus.PROCESSING)
    running = running.where(WorkItem.kind.in_(CLAIMED_KINDS))
    return dict(session.execute(running.group_by(WorkItem.owner)).all())


def _waiting_owners(session: Session) -> set[str]:
    """Return the owners of waiting items, with a few index lookups per owner, however many items wait."""
    first = select(func.min(WorkItem.owner).label("owner")).where(QUEUED).cte("owners", recursive=True)
    following = select(func.min(WorkItem.owner)).where(QUEUED, WorkItem.owner > first.c.owner).scalar_subquery()
    owners = first.union_all(select(following).where(first.c.owner.is_not(None)))
    return set(session.scalars(select(owners.c.owner).where(owners.c.owner.is_not(None))))


def _owners_of_waiting_parts() -> Select[str]:
    parts = select(WorkItem.owner).where(QUEUED, WorkItem.kind.in_(PARTS_OF_LONG))
    return parts.where(WorkItem.run_after <= now_plus()).distinct()


def _first(
    session: Session,
    owners: Collection[str],
    max_attempts: int,
    limit: int,
    kinds: Collection[str],
    *,
    is_long: bool = False,
    due_for: float = 0.0,
) -> list[tuple[datetime, int, UUID]]:
    """Return the first waiting items of these owners, each preceded by its sort key."""
    # Written so that no database uses the index on `run_after` here: nearly all queued items are due.
    has_been_due: ColumnElement[bool] = func.coalesce(WorkItem.run_after, WorkItem.served_at) <= now_plus(-due_for)
    query = (
        select(WorkItem.served_at, WorkItem.number, WorkItem.id)
        .where(
            QUEUED,
            WorkItem.owner.in_(owners),
            WorkItem.is_long.is_(is_long),
            WorkItem.kind.in_(kinds),
            has_been_due,
            WorkItem.attempts_counted < max_attempts,
        )
        .order_by(WorkItem.served_at, WorkItem.number)
        .limit(limit)
    )
    return [(served_at, number, item_id) for served_at, number, item_id in session.execute(query)]
