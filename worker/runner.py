"""Runs work items: claim → lease → handler → outcome.

The work itself is done by handlers (`worker.handlers`); the runner knows neither the kinds of work nor the broker:
Celery calls it, and so do tests. Whatever happens to an attempt, the guarded updates of `shared.work` leave the
item in a state from which another worker can continue.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import Context as LogContext
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

import structlog
from sqlalchemy.orm import Session

from shared import tracing, work
from shared.db import is_unavailable
from shared.errors import ServiceError
from shared.fairness import claim_next
from shared.kinds import Claim
from shared.logs import get_logger
from worker import metrics
from worker.context import Context, Deferred, Done, Postponed, Services
from worker.errors import OUT_OF_MEMORY, Failure, classify
from worker.handlers import HANDLERS
from worker.heartbeat import Heartbeat, LeaseLost, ShuttingDown
from worker.liveness import Activity
from worker.preemption import WAIT_SECONDS, Preemption

if TYPE_CHECKING:
    from opentelemetry.trace import Span

log = get_logger(__name__)

T = TypeVar("T")
DATABASE_PAUSE_SECONDS = 0.5
SHUTDOWN_SECONDS = 5.0  # how long a worker that shuts down waits for the database; then its lease expires
OUTAGE_PAUSE_SECONDS = 10.0  # longest pause, before jitter, while a dependency is unavailable: it may recover soon
OUTAGE_ATTEMPTS = 500  # over an hour of outage: from then on attempts count, and the job fails


class Outcome(StrEnum):
    """How an attempt ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    DEFERRED = "deferred"  # the item is long, or follows another one, and must wait
    RELEASED = "released"  # this worker is shutting down
    LOST = "lost"  # the item was canceled or claimed by another worker


