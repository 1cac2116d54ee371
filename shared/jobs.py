"""Jobs as clients create and see them. The work that workers do for them is in `work`.

    queued ──begun──▶ processing ──▶ succeeded
      ▲ ▲                │ │ └─────▶ failed ──┐
      │ └─nothing done───┘ └─cancel▶ canceled ┤
      └──────────────────retry────────────────┘

A job's status follows its work items, in the same transaction: it is `processing` from the claim of its first item
until the last one completes or any of them fails.
"""

from __future__ import annotations

import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Text, and_, bindparam, cast, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased

from shared import garbage, webhook_events, work
from shared.db import Sessions, is_unavailable, now_plus
from shared.errors import IdempotencyConflict, InvalidCursor, JobNotFound, RecordingRemoved, StateConflict
from shared.kinds import FETCH_URL, STEPS, TRANSCRIBE, NewItem
from shared.logs import get_logger
from shared.quotas import Quotas, check_queued, check_stored, lock_owner
from shared.storage import shard_prefix
from shared.tables import Job, Status, WorkItem, WorkStatus

log = get_logger(__name__)

CLOCK_ERROR = timedelta(hours=1)  # at most, between the clocks of web processes and the database
# Built once, as each request needs them.
INSERT_JOB = insert(Job).values(created_at=now_plus()).returning(Job)
ONE_JOB = select(Job).where(Job.id == bindparam("job_id"), Job.owner == bindparam("owner"))


@dataclass(frozen=True)
class NewJob:
    """A validated request for a job, with the recording already in storage unless it is fetched from a URL.

    Attributes:
        recording_id: the upload or job under whose id the recording is stored, if not this one's.
        upload_bytes: 0 for a recording that is fetched.
    """

    id: UUID
    owner: str
    model: str
    options: dict[str, Any]
    client_metadata: dict[str, Any]
    filename: str | None
    upload_key: str
    upload_bytes: int
    recording_id: UUID | None = None
    source_url: str | None = None
    idempotency_key: str | None = None
    request_hash: str | None = None
    webhook_url: str | None = None
    webhook_events: Sequence[str] = ()


@dataclass(frozen=True)
class JobFilter:
    """Conditions on jobs to list; those that are empty or None do not restrict.

    Attributes:
        created_after, created_before: both ends are excluded.
        name: part of the file name, in any case.
        metadata: strings or numbers of the client's metadata by key, compared as text.
    """

    statuses: Collection[Status] = ()
    model: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    name: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


def create_job(sessions: Sessions, new: NewJob, quotas: Quotas | None = None) -> tuple[Job, bool]:
    """Insert a job and its first work item in a transaction; return the job, and True if it is new.

    A new job is returned as its row, which has the attributes of a `Job`: an object of the session costs more than
    both statements.

    Raises:
        IdempotencyConflict: the key was used for another request.
        JobNotFound: the recording of another job or upload has been deleted.
        QuotaExceeded: the owner may not have that much queued or stored.
    """
    quotas = quotas or Quotas()
    first = NewItem(TRANSCRIBE, input_key=new.upload_key)
    if new.source_url is not None:
        first = NewItem(FETCH_URL, payload={"url": new.source_url})
    row = {
        "id": new.id,
        "owner": new.owner,
        "status": Status.QUEUED,
        "model": new.model,
        "options": new.options,
        "client_metadata": new.client_metadata,
        "filename": new.filename,
        "upload_key": new.upload_key,
        "upload_bytes": new.upload_bytes,
        "recording_id": new.recording_id,
        "idempotency_key": new.idempotency_key,
        "request_hash": new.request_hash,
        "attempts": 0,
        "audio_seconds_done": 0.0,
        "warnings": [],
        "artifacts": [],
        "webhook_url": new.webhook_url,
        "webhook_events": list(new.webhook_events),
    }
    try:
        with sessions.begin() as session:
            lock_owner(session, new.owner, quotas)
            if new.recording_id and not garbage.hold_recording(session, new.owner, new.recording_id):
                raise JobNotFound("The recording has been deleted. Upload it again.")
            job = session.connection().execute(INSERT_JOB, row).one()
            check_queued(session, new.owner, quotas, new.id)
            check_stored(session, new.owner, quotas, added=0)
            work.enqueue(session, new.id, new.owner, [first])
        return typing.cast("Job", job), True
    except IntegrityError:
        with sessions() as session:
            earlier = find_idempotent(session, new.owner, new.idempotency_key, new.request_hash)
        if earlier is None:
            raise
        return earlier, False


def find_idempotent(session: Session, owner: str, key: str | None, request_hash: str | None) -> Job | None:
    """Return the job that an earlier request with this key created, if any.

    Raises:
        IdempotencyConflict: the earlier request differed.
    """
    if key is None:
        return None
    job = session.scalar(select(Job).where(Job.owner == owner, Job.idempotency_key == key))
    if job is not None and job.request_hash != request_hash:
        raise IdempotencyConflict
    return job


