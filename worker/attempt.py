"""One attempt at a job: claim → weights → audio → notes → artifacts → complete.

A long recording takes several: one cuts it into shards and lets go, each shard is an attempt of its own, and who
read the last one makes notes of all (`worker.shards`).

The path knows no broker: Celery calls it, and so do the tests. Whatever happens in it, the row ends in a state
from which somebody goes on: the guarded updates of `shared.jobs` see to that.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from contextvars import Context
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar
from uuid import UUID

import structlog
from sqlalchemy.orm import Session

from checkpoints.progress import FetchProgress
from mt3_infer.loading import Model
from mt3_infer.transcribe import Progress
from mt3_infer.transcription import Transcription
from shared import jobs, shards
from shared.config import Settings
from shared.db import Sessions, is_away
from shared.errors import ServiceError
from shared.jobs import Claim, Download
from shared.logs import get_logger
from shared.queue import JobQueue
from shared.shards import Completed, ShardClaim
from shared.storage import ObjectStorage, put_checked, result_prefix, shard_prefix
from shared.tables import Phase
from shared.turns import claim_next, must_wait
from worker.engine import TranscriptionEngine
from worker.errors import OUT_OF_MEMORY, Failure, classify
from worker.giving_way import WAIT_SECONDS, GivingWay
from worker.heartbeat import Heartbeat, LeaseLost, ShuttingDown
from worker.liveness import Liveness, Movement
from worker.shards import Cut, ShardWork

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
    queue: JobQueue
    worker: str
    stopping: threading.Event
    liveness: Liveness = field(default_factory=lambda: Liveness(stall_seconds=900, loop_seconds=60))
    gives_way: Heartbeat | None = None  # of the long recording whose worker does this meanwhile

    def run(self, job_id: UUID) -> str | None:
        """Somebody rang: claim the job or shard whose turn it is and see it through.

        Args:
            job_id: that was rung for. It is taken where nothing waits, but it has lost its worker.
        Returns:
            How the attempt ended; None where there was nothing to take.
        """
        if self.stopping.is_set():
            return None  # the row is still queued: the scheduler rings for it again
        claim = self._insist(lambda: self._claim(job_id))
        if claim is None:
            log.info("claim_refused", job_id=str(job_id))
            return None
        if isinstance(claim, ShardClaim):
            return self._run_shard(claim)
        return self._run_job(claim)

    def _claim(self, job_id: UUID) -> Claim | ShardClaim | None:
        lease_seconds, max_attempts = self.settings.lease_seconds, self.settings.max_attempts
        claim = claim_next(
            self.sessions, worker=self.worker, lease_seconds=lease_seconds, max_attempts=max_attempts
        )
        if claim is not None:
            return claim
        with self.sessions.begin() as session:
            return jobs.claim_job(
                session,
                job_id,
                worker=self.worker,
                lease_seconds=lease_seconds,
                max_attempts=max_attempts,
            )

    def _run_job(self, claim: Claim) -> str:
        with structlog.contextvars.bound_contextvars(job_id=str(claim.job_id), attempt=claim.attempt):
            log.info("attempt_started", model=claim.model)
            started = time.monotonic()
            outcome = self._see_through(claim)
            log.info("attempt_ended", outcome=outcome, seconds=round(time.monotonic() - started, 2))
            return outcome

    def _run_shard(self, claim: ShardClaim) -> str:
        known = {"job_id": str(claim.job_id), "shard": claim.number, "attempt": claim.attempt}
        with structlog.contextvars.bound_contextvars(**known):
            log.info("shard_started", model=claim.model)
            started = time.monotonic()
            outcome, assembly = self._see_shard_through(claim)
            log.info("shard_ended", outcome=outcome, seconds=round(time.monotonic() - started, 2))
        return outcome if assembly is None else self._run_job(assembly)

    def _see_through(self, claim: Claim) -> str:
        with self.liveness.job() as movement:
            try:
                with self._heartbeat(claim, movement) as heartbeat:
                    transcription = self._transcribe(claim, heartbeat, movement)
                    if isinstance(transcription, str):
                        return transcription
                    heartbeat.report(Phase.WRITING_RESULTS, done=transcription.duration)
                    artifacts = self._write_results(claim, transcription)
                    self._complete(claim, transcription, artifacts, movement)
            except LeaseLost:
                self._discard(claim)
                return "lost"
            except ShuttingDown:
                if self._settle(lambda session: jobs.release_job(session, claim), movement):
                    self._discard(claim)
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
                warnings=[asdict(warning) for warning in transcription.warnings],
            ) or jobs.was_completed(session, claim)

        if not self._settle(complete, movement):
            log.warning("stale_finish_refused")
            raise LeaseLost

    def _see_shard_through(self, claim: ShardClaim) -> tuple[str, Claim | None]:
        """How the attempt ended; and the job, if this was its last shard."""
        with self.liveness.job() as movement:
            try:
                with self._heartbeat(claim, movement) as heartbeat:
                    model = self._model(claim.model, heartbeat, halvings=self._times_out_of_memory(claim))
                    began, giving_way = time.monotonic(), self._giving_way(heartbeat)
                    result_key = self._shard_work.read(claim, model, heartbeat, giving_way)
                    took = time.monotonic() - began - giving_way.seconds
                    assembly = self._complete_shard(claim, result_key, movement)
            except LeaseLost:
                self._discard_objects(shard_prefix(claim.job_id, claim.plan, claim.number, claim.attempt))
                return "lost", None
            except ShuttingDown:
                self._settle(lambda session: shards.release_shard(session, claim), movement)
                return "released", None
            except Exception as error:
                self._fail(claim, error, movement)
                return "failed", None
        self._report_speed(claim.model, claim.seconds / max(took, 1e-6))
        return "read", assembly

    def _complete_shard(self, claim: ShardClaim, result_key: str, movement: Movement) -> Claim | None:
        """The job, if this was its last shard.

        Raises:
            LeaseLost: another attempt holds the shard, or the job has ended.
        """

        def complete(session: Session) -> Completed:
            completed = shards.complete_shard(
                session,
                claim,
                result_key=result_key,
                worker=self.worker,
                lease_seconds=self.settings.lease_seconds,
            )
            if not completed.won and shards.was_completed(session, claim, result_key=result_key):
                return Completed(won=True)  # if that took the job, too, its lease brings it back
            return completed

        completed = self._settle(complete, movement)
        if not completed.won:
            log.warning("stale_finish_refused")
            raise LeaseLost
        if completed.is_next_due:
            self.queue.submit(claim.job_id)
        return completed.assembly

    def _settle(self, write: Callable[[Session], T], movement: Movement | None = None) -> T:
        """Run a transaction whose guard makes it safe to repeat, until the database is there to take it.

        Raises:
            what the database raises, if this worker is to end.
        """

        def settle() -> T:
            with self.sessions.begin() as session:
                return write(session)

        return self._insist(settle, movement)

    def _insist(self, ask: Callable[[], T], movement: Movement | None = None) -> T:
        is_waiting = False
        patience = time.monotonic() + GOODBYE_SECONDS
        while True:
            try:
                return ask()
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

    def _heartbeat(self, claim: Claim | ShardClaim, movement: Movement) -> Heartbeat:
        def moved() -> None:
            movement.moved()
            if self.gives_way is not None:
                self.gives_way.touch()

        return Heartbeat(
            self.sessions,
            claim,
            lease_seconds=self.settings.lease_seconds,
            stopping=self.stopping,
            on_move=moved,
        )

    def _giving_way(self, heartbeat: Heartbeat) -> GivingWay:
        """What an attempt at a long recording is to call between two segments.

        Only first attempts are made there: a job that killed its worker would take the long one's with it again.
        """
        meanwhile = replace(self, gives_way=heartbeat)

        def do_one() -> bool:
            try:
                claim = claim_next(
                    self.sessions,
                    worker=self.worker,
                    lease_seconds=self.settings.lease_seconds,
                    max_attempts=1,
                    unheard_for=WAIT_SECONDS,
                )
            except Exception as error:
                if not is_away(error):
                    raise
                return False
            if isinstance(claim, Claim):
                Context().run(meanwhile._run_job, claim)  # log lines that know nothing of the long recording
            return claim is not None and not self.stopping.is_set()

        return GivingWay(do_one)

    def _model(self, name: str, heartbeat: Heartbeat, *, halvings: int) -> Model:
        heartbeat.report(Phase.FETCHING_CHECKPOINT)

        def fetching(at: FetchProgress) -> None:
            download = Download(at.bytes_done, at.bytes_total, round(at.bytes_per_second), at.waiting)
            heartbeat.report(Phase.FETCHING_CHECKPOINT, download=download)

        self.engine.fetch(name, fetching)
        heartbeat.report(Phase.LOADING_MODEL)
        return self.engine.load(name, halvings=halvings)

    def _transcribe(self, claim: Claim, heartbeat: Heartbeat, movement: Movement) -> Transcription | str:
        """The notes; or how else the attempt ended, where the job was let go.

        Raises:
            LeaseLost: it was not ours to let go any more.
        """
        if claim.plan is not None and not claim.plan.is_done:
            self._let_go(lambda session: shards.hand_over(session, claim), movement)
            return "handed_over"
        model = self._model(claim.model, heartbeat, halvings=self._times_out_of_memory(claim))
        if claim.plan is not None:
            return self._shard_work.assemble(claim, model, heartbeat)
        heartbeat.report(Phase.DECODING_AUDIO)
        with self.storage.open(claim.upload_key) as recording:
            if self._shard_work.is_long(model, recording):
                if self._must_wait(claim):
                    self._let_go(lambda session: jobs.hold_back(session, claim), movement)
                    return "held_back"
                cut = self._shard_work.cut(claim, model, recording, heartbeat, self._giving_way(heartbeat))
                self._plan(claim, cut, movement, in_order=model.network.in_order)
                return "handed_over"
            began = time.monotonic()

            def progress(at: Progress) -> None:
                heartbeat.report(Phase.TRANSCRIBING, done=at.seconds_done, total=at.seconds_total)

            transcription = self.engine.transcribe(model, recording, claim.options, progress)
        self._report_speed(claim.model, transcription.duration / max(time.monotonic() - began, 1e-6))
        return transcription

    def _must_wait(self, claim: Claim) -> bool:
        """Whether a long recording is put back before it is cut: once at most, and always out of another one."""
        if claim.is_long:
            return False
        if self.gives_way is not None:
            return True
        with self.sessions() as session:
            return must_wait(session, claim.job_id)

    def _let_go(self, write: Callable[[Session], bool], movement: Movement) -> None:
        if not self._settle(write, movement):
            raise LeaseLost

    def _plan(self, claim: Claim, cut: Cut, movement: Movement, *, in_order: bool) -> None:
        def plan(session: Session) -> bool:
            return shards.plan_job(
                session,
                claim,
                cut.shards,
                samples=cut.samples,
                seconds=cut.seconds,
                in_order=in_order,
                warnings=[asdict(warning) for warning in cut.warnings],
            ) or shards.was_planned(session, claim)

        self._let_go(plan, movement)
        log.info("planned", shards=len(cut.shards), audio_seconds=round(cut.seconds, 1))
        for _ in range(1 if in_order else len(cut.shards)):
            self.queue.submit(claim.job_id)

    @property
    def _shard_work(self) -> ShardWork:
        return ShardWork(self.settings, self.sessions, self.storage, self.engine)

    def _write_results(self, claim: Claim, transcription: Transcription) -> list[dict[str, Any]]:
        midi = transcription.to_midi()
        notes = transcription.to_json().encode()
        return [
            self._write(claim, "transcription.mid", midi, "audio/midi"),
            self._write(claim, "notes.json", notes, "application/json"),
        ]

    def _write(self, claim: Claim, name: str, content: bytes, content_type: str) -> dict[str, Any]:
        key = result_prefix(claim.job_id, claim.attempt) + name
        stored = put_checked(self.storage, key, content, content_type=content_type)
        return {
            "name": name,
            "content_type": content_type,
            "size": stored.size,
            "sha256": stored.sha256,
            "key": stored.key,
        }

    def _times_out_of_memory(self, claim: Claim | ShardClaim) -> int:
        if isinstance(claim, ShardClaim):
            return claim.attempt - 1 if claim.last_error == OUT_OF_MEMORY else 0
        if claim.attempt == 1:
            return 0
        with self.sessions() as session:
            return jobs.count_failures(session, claim.job_id, OUT_OF_MEMORY)

    def _fail(self, claim: Claim | ShardClaim, error: Exception, movement: Movement) -> None:
        failure = classify(error)
        trace = error if failure.code == "internal_error" else None
        log.warning("attempt_failed", code=failure.code, detail=str(error), exc_info=trace)
        if failure.code == OUT_OF_MEMORY:
            self.engine.make_room(error)
        if self._settle(lambda session: self._write_failure(session, claim, failure), movement) and isinstance(
            claim, Claim
        ):
            self._discard(claim)

    def _write_failure(self, session: Session, claim: Claim | ShardClaim, failure: Failure) -> bool:
        is_charged = failure.is_charged or claim.attempt >= OUTAGE_ATTEMPTS
        pause = self._backoff(claim.attempt, longest=float("inf") if is_charged else OUTAGE_PAUSE_SECONDS)
        outcome: dict[str, Any] = {
            "code": failure.code,
            "detail": failure.detail,
            "retry_after_seconds": pause if failure.retryable else None,
            "max_attempts": self.settings.max_attempts,
            "is_charged": is_charged,
        }
        if isinstance(claim, Claim):
            return jobs.fail_attempt(session, claim, **outcome)
        return shards.fail_shard(session, claim, **outcome)

    def _backoff(self, attempt: int, *, longest: float) -> float:
        """Seconds until the next attempt: doubled each time, with jitter so that many do not come back as one."""
        doubled: float = self.settings.retry_seconds * 2 ** min(attempt - 1, 6)
        return min(doubled, longest) * random.uniform(0.5, 1.5)  # noqa: S311 - no secret

    def _discard(self, claim: Claim) -> None:
        """Remove what an attempt has stored that came to nothing."""
        prefixes = [result_prefix(claim.job_id, claim.attempt)]
        # An error may have come after all was done, and the shards are in use.
        if claim.plan is None and not self._settle(lambda session: shards.was_planned(session, claim)):
            prefixes.append(shard_prefix(claim.job_id, claim.attempt))
        self._discard_objects(*prefixes)

    def _discard_objects(self, *prefixes: str) -> None:
        try:
            for prefix in prefixes:
                self.storage.delete_prefix(prefix)
        except ServiceError as error:
            log.warning("stale_results_left", error=str(error))

    def _report_speed(self, model: str, realtime_factor: float) -> None:
        try:
            with self.sessions.begin() as session:
                jobs.report_model(session, model, installed=True, realtime_factor=realtime_factor)
        except Exception as error:
            log.warning("model_report_failed", error=str(error))
