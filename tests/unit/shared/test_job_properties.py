"""Any interleaving of two workers, a client and the scheduler keeps the job's promises.

Hypothesis plays the parts against a real database and holds each answer against a model of a few lines.
"""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete, select, update
from uuid6 import uuid7

from shared import jobs
from shared.db import Sessions, now_plus
from shared.errors import StateConflict
from shared.jobs import Claim, NewJob
from shared.tables import Attempt, Job, Status

MAX_ATTEMPTS = 3
claims = st.integers(min_value=0, max_value=9)  # which of the claims ever made, counted from the latest


class JobLife(RuleBasedStateMachine):
    """One job, seen from all sides."""

    def __init__(self, sessions: Sessions) -> None:
        super().__init__()
        self.sessions = sessions
        self.claims: list[Claim] = []
        self.holder: Claim | None = None  # who may change the job, if anybody
        self.is_expired = False
        self.ended: Status | None = None
        self.winners = 0
        self.winner: Claim | None = None

    def teardown(self) -> None:
        with self.sessions.begin() as session:
            session.execute(delete(Job))

    @initialize()
    def create(self) -> None:
        self.job_id = UUID(str(uuid7()))
        new = NewJob(self.job_id, "o", "m", {}, {}, None, "k", 1)
        jobs.create_job(self.sessions, new)

    def any_claim(self, which: int) -> Claim:
        return self.claims[-1 - which % len(self.claims)]

    def job(self) -> Job:
        with self.sessions() as session:
            return jobs.get_job(session, "o", self.job_id)

    @rule(worker=st.sampled_from(["a", "b"]))
    def claim(self, worker: str) -> None:
        before = self.job()
        with self.sessions.begin() as session:
            claim = jobs.claim_job(
                session, self.job_id, worker=worker, lease_seconds=600, max_attempts=MAX_ATTEMPTS
            )
        is_free = self.ended is None and (self.holder is None or self.is_expired)
        assert (claim is not None) == (is_free and before.attempts_charged < MAX_ATTEMPTS)
        if claim is not None:
            assert claim.attempt == len(self.claims) + 1, "attempt numbers are never used twice"
            self.claims.append(claim)
            self.holder, self.is_expired = claim, False

    @precondition(lambda self: self.claims)
    @rule(which=claims)
    def renew(self, which: int) -> None:
        claim = self.any_claim(which)
        with self.sessions.begin() as session:
            held = jobs.renew_lease(session, claim, lease_seconds=600, progress=None, moved=True)
        assert held == (claim == self.holder)
        if held:
            self.is_expired = False

    @precondition(lambda self: self.claims)
    @rule(which=claims)
    def complete(self, which: int) -> None:
        claim = self.any_claim(which)
        with self.sessions.begin() as session:
            won = jobs.complete_job(session, claim, artifacts=[], note_count=claim.attempt, audio_seconds=1)
        assert won == (claim == self.holder)
        with self.sessions() as session:
            said = jobs.was_completed(session, claim)
        assert said == (won or claim == self.winner), "told again, the winner has won, and nobody else"
        if won:
            self.winner = claim
            self.winners += 1
            self.holder, self.ended = None, Status.SUCCEEDED

    @precondition(lambda self: self.claims)
    @rule(which=claims, may_mend=st.booleans(), is_charged=st.booleans())
    def fail(self, which: int, may_mend: bool, is_charged: bool) -> None:
        claim = self.any_claim(which)
        charged = self.job().attempts_charged
        with self.sessions.begin() as session:
            failed = jobs.fail_attempt(
                session,
                claim,
                code="c",
                detail="d",
                retry_after_seconds=-1 if may_mend else None,
                max_attempts=MAX_ATTEMPTS,
                is_charged=is_charged,
            )
        assert failed == (claim == self.holder)
        if failed:
            self.holder = None
            if not (may_mend and (charged < MAX_ATTEMPTS or not is_charged)):
                self.ended = Status.FAILED
            elif not is_charged:
                assert self.job().attempts_charged == charged - 1

    @precondition(lambda self: self.claims)
    @rule(which=claims)
    def release(self, which: int) -> None:
        claim = self.any_claim(which)
        with self.sessions.begin() as session:
            released = jobs.release_job(session, claim)
        assert released == (claim == self.holder)
        if released:
            self.holder = None

    @precondition(lambda self: self.holder)
    @rule()
    def let_the_lease_expire(self) -> None:
        with self.sessions.begin() as session:
            session.execute(update(Job).values(lease_until=now_plus(-1)))
        self.is_expired = True

    @rule()
    def reap(self) -> None:
        charged = self.job().attempts_charged
        with self.sessions.begin() as session:
            requeued, failed = jobs.reap_jobs(session, max_attempts=MAX_ATTEMPTS, stall_seconds=900)
        is_lost = self.holder is not None and self.is_expired
        assert bool(requeued) == (is_lost and charged < MAX_ATTEMPTS)
        assert bool(failed) == (is_lost and charged >= MAX_ATTEMPTS)
        if is_lost:
            self.holder = None
            self.ended = Status.FAILED if failed else None

    @rule()
    def cancel(self) -> None:
        with self.sessions.begin() as session:
            try:
                jobs.cancel_job(session, "o", self.job_id)
            except StateConflict:
                assert self.ended in (Status.SUCCEEDED, Status.FAILED)
            else:
                assert self.ended in (None, Status.CANCELED)
                self.holder, self.ended = None, Status.CANCELED

    @rule()
    def retry(self) -> None:
        with self.sessions.begin() as session:
            try:
                jobs.retry_job(session, "o", self.job_id)
            except StateConflict:
                assert self.ended in (None, Status.SUCCEEDED)
            else:
                assert self.ended in (Status.FAILED, Status.CANCELED)
                self.ended = None

    @invariant()
    def the_row_says_what_happened(self) -> None:
        if not hasattr(self, "job_id"):
            return
        job = self.job()
        expected = self.ended or (Status.PROCESSING if self.holder else Status.QUEUED)
        assert job.status is expected
        assert self.winners <= 1
        assert (job.finished_at is not None) == (self.ended is not None)
        assert (job.lease_until is not None) == (self.holder is not None)
        assert 0 <= job.attempts_charged <= MAX_ATTEMPTS
        if job.status is Status.SUCCEEDED:
            assert job.note_count == job.attempt, "the result is the last attempt's"
        with self.sessions() as session:
            running = session.scalars(select(Attempt.number).where(Attempt.outcome.is_(None))).all()
        assert running == ([self.holder.attempt] if self.holder else [])


def live(sessions: Sessions, examples: int) -> None:
    class Life(JobLife):
        def __init__(self) -> None:
            super().__init__(sessions)

    how = settings(
        max_examples=examples, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(Life, settings=how)


def test_any_interleaving_keeps_the_promises(sessions: Sessions) -> None:
    live(sessions, examples=80)


@pytest.mark.integration
def test_any_interleaving_keeps_the_promises_on_postgresql(postgres_sessions: Sessions) -> None:
    live(postgres_sessions, examples=15)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_thousand_lives_keep_the_promises(any_sessions: Sessions) -> None:
    live(any_sessions, examples=1000)
