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
from shared.exports import CORRECTIONS, lock_succeeded
from shared.tables import Job


def lock_job(session: Session, owner: str, job_id: UUID) -> Job:
    """Return a job that can be corrected, locked until the end of the transaction.

    Raises:
        JobNotFound, StateConflict: see `shared.exports.lock_succeeded`.
    """
    return lock_succeeded(session, owner, job_id, deed="corrected")


def replace_corrections(session: Session, owner: str, job_id: UUID, artifact: Mapping[str, Any] | None) -> None:
    """Make a stored file the corrected notes of a job, or remove them; the file before it becomes garbage.

    Raises:
        JobNotFound, StateConflict: see `lock_job`.
    """
    job = lock_job(session, owner, job_id)
    old = [other for other in job.artifacts if other["name"] == CORRECTIONS]
    kept = [other for other in job.artifacts if other["name"] != CORRECTIONS]
    added = [] if artifact is None else [dict(artifact)]
    changed = update(Job).where(Job.id == job_id).values(artifacts=kept + added)
    session.execute(changed, execution_options=work.UNSYNCHRONIZED)
    garbage.note(session, [other["key"].rpartition("/")[0] + "/" for other in old])
