"""Garbage in storage: prefixes recorded for removal in the transaction that makes them unused, and orphans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast
from uuid import UUID

from sqlalchemy import CursorResult, and_, delete, func, insert, or_, select, union, update
from sqlalchemy.orm import Session

from shared.db import now_plus
from shared.kinds import TRANSCRIBE
from shared.storage import export_prefix, result_prefix, shard_prefix, upload_prefix
from shared.tables import Export, Garbage, Job, Status, Upload, WorkItem

_UNSYNCHRONIZED: dict[str, Any] = {"synchronize_session": False}


def job_prefixes(job_ids: Sequence[UUID]) -> list[str]:
    """Return every prefix under which these jobs may have objects of their own in storage."""
    prefixes = (result_prefix, shard_prefix, export_prefix)
    return [prefix(job_id) for job_id in job_ids for prefix in prefixes]


def unused_recordings(session: Session, recording_ids: Sequence[UUID]) -> list[str]:
    """Return the prefixes of those recordings that no job and no upload uses any more.

    Call it after the deletion of rows that used them, in the same transaction. A request that begins to use a
    recording locks a row that uses it (`hold_recording`), so that it is not deleted in between.
    """
    used = find_recordings(session, recording_ids)
    return [upload_prefix(recording_id) for recording_id in recording_ids if recording_id not in used]


def hold_recording(session: Session, owner: str, recording_id: UUID) -> bool:
    """Keep a recording of this owner from being deleted in this transaction; return False if it is gone."""
    used = or_(Job.recording_id == recording_id, and_(Job.id == recording_id, Job.recording_id.is_(None)))
    kept = Job.upload_removed_at.is_(None)
    for statement in (
        update(Upload).where(Upload.id == recording_id, Upload.owner == owner).values(owner=owner),
        update(Job).where(used, kept, Job.owner == owner).values(owner=owner),
    ):
        found = cast("CursorResult[Any]", session.execute(statement, execution_options=_UNSYNCHRONIZED))
        if found.rowcount:
            return True
    return False


def find_recordings(session: Session, recording_ids: Sequence[UUID]) -> dict[UUID, set[int]]:
    """Return which of these recordings are in use, as `find_kept_results` does for jobs."""
    kept = Job.upload_removed_at.is_(None)
    own = select(Job.id).where(Job.id.in_(recording_ids), Job.recording_id.is_(None), kept)
    shared = select(Job.recording_id).where(Job.recording_id.in_(recording_ids), kept)
    sent = select(Upload.id).where(Upload.id.in_(recording_ids))
    return {found: set() for found in session.scalars(union(own, shared, sent))}


def expire_recordings(session: Session, *, ttl_days: float, limit: int = 500) -> int:
    """Give up recordings of jobs that ended too long ago, unless others use them; return how many jobs."""
    old = (
        select(Job.id)
        .where(Job.finished_at < now_plus(-ttl_days * 86400), Job.upload_removed_at.is_(None))
        .order_by(Job.finished_at)
        .limit(limit)
    )
    ended = Job.status.in_((Status.SUCCEEDED, Status.FAILED, Status.CANCELED))
    given_up = update(Job).where(Job.id.in_(old), ended).values(upload_removed_at=now_plus())
    returning = given_up.returning(func.coalesce(Job.recording_id, Job.id))
    recordings = list(session.scalars(returning.execution_options(**_UNSYNCHRONIZED)))
    note(session, unused_recordings(session, list({*recordings})))
    return len(recordings)


def note(session: Session, prefixes: Sequence[str]) -> None:
    """Record prefixes as garbage, in the transaction that makes them unused."""
    if prefixes:
        session.execute(delete(Garbage).where(Garbage.prefix.in_(prefixes)), execution_options=_UNSYNCHRONIZED)
        session.execute(insert(Garbage).values([{"prefix": p, "created_at": now_plus()} for p in prefixes]))


def list_garbage(session: Session, *, older_than_seconds: float) -> list[str]:
    """List prefixes to remove that are so old that no worker can still be writing there."""
    due = select(Garbage.prefix).where(Garbage.created_at < now_plus(-older_than_seconds))
    return list(session.scalars(due.order_by(Garbage.created_at).limit(500)))


def postpone(session: Session, prefix: str) -> None:
    """Move a prefix that storage did not delete behind the others."""
    session.execute(update(Garbage).where(Garbage.prefix == prefix).values(created_at=now_plus()))


def forget(session: Session, prefix: str) -> None:
    """Delete the record of a prefix that has been removed from storage."""
    session.execute(delete(Garbage).where(Garbage.prefix == prefix))


def find_kept_results(session: Session, job_ids: Sequence[UUID]) -> dict[UUID, set[int]]:
    """Return which of these jobs exist, each with the attempts whose results are in use or being made."""
    return {
        job_id: ({attempt} if status is Status.PROCESSING else set())
        # results/{job}/{attempt}/…
        | {int(parts[2]) for artifact in artifacts if (parts := artifact["key"].split("/"))[0] == "results"}
        for job_id, status, artifacts, attempt in _jobs_and_attempts(session, job_ids)
    }


def find_kept_shards(session: Session, job_ids: Sequence[UUID]) -> dict[UUID, set[int]]:
    """Return which of these jobs exist, each with the attempt whose shards are in use or being made."""
    return {
        job_id: set() if status in (Status.SUCCEEDED, Status.CANCELED) else {attempt}
        for job_id, status, _, attempt in _jobs_and_attempts(session, job_ids)
    }


def find_kept_exports(session: Session, job_ids: Sequence[UUID]) -> dict[UUID, set[int]]:
    """Return which of these jobs exist, each with the numbers of its exports, made or not."""
    kept: dict[UUID, set[int]] = {
        job_id: set() for job_id in session.scalars(select(Job.id).where(Job.id.in_(job_ids)))
    }
    items = select(WorkItem.job_id, WorkItem.number).join(Export, Export.id == WorkItem.id)
    for job_id, number in session.execute(items.where(Export.job_id.in_(job_ids))):
        kept[job_id].add(number)
    return kept


def _jobs_and_attempts(
    session: Session, job_ids: Sequence[UUID]
) -> Sequence[tuple[UUID, Status, list[dict[str, Any]], int]]:
    """Return jobs with the latest attempt at transcribing them, after which their folders in storage are named."""
    is_theirs = and_(WorkItem.job_id == Job.id, WorkItem.kind == TRANSCRIBE)
    query = (
        select(Job.id, Job.status, Job.artifacts, func.coalesce(WorkItem.attempt, 0))
        .outerjoin(WorkItem, is_theirs)  # a recording that is still to be fetched has none
        .where(Job.id.in_(job_ids))
    )
    return [(*row,) for row in session.execute(query)]