def get_job(session: Session, owner: str, job_id: UUID) -> Job:
    """Return one job of this owner.

    Raises:
        JobNotFound: there is none, or it is another owner's.
    """
    job = session.scalar(ONE_JOB, {"job_id": job_id, "owner": owner})
    if job is None:
        raise _not_found(job_id)
    return job


def lock_job(session: Session, owner: str, job_id: UUID) -> Job:
    """Return one job, which nothing changes until the transaction ends (with SQLite: until the next change).

    Raises:
        JobNotFound: see `get_job`.
    """
    job = session.scalar(ONE_JOB.with_for_update(), {"job_id": job_id, "owner": owner})
    if job is None:
        raise _not_found(job_id)
    return job


def read_job(session: Session, owner: str, job_id: UUID) -> Job:
    """Return the row of one job, which has the attributes of a `Job`, for polls; see `create_job`.

    Raises:
        JobNotFound: see `get_job`.
    """
    row = session.connection().execute(ONE_JOB, {"job_id": job_id, "owner": owner}).one_or_none()
    if row is None:
        raise _not_found(job_id)
    return typing.cast("Job", row)


def _not_found(job_id: UUID) -> JobNotFound:
    return JobNotFound(f"Transcription {job_id} does not exist. It may have been deleted.")


def list_jobs(
    session: Session,
    owner: str,
    filters: JobFilter | None = None,
    *,
    limit: int = 20,
    cursor: str | None = None,
) -> tuple[Sequence[Job], str | None]:
    """Return a page of jobs, newest first, and the cursor of the next page; skip rows that cannot be read."""
    query = select(Job.id).where(Job.owner == owner, *_conditions(filters or JobFilter()))
    query = query.order_by(Job.id.desc()).limit(limit + 1)
    if cursor is not None:
        try:
            query = query.where(Job.id < UUID(cursor))
        except ValueError:
            raise InvalidCursor("The cursor is invalid. Leave it out to start from the first page.") from None
    ids = session.scalars(query).all()
    following = str(ids[limit - 1]) if len(ids) > limit else None
    return read_jobs(session, ids[:limit]), following


def _conditions(filters: JobFilter) -> Iterator[ColumnElement[bool]]:
    if len(filters.statuses) == 1:
        yield Job.status == next(iter(filters.statuses))
    elif filters.statuses:
        yield Job.status.in_(filters.statuses)
    if filters.model is not None:
        yield Job.model == filters.model
    # Ids begin with the time at which a web process made them, so that the index on them narrows the search.
    if filters.created_after is not None:
        yield and_(Job.created_at > filters.created_after, Job.id > _first_id(filters.created_after - CLOCK_ERROR))
    if filters.created_before is not None:
        yield and_(
            Job.created_at < filters.created_before, Job.id < _first_id(filters.created_before + CLOCK_ERROR)
        )
    if filters.name is not None:
        yield Job.filename.icontains(filters.name, autoescape=True)
    for key, value in filters.metadata.items():
        # SQLite extracts numbers as numbers.
        yield cast(Job.client_metadata[key].as_string(), Text) == value


def _first_id(at: datetime) -> UUID:
    """Return the lowest UUID of version 7 of a time."""
    return UUID(int=min(max(0, int(at.timestamp() * 1000)), (1 << 48) - 1) << 80)


def update_job(
    session: Session, owner: str, job_id: UUID, *, name: str | None = None, metadata: dict[str, Any] | None = None
) -> Job:
    """Rename a job, replace its metadata, or both.

    Raises:
        JobNotFound
    """
    values: dict[str, Any] = {}
    if name is not None:
        values["filename"] = name
    if metadata is not None:
        values["client_metadata"] = metadata
    if values:
        changed = update(Job).where(Job.id == job_id, Job.owner == owner).values(values).returning(Job)
        job: Job | None = session.scalar(changed)
        if job is not None:
            return job
    return get_job(session, owner, job_id)


def read_jobs(session: Session, job_ids: Sequence[UUID]) -> list[Job]:
    """Read jobs in this order: all at once, or one by one if the content of a row makes that fail."""
    try:
        found = session.scalars(select(Job).where(Job.id.in_(job_ids)).order_by(Job.id.desc())).all()
        return list(found)
    except Exception as error:
        if is_unavailable(error):
            raise
    readable: list[Job] = []
    for job_id in job_ids:
        try:
            readable += session.scalars(select(Job).where(Job.id == job_id)).all()
        except Exception as error:
            if is_unavailable(error):
                raise
            log.error("job_cannot_be_read", job_id=str(job_id), error=repr(error)[:500])
    return readable


def cancel_job(session: Session, owner: str, job_id: UUID) -> Job:
    """Cancel a job that has not ended; return a job that is already canceled unchanged.

    Raises:
        JobNotFound, StateConflict: it succeeded or failed already.
    """
    job: Job | None = session.scalar(
        update(Job)
        .where(Job.id == job_id, Job.owner == owner, Job.status.in_((Status.QUEUED, Status.PROCESSING)))
        .values(status=Status.CANCELED, finished_at=now_plus(), shards_total=None, **work.JOB_AT_REST)
        .returning(Job)
    )
    if job is not None:
        attempts = _cancel_items(session, job_id)
        webhook_events.announce(session, job_id, work.enqueue)
        # One prefix per attempt: a retry may split the recording again before these are removed.
        garbage.note(session, [shard_prefix(job_id, number + 1) for number in range(attempts)])
        return job
    job = get_job(session, owner, job_id)
    if job.status is not Status.CANCELED:
        raise StateConflict(
            f"Only a queued or running transcription can be canceled. This one has already {job.status}."
        )
    return job


