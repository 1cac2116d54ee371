"""Corrected notes: a version of a transcription's notes that a user mended, stored beside the original.

There is one version for each job, an artifact like the others. A new one replaces it; exports name which of the
two they are made from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import update
from sqlalchemy.orm import Session

from shared import garbage, work
from shared.errors import CorrectionsChanged
from shared.exports import CORRECTIONS, lock_succeeded
from shared.tables import Job


def lock_job(session: Session, owner: str, job_id: UUID) -> Job:
    """Return a job that can be corrected, locked until the end of the transaction.

    Raises:
        JobNotFound, StateConflict: see `shared.exports.lock_succeeded`.
    """
    return lock_succeeded(session, owner, job_id, deed="corrected")


def check_expected(job: Job, expected: str | None, new_sha256: str) -> None:
    """Raise if a job's corrections are not those that a client has seen.

    Args:
        expected: SHA-256 of those; "" if there were none, None to replace any.
        new_sha256: of what the client stores: the same again, after a response was lost, is no conflict.
    Raises:
        CorrectionsChanged
    """
    stored = next((other["sha256"] for other in job.artifacts if other["name"] == CORRECTIONS), "")
    if expected not in (None, stored) and stored != new_sha256:
        raise CorrectionsChanged(
            "These notes were corrected elsewhere, such as in another tab. Reload them, then change them again."
        )


def replace_corrections(
    session: Session, owner: str, job_id: UUID, artifact: Mapping[str, Any] | None, *, expected: str | None = None
) -> None:
    """Make a stored file the corrected notes of a job, or remove them; the file before it becomes garbage.

    Args:
        expected: see `check_expected`.
    Raises:
        JobNotFound, StateConflict: see `lock_job`.
        CorrectionsChanged: see `check_expected`.
    """
    job = lock_job(session, owner, job_id)
    if artifact is not None:
        check_expected(job, expected, artifact["sha256"])
    old = [other for other in job.artifacts if other["name"] == CORRECTIONS]
    kept = [other for other in job.artifacts if other["name"] != CORRECTIONS]
    added = [] if artifact is None else [dict(artifact)]
    changed = update(Job).where(Job.id == job_id).values(artifacts=kept + added)
    session.execute(changed, execution_options=work.UNSYNCHRONIZED)
    garbage.note(session, [other["key"].rpartition("/")[0] + "/" for other in old])
