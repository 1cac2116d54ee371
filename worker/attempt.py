"""One attempt at a job: claim → weights → audio → notes → artifacts → complete.

The path knows no broker: Celery calls it, and so do the tests. Whatever happens in it, the row ends in a state
from which somebody goes on: the guarded updates of `shared.jobs` see to that.
"""

from __future__ import annotations

import io
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID

import structlog
from sqlalchemy.orm import Session

from checkpoints.progress import FetchProgress
from mt3_infer.transcribe import Progress
from mt3_infer.transcription import Transcription
from shared import jobs
from shared.config import Settings
from shared.db import Sessions, is_away
from shared.errors import ServiceError
from shared.jobs import Claim, Download
from shared.logs import get_logger
from shared.storage import ObjectStorage, StoredObject, result_prefix
from shared.tables import Phase
from worker.engine import TranscriptionEngine
from worker.errors import OUT_OF_MEMORY, classify
from worker.heartbeat import Heartbeat, LeaseLost, ShuttingDown
from worker.liveness import Liveness, Movement

log = get_logger(__name__)

T = TypeVar("T")
DATABASE_PAUSE_SECONDS = 0.5
GOODBYE_SECONDS = 5.0  # a worker that is to end waits no longer for the database; the lease does the rest
OUTAGE_PAUSE_SECONDS = 10.0  # longest pause, before jitter, while a part of ours is away: it may be back any time
OUTAGE_ATTEMPTS = 500  # over an hour of outage: from then on attempts are charged, and the job ends


