"""How far jobs are: of a long recording by its shards, and the time that is left."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from shared.kinds import PARTS_OF_LONG, SHARD
from shared.tables import Job, Status, WorkItem, WorkStatus


@dataclass(frozen=True)
class ShardsProgress:
    """Progress of a long recording.

    Attributes:
        attempts: the highest number of attempts of any of its items.
        running: how many of its items workers hold.
        last_error: code and detail of the last attempt that failed, if its item was not completed since.
    """

    done: int
    total: int
    seconds_done: float
    eta_seconds: float | None
    attempts: int
    running: int = 0
    last_error: tuple[str, str] | None = None


def eta_seconds(job: Job, now: datetime) -> float | None:
    """Return the estimated seconds left, by the speed of this attempt; None while it is unknown."""
    if job.status is not Status.PROCESSING or not job.transcribing_since or not job.audio_seconds_total:
        return None
    elapsed = (now - job.transcribing_since).total_seconds()
    if job.audio_seconds_done <= 0 or elapsed <= 0:
        return None
    left = max(0.0, job.audio_seconds_total - job.audio_seconds_done)
    return round(left * elapsed / job.audio_seconds_done, 1)


def shards_progress(session: Session, jobs: Iterable[Job], now: datetime) -> dict[UUID, ShardsProgress]:
    """Return the progress of those jobs that are split into shards.

    The time left is estimated from the speed of the attempts so far and the number of shards that are running, at
    least one.
    """
    split = [job.id for job in jobs if job.shards_total is not None]
    if not split:
        return {}
    found: defaultdict[UUID, list[WorkItem]] = defaultdict(list)
    parts = select(WorkItem).where(WorkItem.job_id.in_(split), WorkItem.kind.in_(PARTS_OF_LONG))
    for item in session.scalars(parts):
        found[item.job_id].append(item)
    return {job_id: _progress(items, now) for job_id, items in found.items()}


def _progress(items: Sequence[WorkItem], now: datetime) -> ShardsProgress:
    shards = [item for item in items if item.kind == SHARD]
    seconds_done = sum(shard.seconds_done for shard in shards)
    running = sum(shard.status is WorkStatus.PROCESSING for shard in shards)
    elapsed = sum(
        ((shard.finished_at or now) - shard.started_at).total_seconds()
        for shard in shards
        if shard.started_at and shard.status in (WorkStatus.PROCESSING, WorkStatus.SUCCEEDED)
    )
    left = sum(shard.seconds or 0.0 for shard in shards) - seconds_done
    is_known = elapsed > 0 and seconds_done > 0
    errors = [(item.run_after, item.error_code, item.error_detail or "") for item in items if item.error_code]
    return ShardsProgress(
        done=sum(shard.status is WorkStatus.SUCCEEDED for shard in shards),
        total=len(shards),
        seconds_done=seconds_done,
        eta_seconds=round(left * elapsed / seconds_done / max(1, running), 1) if is_known else None,
        attempts=max(item.attempt for item in items),
        running=sum(item.status is WorkStatus.PROCESSING for item in items),
        last_error=max(errors)[1:] if errors else None,
    )
