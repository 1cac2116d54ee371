"""Links that share one job, read-only, without a key: until they expire, are revoked or the job is deleted."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ColumnElement, delete, or_, select, update
from sqlalchemy.orm import Session
from uuid6 import uuid7

from shared import jobs
from shared.db import now_plus
from shared.errors import JobNotFound, ShareNotFound
from shared.keys import hash_secret, new_secret
from shared.tables import Job, Share

TOKEN_PREFIX = "mt3s_"  # noqa: S105 - by which people, and scanners for leaked secrets, know one


@dataclass(frozen=True)
class SharedJob:
    """Hold what the token of a link stands for."""

    job_id: UUID
    owner: str


def create_share(session: Session, owner: str, job_id: UUID, *, expires_in: float | None) -> tuple[Share, str]:
    """Share a job; return the row and the token, which cannot be read again.

    Args:
        expires_in: seconds; None for a link that lasts as long as the job.

    Raises:
        JobNotFound
    """
    # The lock on the job's row keeps it from being deleted meanwhile.
    locked = update(Job).where(Job.id == job_id, Job.owner == owner).values(owner=Job.owner).returning(Job.id)
    if session.scalar(locked, execution_options={"synchronize_session": False}) is None:
        raise JobNotFound(f"Transcription {job_id} does not exist. It may have been deleted.")
    session.execute(delete(Share).where(Share.job_id == job_id, Share.expires_at < now_plus()))
    token = new_secret(TOKEN_PREFIX)
    share = Share(
        id=UUID(str(uuid7())),
        job_id=job_id,
        hash=hash_secret(token),
        created_at=now_plus(),
        expires_at=None if expires_in is None else now_plus(expires_in),
    )
    session.add(share)
    session.flush()
    session.refresh(share)
    return share, token


def list_shares(session: Session, owner: str, job_id: UUID) -> Sequence[Share]:
    """Return the links of a job that are valid, the oldest first.

    Raises:
        JobNotFound
    """
    jobs.get_job(session, owner, job_id)
    return session.scalars(select(Share).where(Share.job_id == job_id, _is_valid()).order_by(Share.id)).all()


def revoke_share(session: Session, owner: str, job_id: UUID, token_or_id: str) -> None:
    """Revoke a link by its token or by its id.

    Raises:
        JobNotFound, ShareNotFound
    """
    found = Share.hash == hash_secret(token_or_id)
    with suppress(ValueError):  # not an id
        found = or_(found, Share.id == UUID(token_or_id))
    own = select(Job.id).where(Job.id == job_id, Job.owner == owner)
    revoked = delete(Share).where(Share.job_id.in_(own), found).returning(Share.id)
    if session.scalar(revoked, execution_options={"synchronize_session": False}) is None:
        jobs.get_job(session, owner, job_id)
        raise ShareNotFound("This transcription has no such share link. It may have expired or been revoked.")


def find_shared_job(session: Session, token: str) -> SharedJob | None:
    """Return what a token stands for; None if it is unknown, expired or revoked, or the job was deleted."""
    digest = hash_secret(token)
    query = select(Share.hash, Job.id, Job.owner).join(Job, Job.id == Share.job_id)
    row = session.execute(query.where(Share.hash == digest, _is_valid())).one_or_none()
    if row is None or not hmac.compare_digest(row[0], digest):
        return None
    return SharedJob(row[1], row[2])


def _is_valid() -> ColumnElement[bool]:
    return or_(Share.expires_at.is_(None), Share.expires_at > now_plus())