@dataclass(frozen=True)
class Attempts:
    """What every attempt of this process works with."""

    settings: Settings
    sessions: Sessions
    storage: ObjectStorage
    engine: TranscriptionEngine
    worker: str
    stopping: threading.Event
    liveness: Liveness = field(default_factory=lambda: Liveness(stall_seconds=900, loop_seconds=60))

    def run(self, job_id: UUID) -> str | None:
        """Claim the job and see it through; how it ended, or None where it was not ours to take."""
        if self.stopping.is_set():
            return None  # the row is still queued: the scheduler rings for it again

        def take(session: Session) -> Claim | None:
            return jobs.claim_job(
                session,
                job_id,
                worker=self.worker,
                lease_seconds=self.settings.lease_seconds,
                max_attempts=self.settings.max_attempts,
            )

        claim = self._settle(take)
        if claim is None:
            log.info("claim_refused", job_id=str(job_id))
            return None
        with structlog.contextvars.bound_contextvars(job_id=str(job_id), attempt=claim.attempt):
            log.info("attempt_started", model=claim.model)
            started = time.monotonic()
            outcome = self._see_through(claim)
            log.info("attempt_ended", outcome=outcome, seconds=round(time.monotonic() - started, 2))
            return outcome

    def _see_through(self, claim: Claim) -> str:
        with self.liveness.job() as movement:
            try:
                with Heartbeat(
                    self.sessions,
                    claim,
                    lease_seconds=self.settings.lease_seconds,
                    stopping=self.stopping,
                    on_move=movement.moved,
                ) as heartbeat:
                    transcription = self._transcribe(claim, heartbeat)
                    heartbeat.report(Phase.WRITING_RESULTS, done=transcription.duration)
                    artifacts = self._write_results(claim, transcription)
                    self._complete(claim, transcription, artifacts, movement)
            except LeaseLost:
                self._discard(claim)
                return "lost"
            except ShuttingDown:
                self._settle(lambda session: jobs.release_job(session, claim), movement)
                return "released"
            except Exception as error:
                self._fail(claim, error, movement)
                return "failed"
            return "succeeded"

    def _complete(
        self, claim: Claim, transcription: Transcription, artifacts: list[dict[str, Any]], movement: Movement
    ) -> None:
        """Raises: LeaseLost: another attempt holds the job; this one's artifacts are to be discarded."""

        def complete(session: Session) -> bool:
            # A first try may have been made although it seemed to fail: then this very attempt has succeeded.
            return jobs.complete_job(
                session,
                claim,
                artifacts=artifacts,
                note_count=len(transcription.notes),
                audio_seconds=transcription.duration,
            ) or jobs.was_completed(session, claim)

        if not self._settle(complete, movement):
            log.warning("stale_finish_refused")
            raise LeaseLost

    def _settle(self, write: Callable[[Session], T], movement: Movement | None = None) -> T:
        """Run a transaction whose guard makes it safe to repeat, until the database is there to take it.

        Raises:
            what the database raises, if this worker is to end.
        """
        is_waiting = False
        patience = time.monotonic() + GOODBYE_SECONDS
        while True:
            try:
                with self.sessions.begin() as session:
                    return write(session)
            except Exception as error:
                if not is_away(error):
                    raise
                if self.stopping.is_set() and time.monotonic() > patience:
                    raise
                if not is_waiting:
                    log.warning("waiting_for_part", part="database", error=str(error).splitlines()[0])
                is_waiting = True
            if movement is not None:
                movement.moved()
            time.sleep(DATABASE_PAUSE_SECONDS)

    def _transcribe(self, claim: Claim, heartbeat: Heartbeat) -> Transcription:
        heartbeat.report(Phase.FETCHING_CHECKPOINT)

        def fetching(at: FetchProgress) -> None:
            download = Download(at.bytes_done, at.bytes_total, round(at.bytes_per_second), at.waiting)
            heartbeat.report(Phase.FETCHING_CHECKPOINT, download=download)

        self.engine.fetch(claim.model, fetching)
        heartbeat.report(Phase.LOADING_MODEL)
        model = self.engine.load(claim.model, halvings=self._times_out_of_memory(claim))
        heartbeat.report(Phase.DECODING_AUDIO)
        with self.storage.open(claim.upload_key) as recording:
            began = time.monotonic()

            def progress(at: Progress) -> None:
                heartbeat.report(Phase.TRANSCRIBING, done=at.seconds_done, total=at.seconds_total)

            transcription = self.engine.transcribe(model, recording, claim.options, progress)
        self._report_speed(claim.model, transcription.duration / max(time.monotonic() - began, 1e-6))
        return transcription

    def _write_results(self, claim: Claim, transcription: Transcription) -> list[dict[str, Any]]:
        midi = transcription.to_midi()
        notes = transcription.to_json().encode()
        return [
            self._write(claim, "transcription.mid", midi, "audio/midi"),
            self._write(claim, "notes.json", notes, "application/json"),
        ]

    def _write(self, claim: Claim, name: str, content: bytes, content_type: str) -> dict[str, Any]:
        key = result_prefix(claim.job_id, claim.attempt) + name
        stored: StoredObject = self.storage.put(key, io.BytesIO(content), content_type=content_type)
        return {
            "name": name,
            "content_type": content_type,
            "size": stored.size,
            "sha256": stored.sha256,
            "key": stored.key,
        }

    def _times_out_of_memory(self, claim: Claim) -> int:
        if claim.attempt == 1:
            return 0
        with self.sessions() as session:
            return jobs.count_failures(session, claim.job_id, OUT_OF_MEMORY)

    def _fail(self, claim: Claim, error: Exception, movement: Movement) -> None:
        failure = classify(error)
        trace = error if failure.code == "internal_error" else None
        log.warning("attempt_failed", code=failure.code, detail=str(error), exc_info=trace)
        if failure.code == OUT_OF_MEMORY:
            self.engine.make_room(error)
        is_charged = failure.is_charged or claim.attempt >= OUTAGE_ATTEMPTS
        pause = self._backoff(claim.attempt, longest=float("inf") if is_charged else OUTAGE_PAUSE_SECONDS)

        def fail(session: Session) -> bool:
            return jobs.fail_attempt(
                session,
                claim,
                code=failure.code,
                detail=failure.detail,
                retry_after_seconds=pause if failure.retryable else None,
                max_attempts=self.settings.max_attempts,
                is_charged=is_charged,
            )

        self._settle(fail, movement)

    def _backoff(self, attempt: int, *, longest: float) -> float:
        """Seconds until the next attempt: doubled each time, with jitter so that many do not come back as one."""
        doubled: float = self.settings.retry_seconds * 2 ** min(attempt - 1, 6)
        return min(doubled, longest) * random.uniform(0.5, 1.5)  # noqa: S311 - no secret

    def _discard(self, claim: Claim) -> None:
        try:
            self.storage.delete_prefix(result_prefix(claim.job_id, claim.attempt))
        except ServiceError as error:
            log.warning("stale_results_left", error=str(error))

    def _report_speed(self, model: str, realtime_factor: float) -> None:
        try:
            with self.sessions.begin() as session:
                jobs.report_model(session, model, installed=True, realtime_factor=realtime_factor)
        except Exception as error:
            log.warning("model_report_failed", error=str(error))