@dataclass(frozen=True)
class Runner:
    """Runs items on the threads of a worker process.

    Attributes:
        preempted: the heartbeat of the long item that this runner's items preempt.
    """

    services: Services
    preempted: Heartbeat | None = None

    def drain(self) -> None:
        """Run all items that are due, one after the other, until this worker shuts down."""
        while self.run_next() is not None:
            pass

    def run_next(self) -> Outcome | None:
        """Run the item that is first in line; None if nothing is due, or this worker drains or shuts down."""
        if self.services.stopping.is_set():
            return None
        claim = self._retry_while_unavailable(lambda: self._claim(self.services.settings.max_attempts))
        return None if claim is None else self.run(claim)

    def run(self, claim: Claim) -> Outcome:
        """Run an item that this worker has claimed."""
        known = {
            "job_id": str(claim.job_id),
            "owner": claim.owner,
            "kind": claim.kind,
            "number": claim.number,
            "attempt": claim.attempt,
        }
        with (
            structlog.contextvars.bound_contextvars(**known),
            _span(claim) as span,
            metrics.running(claim),
            self.services.fetches.counted(claim.kind),
            self.services.liveness.attempt() as activity,
        ):
            log.info("attempt_started", model=claim.model)
            started = time.monotonic()
            outcome = self._attempt(claim, activity)
            log.info("attempt_ended", outcome=outcome, seconds=round(time.monotonic() - started, 2))
            tracing.annotate(span, mt3__outcome=outcome.value)
            if outcome is not Outcome.FAILED:  # those are counted with their code
                metrics.count_attempt(claim, outcome)
            return outcome

    def _claim(self, max_attempts: int, *, short_for: float | None = None) -> Claim | None:
        if self.services.draining.is_set():
            return None
        return claim_next(
            self.services.sessions,
            worker=self.services.worker,
            lease_seconds=self.services.settings.lease_seconds,
            max_attempts=max_attempts,
            short_for=short_for,
            without=self.services.kinds_in_excess(),
        )

    def _attempt(self, claim: Claim, activity: Activity) -> Outcome:
        try:
            with self._heartbeat(claim, activity) as heartbeat:
                context = Context(
                    services=self.services,
                    claim=claim,
                    heartbeat=heartbeat,
                    preempt=self._preemption(heartbeat),
                    is_preempting=self.preempted is not None,
                )
                self._refuse_taken_number(claim)
                done = HANDLERS[claim.kind].run(context)
                self._complete(claim, done, activity)
        except Postponed as postponed:
            seconds = postponed.seconds
            is_held = self._commit(lambda session: work.release(session, claim, after=seconds), activity)
            return Outcome.DEFERRED if is_held else Outcome.LOST
        except Deferred:
            is_held = self._commit(lambda session: work.defer(session, claim), activity)
            return Outcome.DEFERRED if is_held else Outcome.LOST
        except LeaseLost:
            self._discard(claim)
            return Outcome.LOST
        except ShuttingDown:
            if self._commit(lambda session: work.release(session, claim), activity):
                self._discard(claim)
            return Outcome.RELEASED
        except Exception as error:
            self._fail(claim, error, activity)
            return Outcome.FAILED
        for item in done.then:
            if item.blocked_by is None:
                self.services.queue.notify()
        return Outcome.SUCCEEDED

    def _refuse_taken_number(self, claim: Claim) -> None:
        """Postpone an attempt after whose number objects are in storage already, so that the next one has another.

        They are of a newer database than this one, which was restored from a backup, and may be needed again.
        """
        for prefix in HANDLERS[claim.kind].stores(claim):
            if next(self.services.storage.list_objects(prefix), None) is not None:
                log.warning("attempt_number_taken", prefix=prefix)
                raise Postponed(0.0)

    def _complete(self, claim: Claim, done: Done, activity: Activity) -> None:
        """Complete the item, or raise `LeaseLost` if another attempt holds it."""

        def complete(session: Session) -> bool:
            is_complete = work.complete(
                session,
                claim,
                result_key=done.result_key,
                then=done.then,
                job=done.job,
                result=done.result,
                unneeded=done.unneeded,
            )
            if is_complete:
                done.also(session)
            return is_complete or work.was_completed(session, claim)

        if not self._commit(complete, activity):
            log.warning("stale_finish_refused")
            raise LeaseLost

    def _fail(self, claim: Claim, error: Exception, activity: Activity) -> None:
        failure = classify(error)
        trace = error if failure.code == "internal_error" else None
        log.warning("attempt_failed", code=failure.code, detail=str(error), exc_info=trace)
        metrics.count_attempt(claim, Outcome.FAILED, failure.code)
        tracing.annotate_current(error=failure.code, mt3__error=failure.detail)
        if failure.code == OUT_OF_MEMORY:
            self.services.engine.make_room(error)
        if self._commit(lambda session: self._write_failure(session, claim, failure), activity):
            self._discard(claim)

    def _write_failure(self, session: Session, claim: Claim, failure: Failure) -> bool:
        is_counted = failure.is_counted or claim.attempt >= OUTAGE_ATTEMPTS
        pause = self._backoff(claim.attempt, longest=float("inf") if is_counted else OUTAGE_PAUSE_SECONDS)
        if failure.pause is not None:
            pause = failure.pause * random.uniform(0.9, 1.1)  # noqa: S311 - not security-relevant
        return work.fail(
            session,
            claim,
            code=failure.code,
            detail=failure.detail,
            retry_after_seconds=pause if failure.retryable else None,
            max_attempts=self.services.settings.max_attempts,
            is_counted=is_counted,
        )

    def _backoff(self, attempt: int, *, longest: float) -> float:
        """Return the seconds until the next attempt: exponential, with jitter to spread retries."""
        doubled: float = self.services.settings.retry_seconds * 2 ** min(attempt - 1, 6)
        return min(doubled, longest) * random.uniform(0.5, 1.5)  # noqa: S311 - not security-relevant

    def _commit(self, write: Callable[[Session], bool], activity: Activity) -> bool:
        """Run a transaction whose guard makes it safe to repeat, until the database is available.

        Raises:
            The database's error, if it is unavailable while this worker shuts down.
        """

        def commit() -> bool:
            with self.services.sessions.begin() as session:
                return write(session)

        return self._retry_while_unavailable(commit, activity)

    def _retry_while_unavailable(self, action: Callable[[], T], activity: Activity | None = None) -> T:
        is_waiting = False
        deadline = time.monotonic() + SHUTDOWN_SECONDS
        while True:
            try:
                return action()
            except Exception as error:
                if not is_unavailable(error):
                    raise
                if self.services.stopping.is_set() and time.monotonic() > deadline:
                    raise
                if not is_waiting:
                    log.warning("waiting_for_dependency", dependency="database", error=str(error).splitlines()[0])
                is_waiting = True
            if activity is not None:
                activity.touch()
            time.sleep(DATABASE_PAUSE_SECONDS)

    def _heartbeat(self, claim: Claim, activity: Activity) -> Heartbeat:
        def moved() -> None:
            activity.touch()
            if self.preempted is not None:
                self.preempted.touch()

        return Heartbeat(
            self.services.sessions,
            claim,
            lease_seconds=self.services.settings.lease_seconds,
            stopping=self.services.stopping,
            on_move=moved,
        )

    def _preemption(self, heartbeat: Heartbeat) -> Preemption:
        """Return the callable that a long item calls between two segments.

        It makes only first attempts: an item that killed its worker before would end the long one's attempt, too.
        """
        nested = replace(self, preempted=heartbeat)

        def run_short() -> bool:
            try:
                claim = self._claim(max_attempts=1, short_for=WAIT_SECONDS)
            except Exception as error:
                if not is_unavailable(error):
                    raise
                return False
            if claim is not None:
                LogContext().run(nested.run, claim)  # without the log context of the long item
            return claim is not None and not self.services.stopping.is_set()

        return Preemption(run_short)

    def _discard(self, claim: Claim) -> None:
        """Remove the objects that an unsuccessful attempt has stored."""
        try:
            for prefix in HANDLERS[claim.kind].stores(claim):
                self.services.storage.delete_prefix(prefix)
        except ServiceError as error:
            log.warning("stale_results_left", error=str(error))


def _span(claim: Claim) -> AbstractContextManager[Span | None]:
    """Return the span of an attempt, below the request or the attempt that enqueued its item."""
    return tracing.span(
        f"attempt {claim.kind}",
        parent=claim.traceparent,
        kind=tracing.CONSUMER,
        mt3__job_id=str(claim.job_id),
        mt3__owner=claim.owner,
        mt3__kind=claim.kind,
        mt3__number=claim.number,
        mt3__attempt=claim.attempt,
        mt3__model=claim.model,
    )
