"""Uploads in parts, as clients see them, until they expire; jobs that use one keep its recording.

    uploading ──all parts──▶ verifying ──▶ completed ──▶ expired
        ▲                        │
        └──process died──────────┘

A process that verifies an upload holds it by a lease, so that repeated requests do not read gigabytes twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, CursorResult, Executable, delete, or_, select, update
from sqlalchemy.orm import Session

from shared import garbage
from shared.db import now_plus
from shared.errors import IdempotencyConflict, ServiceError
from shared.parts import Parts, parts_prefix
from shared.tables import Upload

LEASE_SECONDS = 30.0  # of a process that verifies an upload
MAX_PARTS = 1000
PART_STEP = 1024 * 1024
_UNSYNCHRONIZED: dict[str, Any] = {"synchronize_session": False}


class UploadNotFound(ServiceError):  # noqa: N818 - reads better where it is raised
    """There is no such upload, it has expired, or it belongs to another client."""

    code = "not_found"


class UploadIncomplete(ServiceError):  # noqa: N818
    """Parts of the upload are missing."""

    code = "upload_incomplete"


class ChecksumMismatch(ServiceError):  # noqa: N818
    """The bytes that arrived are not those that the client has."""

    code = "checksum_mismatch"


@dataclass(frozen=True)
class NewUpload:
    """A validated request for an upload.

    Attributes:
        size: in bytes.
        sha256: of the whole file in hex, if the client knows it already.
    """

    id: UUID
    owner: str
    name: str | None
    content_type: str
    size: int
    sha256: str | None
    part_size: int
    token: str | None
    idempotency_key: str | None = None
    request_hash: str | None = None


def part_size_of(size: int, smallest: int) -> int:
    """Return the size of the parts of a file: the smallest, unless that makes more than `MAX_PARTS`."""
    needed = -(-size // MAX_PARTS)
    return smallest if needed <= smallest else -(-needed // PART_STEP) * PART_STEP


def parts_of(upload: Upload) -> Parts:
    """Return where the parts of an upload are."""
    return Parts(upload.id, upload.size, upload.part_size, upload.token)


def create_upload(session: Session, new: NewUpload, *, hours: float) -> Upload:
    """Insert an upload, which expires after so many hours without a request.

    Raises:
        IntegrityError: an upload with its idempotency key exists; see `find_idempotent`.
    """
    if new.idempotency_key is not None:
        same = (Upload.owner == new.owner, Upload.idempotency_key == new.idempotency_key)
        _run(session, update(Upload).where(*same, Upload.expires_at <= now_plus()).values(idempotency_key=None))
    upload = Upload(
        id=new.id,
        owner=new.owner,
        name=new.name,
        content_type=new.content_type,
        size=new.size,
        sha256=new.sha256,
        part_size=new.part_size,
        token=new.token,
        created_at=now_plus(),
        expires_at=now_plus(hours * 3600),
        idempotency_key=new.idempotency_key,
        request_hash=new.request_hash,
    )
    session.add(upload)
    session.flush()
    session.refresh(upload)
    return upload


def find_idempotent(session: Session, owner: str, key: str | None, request_hash: str) -> Upload | None:
    """Return the upload that an earlier request with this key began, if it has not expired.

    Raises:
        IdempotencyConflict: the earlier request differed.
    """
    if key is None:
        return None
    same = (Upload.owner == owner, Upload.idempotency_key == key, Upload.expires_at > now_plus())
    upload = session.scalar(select(Upload).where(*same))
    if upload is not None and upload.request_hash != request_hash:
        raise IdempotencyConflict
    return upload


def get_upload(session: Session, owner: str, upload_id: UUID, *, hours: float | None = None) -> Upload:
    """Return an upload of this owner; with `hours`, let it live so much longer.

    Raises:
        UploadNotFound
    """
    mine = (Upload.id == upload_id, Upload.owner == owner, Upload.expires_at > now_plus())
    if hours is None:
        found = session.scalar(select(Upload).where(*mine))
    else:
        touched = update(Upload).where(*mine).values(expires_at=now_plus(hours * 3600)).returning(Upload)
        found = session.scalar(touched)
    if found is None:
        raise UploadNotFound(f"Upload {upload_id} does not exist. It may have expired: start a new one.")
    return found


def is_verifying(upload: Upload, now: datetime) -> bool:
    """Return True if a process is verifying an upload."""
    return upload.completed_at is None and upload.verifying_until is not None and upload.verifying_until > now


def hold(session: Session, upload_id: UUID) -> bool:
    """Take the lease to verify an upload; return False if another process has it, or the upload is complete."""
    is_free = or_(Upload.verifying_until.is_(None), Upload.verifying_until < now_plus())
    return _extend(session, upload_id, is_free)


def renew(session: Session, upload_id: UUID) -> bool:
    """Extend the lease; return False if the upload has been deleted."""
    return _extend(session, upload_id, Upload.verifying_until.is_not(None))


def release(session: Session, upload_id: UUID) -> None:
    """Give the lease back: parts are missing, or storage does not answer."""
    _run(session, update(Upload).where(Upload.id == upload_id).values(verifying_until=None))


def complete(session: Session, upload_id: UUID, sha256: str | None, *, hours: float) -> bool:
    """Mark an upload as complete; return False if it has been deleted."""
    done = update(Upload).where(Upload.id == upload_id)
    values: dict[str, Any] = {
        "completed_at": now_plus(),
        "verifying_until": None,
        "token": None,
        "expires_at": now_plus(hours * 3600),
    }
    if sha256 is not None:
        values["sha256"] = sha256
    return _run(session, done.values(values)) == 1


def delete_upload(session: Session, owner: str, upload_id: UUID) -> Parts:
    """Delete an upload, and record its files as garbage unless a job uses them; return its parts, to be dropped.

    Raises:
        UploadNotFound
    """
    (gone,) = _delete(session, Upload.id == upload_id, Upload.owner == owner) or (None,)
    if gone is None:
        raise UploadNotFound(f"Upload {upload_id} does not exist. It may have expired.")
    return gone


def expire_uploads(session: Session, *, limit: int = 200) -> list[Parts]:
    """Delete uploads that were abandoned, or are complete and no longer needed; see `delete_upload`."""
    old = select(Upload.id).where(Upload.expires_at < now_plus()).order_by(Upload.expires_at).limit(limit)
    return _delete(session, Upload.id.in_(old), Upload.expires_at < now_plus())


def list_open(session: Session) -> list[Parts]:
    """List the uploads that clients still send parts of."""
    return [parts_of(upload) for upload in session.scalars(select(Upload).where(Upload.completed_at.is_(None)))]


def find_open(session: Session, upload_ids: Sequence[UUID]) -> dict[UUID, set[int]]:
    """Return which of these uploads clients still send parts of, as `garbage.find_kept_results` does for jobs."""
    found = select(Upload.id).where(Upload.id.in_(upload_ids), Upload.completed_at.is_(None))
    return {upload_id: set() for upload_id in session.scalars(found)}


def _delete(session: Session, *which: ColumnElement[bool]) -> list[Parts]:
    deleted = delete(Upload).where(*which).returning(Upload.id, Upload.size, Upload.part_size, Upload.token)
    gone = [Parts(*row) for row in session.execute(deleted, execution_options=_UNSYNCHRONIZED)]
    ids = [parts.upload_id for parts in gone]
    garbage.note(session, [*garbage.unused_recordings(session, ids), *map(parts_prefix, ids)])
    return gone


def _extend(session: Session, upload_id: UUID, guard: ColumnElement[bool]) -> bool:
    held = update(Upload).where(Upload.id == upload_id, Upload.completed_at.is_(None), guard)
    return _run(session, held.values(verifying_until=now_plus(LEASE_SECONDS))) == 1


def _run(session: Session, statement: Executable) -> int:
    result: CursorResult[Any] = session.execute(statement, execution_options=_UNSYNCHRONIZED)  # type: ignore[assignment]
    return result.rowcount
