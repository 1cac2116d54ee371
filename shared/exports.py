"""Exports as clients request and see them: files made from the notes of a job that succeeded.

An export is made once for each format and set of options of a job. It is a work item like others, whose status is
the export's; it changes nothing of the job but adds an artifact. It is deleted with its job.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session

from shared import work
from shared.db import now_plus
from shared.errors import JobNotFound, StateConflict
from shared.jobs import queue_again
from shared.kinds import EXPORT, NewItem
from shared.tables import Export, Job, Status, WorkItem, WorkStatus

NOTES = "notes.json"
CORRECTIONS = "corrections.json"
ORIGINAL, CORRECTED = "original", "corrected"
SOURCES = {ORIGINAL: NOTES, CORRECTED: CORRECTIONS}  # the artifacts that exports are made from


@dataclass(frozen=True)
class NewExport:
    """A validated request for an export.

    Attributes:
        options_hash: of format and options: what makes two requests equal.
        artifact: the name of the file among the job's artifacts.
        source: the notes that it is made from: those of the transcription, or their corrected version.
    """

    format: str
    options: Mapping[str, Any]
    options_hash: str
    artifact: str
    source: str = ORIGINAL

    def made_from(self, notes: Mapping[str, Any]) -> NewExport:
        """Return the request with a hash and a name that change with corrected notes."""
        if self.source == ORIGINAL:
            return self
        digest = hashlib.sha256(f"{self.options_hash} {notes['sha256']}".encode()).hexdigest()
        name = self.artifact.replace(self.options_hash[:12], digest[:12])
        return replace(self, options_hash=digest, artifact=name)


@dataclass(frozen=True)
class ExportState:
    """An export with the state of its work item, and its artifact once it is made."""

    id: UUID
    job_id: UUID
    format: str
    options: dict[str, Any]
    source: str
    status: WorkStatus
    fraction: float
    error_code: str | None
    error_detail: str | None
    created_at: datetime
    finished_at: datetime | None
    artifact: dict[str, Any] | None


def request_export(session: Session, owner: str, job_id: UUID, new: NewExport) -> ExportState:
    """Return the export of these options, enqueued if there is none yet or if it failed.

    Raises:
        JobNotFound: there is no such job of this owner.
        StateConflict: it has not succeeded.
    """
    # The lock on the job's row makes equal requests at the same time one export.
    job = lock_succeeded(session, owner, job_id, deed="exported")
    notes = _notes_of(job, new.source)
    new = new.made_from(notes)
    same = (Export.job_id == job_id, Export.options_hash == new.options_hash)
    export_id = session.scalar(select(Export.id).where(*same))
    if export_id is None:
        export_id = _enqueue(session, job, new, notes["key"])
    else:
        queue_again(session, WorkItem.id == export_id)
    return get_export(session, owner, job_id, export_id)


def lock_succeeded(session: Session, owner: str, job_id: UUID, *, deed: str) -> Job:
    """Return a job that has succeeded, locked until the end of the transaction.

    Args:
        deed: what is to be done with it, for the message: "exported".
    Raises:
        JobNotFound: there is no such job of this owner.
        StateConflict: it has not succeeded.
    """
    locked = update(Job).where(Job.id == job_id, Job.owner == owner).values(owner=Job.owner).returning(Job)
    job = session.scalar(locked, execution_options=work.UNSYNCHRONIZED)
    if job is None:
        raise JobNotFound(f"Transcription {job_id} does not exist. It may have been deleted.")
    if job.status is not Status.SUCCEEDED:
        raise StateConflict(f"Only a transcription that has succeeded can be {deed}. This one is {job.status}.")
    return job


def get_export(session: Session, owner: str, job_id: UUID, export_id: UUID) -> ExportState:
    """Return one export of a job of this owner.

    Raises:
        JobNotFound: there is none.
    """
    row = session.execute(_states(owner, job_id).where(Export.id == export_id)).one_or_none()
    if row is None:
        raise JobNotFound(f"Transcription {job_id} has no export {export_id}.")
    return _state(*row)


def list_exports(session: Session, owner: str, job_id: UUID) -> list[ExportState]:
    """List the exports of a job, oldest first.

    Raises:
        JobNotFound: there is no such job of this owner.
    """
    rows: Sequence[Any] = session.execute(_states(owner, job_id).order_by(WorkItem.number)).all()
    if not rows and session.scalar(select(Job.id).where(Job.id == job_id, Job.owner == owner)) is None:
        raise JobNotFound(f"Transcription {job_id} does not exist. It may have been deleted.")
    return [_state(*row) for row in rows]


def add_artifact(session: Session, job_id: UUID, artifact: Mapping[str, Any]) -> None:
    """Add a file to a job's artifacts, in the transaction that completes the export, which has locked the job."""
    artifacts = session.scalar(select(Job.artifacts).where(Job.id == job_id)) or []
    others = [other for other in artifacts if other["name"] != artifact["name"]]
    added = update(Job).where(Job.id == job_id).values(artifacts=[*others, dict(artifact)])
    session.execute(added, execution_options=work.UNSYNCHRONIZED)


def _notes_of(job: Job, source: str) -> Mapping[str, Any]:
    """Return the artifact that an export is made from."""
    name = SOURCES[source]
    found = next((artifact for artifact in job.artifacts if artifact["name"] == name), None)
    if found is None:
        raise StateConflict(
            f"Transcription {job.id} has no corrections. Export the original, or send corrections."
        )
    return found


def _enqueue(session: Session, job: Job, new: NewExport, notes: str) -> UUID:
    number = select(func.coalesce(func.max(WorkItem.number), -1) + 1)
    first = select(WorkItem.id).where(WorkItem.job_id == job.id, WorkItem.parent_id.is_(None))
    item = NewItem(
        EXPORT,
        session.scalar(number.where(WorkItem.job_id == job.id, WorkItem.kind == EXPORT)) or 0,
        input_key=notes,
        seconds=job.audio_seconds_total,
        payload={
            "format": new.format,
            "options": dict(new.options),
            "artifact": new.artifact,
            "recording": job.upload_key,
            "source": new.source,
        },
    )
    (item_id,) = work.enqueue(session, job.id, job.owner, [item], parent_id=session.scalar(first))
    session.add(
        Export(
            id=item_id,
            job_id=job.id,
            format=new.format,
            options=dict(new.options),
            options_hash=new.options_hash,
            artifact=new.artifact,
            created_at=now_plus(),
        )
    )
    session.flush()
    return item_id


def _states(owner: str, job_id: UUID) -> Select[Any]:
    joined = select(Export, WorkItem, Job.artifacts).join(WorkItem, WorkItem.id == Export.id)
    return joined.join(Job, Job.id == Export.job_id).where(Job.id == job_id, Job.owner == owner)


def _state(export: Export, item: WorkItem, artifacts: Sequence[dict[str, Any]]) -> ExportState:
    is_made = item.status is WorkStatus.SUCCEEDED
    has_failed = item.status is WorkStatus.FAILED
    return ExportState(
        id=export.id,
        job_id=export.job_id,
        format=export.format,
        options=export.options,
        source=item.payload.get("source", ORIGINAL),  # older ones do not say
        status=item.status,
        fraction=1.0 if is_made else min(1.0, item.seconds_done / item.seconds) if item.seconds else 0.0,
        error_code=item.error_code if has_failed else None,
        error_detail=item.error_detail if has_failed else None,
        created_at=export.created_at,
        finished_at=item.finished_at,
        artifact=next((a for a in artifacts if a["name"] == export.artifact), None) if is_made else None,
    )
