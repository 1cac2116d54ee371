"""Provide what is known of a job that has not ended, beside its row: place in line, shards, and what it lacks."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.orm import Session

from checkpoints.errors import DownloadError, LockTimeoutError
from shared.line import Place, WaitingLine
from shared.progress import ShardsProgress
from shared.tables import Job, Status

NO_WORKER = "No worker is running: the transcription goes on as soon as one is started."
PAUSED = "Paused: shorter recordings, or those of other clients, are transcribed first."
NO_WEIGHTS = "The weights of {model} cannot be fetched at the moment; this is tried again."
FETCH_CODES = (DownloadError.code, LockTimeoutError.code)


@dataclass(frozen=True)
class JobState:
    """The state of a job that changes without its row.

    Attributes:
        place: in line, if it is queued.
        shards: their progress, if it is split.
        workers: how many are present, if the job waits for one.
    """

    place: Place | None = None
    shards: ShardsProgress | None = None
    workers: int | None = None

    def last_error(self, job: Job) -> tuple[str, str] | None:
        """Return code and detail of the last attempt that failed, if the job has not ended."""
        if job.status.is_final:
            return None
        if self.shards is not None and self.shards.last_error is not None:
            return self.shards.last_error
        return (job.error_code, job.error_detail or "") if job.error_code else None

    def hint(self, job: Job) -> str | None:
        """Return why the job cannot go on at the moment; None if it runs or has only to wait for its turn."""
        if job.status.is_final:
            return None
        if self.workers == 0:
            return NO_WORKER
        error = self.last_error(job)
        if job.status is Status.QUEUED and error is not None and error[0] in FETCH_CODES:
            return NO_WEIGHTS.format(model=job.model)
        if job.status is Status.PROCESSING and self.shards is not None and not self.shards.running:
            return PAUSED
        return None


UNKNOWN = JobState()


def read_state(line: WaitingLine, session: Session, job: Job, shards: ShardsProgress | None) -> JobState:
    """Return the state of a job, given the progress of its shards."""
    place = line.place(session, job)
    is_paused = job.status is Status.PROCESSING and shards is not None and not shards.running
    workers = place.workers if place else line.count_workers(session) if is_paused else None
    return JobState(place, shards, workers)
