"""Periods in which a scheduler watched storage; only files from such a period may be removed as orphans.

A file that belongs to no job is an orphan only if the database would know its job. It would not if it was restored
from an older backup: then storage holds recordings and results of jobs that were made since. So each scheduler
process records from when to when it was at work with this database. A restored database has no record of the time
between the backup and the restart, nor has a new one of the time before it, and files of that time are kept until
an operator decides (`mt3-infer admin purge --unknown`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from shared.db import now_plus
from shared.tables import Watch

# A file may appear in storage so long before its row is committed, and the clocks of both may differ.
MARGIN = timedelta(minutes=15)
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class Watcher:
    """Records the period of one process. It is begun anew if the database was replaced under it."""

    _id: UUID | None = None
    _until: datetime | None = None

    def record(self, session: Session) -> None:
        """Record that this process watches storage now."""
        now: datetime = session.execute(select(now_plus())).scalar_one()
        mine = (Watch.id == self._id, Watch.until == self._until)
        extended = session.execute(update(Watch).where(*mine).values(until=now)) if self._id else None
        if extended is None or extended.rowcount == 0:  # type: ignore[attr-defined]
            self._id = uuid4()
            session.execute(insert(Watch).values(id=self._id, since=now, until=now))
        self._until = now


def trust_all(session: Session) -> None:
    """Count all of the past as watched: what belongs to no job may be removed, from whenever it is."""
    session.execute(insert(Watch).values(id=uuid4(), since=BEGINNING, until=now_plus(MARGIN.total_seconds())))


def list_watches(session: Session) -> list[tuple[datetime, datetime]]:
    """Return the periods of which it is certain that this database knows all jobs whose files appeared in them."""
    spans = [(since, until - MARGIN) for since, until in session.execute(select(Watch.since, Watch.until))]
    return [(since, until) for since, until in spans if since < until]


def was_watched(moment: datetime, watches: list[tuple[datetime, datetime]]) -> bool:
    """Return True if a file that was written then would be known to the database, if a job needed it."""
    return any(since <= moment <= until for since, until in watches)
