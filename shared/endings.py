"""Which jobs and exports have ended: the question of all clients that wait, in one or two queries."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import select

from shared.db import Sessions, reading
from shared.tables import Job, WorkItem, WorkStatus

PENDING = (WorkStatus.BLOCKED, WorkStatus.QUEUED, WorkStatus.PROCESSING)


def find_ended(sessions: Sessions, ids: Collection[UUID]) -> set[UUID]:
    """Return the ids of jobs and of work items, such as exports, that have ended or do not exist."""
    with reading(sessions) as session:
        ended = set(ids)
        ended -= set(session.scalars(select(Job.id).where(Job.id.in_(ended), Job.finished_at.is_(None))))
        if ended:
            items = select(WorkItem.id).where(WorkItem.id.in_(ended), WorkItem.status.in_(PENDING))
            ended -= set(session.scalars(items))
    return ended
