"""The work that waits and runs, as operators see it: items by kind and status, seconds of audio, ages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from shared.kinds import CLAIMED_KINDS, SHARD, TRANSCRIBE
from shared.tables import Job, Status, WorkItem, WorkStatus

LIVE = (WorkStatus.BLOCKED, WorkStatus.QUEUED, WorkStatus.PROCESSING)
SAMPLE = 100  # jobs from which the bytes of a second of audio are estimated
ASSUMED_BYTES_PER_SECOND = 32_000.0  # before any job has ended: between MP3 and WAV


@dataclass(frozen=True)
class Backlog:
    """The work of a moment.

    Attributes:
        items: number of items by kind and status.
        audio_seconds: seconds of audio still to be transcribed, by status. The length of a recording that no
            worker has opened is estimated from its size.
        oldest_due: age in seconds of the item that has been due for longest; 0 if none is.
        oldest_job: age in seconds of the oldest job that no worker has started; 0 if there is none.
    """

    items: dict[tuple[str, str], int]
    audio_seconds: dict[str, float]
    oldest_due: float
    oldest_job: float


def measure(session: Session) -> Backlog:
    """Return the backlog of now."""
    counted = select(WorkItem.kind, WorkItem.status, func.count()).group_by(WorkItem.kind, WorkItem.status)
    items = {(kind, status.value): count for kind, status, count in session.execute(counted)}
    due = select(func.min(WorkItem.run_after)).where(WorkItem.status == WorkStatus.QUEUED)
    due = due.where(WorkItem.kind.in_(CLAIMED_KINDS))
    waiting = select(func.min(Job.created_at)).where(Job.status == Status.QUEUED)
    return Backlog(
        items=items,
        audio_seconds=_audio_seconds(session),
        oldest_due=_age(session.scalar(due)),
        oldest_job=_age(session.scalar(waiting)),
    )


def _audio_seconds(session: Session) -> dict[str, float]:
    length = func.coalesce(WorkItem.seconds, Job.audio_seconds_total)
    known = func.sum(func.coalesce(length - WorkItem.seconds_done, 0.0))
    unknown_bytes = func.sum(case((length.is_(None), Job.upload_bytes), else_=0))
    query = (
        select(WorkItem.status, known, unknown_bytes)
        .join(Job, Job.id == WorkItem.job_id)
        .where(WorkItem.status.in_(LIVE), WorkItem.kind.in_((TRANSCRIBE, SHARD)))
        .group_by(WorkItem.status)
    )
    bytes_per_second = _bytes_per_second(session)
    seconds = {status.value: 0.0 for status in LIVE}
    for status, known_seconds, size in session.execute(query):
        seconds[status.value] = max(0.0, float(known_seconds)) + float(size) / bytes_per_second
    return seconds


def _bytes_per_second(session: Session) -> float:
    """Return how many bytes a second of audio took in recent recordings."""
    recent = (
        select(Job.upload_bytes, Job.audio_seconds_total)
        .where(Job.status == Status.SUCCEEDED, Job.audio_seconds_total > 0)
        .order_by(Job.id.desc())
        .limit(SAMPLE)
        .subquery()
    )
    size, seconds = session.execute(
        select(func.sum(recent.c.upload_bytes), func.sum(recent.c.audio_seconds_total))
    ).one()
    return float(size) / float(seconds) if size and seconds else ASSUMED_BYTES_PER_SECOND


def _age(moment: datetime | None) -> float:
    return max(0.0, (datetime.now(UTC) - moment).total_seconds()) if moment else 0.0