def _cancel_items(session: Session, job_id: UUID) -> int:
    """Take a job's items from their workers and drop those that a retry makes again; return the latest attempt.

    A recording that has been fetched stays. No later attempt may repeat an earlier number: folders of results are
    named after it.
    """
    work.close_attempts(session, work.of_job(job_id), "canceled")
    item = aliased(WorkItem)
    latest = select(func.max(item.attempt)).where(item.job_id == job_id).scalar_subquery()
    is_first = or_(
        WorkItem.kind == TRANSCRIBE,
        and_(WorkItem.kind == FETCH_URL, WorkItem.status != WorkStatus.SUCCEEDED),
    )
    first = update(WorkItem).where(WorkItem.job_id == job_id, is_first)
    first = first.values(**work.AT_REST, status=WorkStatus.CANCELED, attempt=latest, finished_at=now_plus())
    attempts = session.scalar(first.returning(WorkItem.attempt), execution_options=work.UNSYNCHRONIZED)
    others = delete(WorkItem).where(WorkItem.job_id == job_id, WorkItem.kind.not_in((TRANSCRIBE, FETCH_URL)))
    others = others.where(WorkItem.kind.in_(STEPS))
    session.execute(others, execution_options=work.UNSYNCHRONIZED)
    return attempts or 0


def retry_job(session: Session, owner: str, job_id: UUID, quotas: Quotas | None = None) -> Job:
    """Queue a failed or canceled job again, with a full number of attempts. Finished shards stay finished.

    Raises:
        JobNotFound, StateConflict: it is waiting, running or succeeded.
        QuotaExceeded: the owner may not have that much queued.
        RecordingRemoved: its recording has been removed.
    """
    quotas = quotas or Quotas()
    lock_owner(session, owner, quotas)
    job: Job | None = session.scalar(
        update(Job)
        .where(Job.id == job_id, Job.owner == owner, Job.status.in_((Status.FAILED, Status.CANCELED)))
        .values(**work.JOB_QUEUED, finished_at=None, error_code=None, error_detail=None)
        .returning(Job)
    )
    if job is None:
        status = get_job(session, owner, job_id).status
        state = "has already succeeded" if status is Status.SUCCEEDED else f"is {status}"
        raise StateConflict(f"Only a failed or canceled transcription can be retried. This one {state}.")
    if job.upload_removed_at is not None:
        raise RecordingRemoved
    check_queued(session, owner, quotas, job_id)
    queue_again(session, and_(WorkItem.job_id == job_id, WorkItem.kind.in_(STEPS)))
    return job


def queue_again(session: Session, which: ColumnElement[bool]) -> None:
    """Queue items that failed or were canceled, with a full number of attempts."""
    again = update(WorkItem).where(which, WorkItem.status.in_((WorkStatus.FAILED, WorkStatus.CANCELED)))
    again = again.values(
        status=WorkStatus.QUEUED,
        attempts_counted=0,
        run_after=now_plus(),
        seconds_done=0.0,
        finished_at=None,
        error_code=None,
        error_detail=None,
    )
    session.execute(again, execution_options=work.UNSYNCHRONIZED)


def delete_job(session: Session, owner: str, job_id: UUID) -> list[str]:
    """Delete a job in any state, and record its files as garbage; return their prefixes.

    Raises:
        JobNotFound
    """
    _, prefixes = _delete_jobs(session, Job.id == job_id, Job.owner == owner)
    if not prefixes:
        raise _not_found(job_id)
    return prefixes


def expire_jobs(session: Session, *, ttl_days: float, limit: int = 500) -> list[UUID]:
    """Delete jobs that ended too long ago, and record their files as garbage."""
    # A subquery is evaluated once; a call of the volatile clock function would rule out the index.
    end = select(now_plus(-ttl_days * 86400)).scalar_subquery()
    old = select(Job.id).where(Job.finished_at < end).order_by(Job.finished_at).limit(limit)
    expired, _ = _delete_jobs(session, Job.id.in_(old))
    return expired


def _delete_jobs(session: Session, *which: ColumnElement[bool]) -> tuple[list[UUID], list[str]]:
    """Delete jobs; return their ids, and the prefixes of their files, which are recorded as garbage."""
    deleted = delete(Job).where(*which).returning(Job.id, Job.recording_id)
    gone = session.execute(deleted, execution_options=work.UNSYNCHRONIZED).all()
    ids = [job_id for job_id, _ in gone]
    recordings = list(dict.fromkeys(recording_id or job_id for job_id, recording_id in gone))
    prefixes = [*garbage.unused_recordings(session, recordings), *garbage.job_prefixes(ids)]
    garbage.note(session, prefixes)
    return ids, prefixes
