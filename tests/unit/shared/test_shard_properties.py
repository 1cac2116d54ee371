"""Any interleaving of workers, a client and the scheduler keeps the promises of a job that is cut into shards.

As `test_job_properties`, with the shards' statements beside the job's, and on both databases.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select, update

from shared import jobs, shards
from shared.db import Sessions, now_plus
from shared.errors import StateConflict
from shared.jobs import Claim
from shared.shards import NewShard, ShardClaim
from shared.tables import Garbage, Job, Shard, ShardStatus, Status
from tests.unit.shared.test_jobs import add_job, get

MAX_ATTEMPTS = 2
COUNT = 3
WAYS = {
    "start": 4,
    "claim": 1,
    "let_go": 1,
    "complete": 3,
    "release": 1,
    "hold_back": 1,
    "expire": 1,
    "run_shard": 8,
    "claim_shard": 4,
    "expire_shard": 3,
    "renew_shard": 2,
    "complete_shard": 4,
    "fail_shard": 2,
    "fail_shard_for_good": 1,
    "release_shard": 2,
    "reap": 3,
    "retry": 2,
    "cancel": 1,
}
"""What may happen, and how often beside the others, so that lives get somewhere."""

ways = st.sampled_from([way for way, weight in WAYS.items() for _ in range(weight)])
which = st.integers(min_value=0, max_value=5)  # a shard; or a claim ever made, counted from the latest
lives = st.lists(st.tuples(ways, which), min_size=60, max_size=60)


class ShardedLife:
    """One job that is cut into three, seen from all sides."""

    def __init__(self, sessions: Sessions, *, in_order: bool) -> None:
        self.sessions = sessions
        self.in_order = in_order
        self.job_id = add_job(sessions)
        self.claims: list[Claim] = []
        self.holder: Claim | None = None  # who may change the job, if anybody
        self.is_expired = False
        self.ended: Status | None = None
        self.winners = 0
        self.plan: int | None = None
        self.taken: list[ShardClaim] = []
        self.holders: dict[int, ShardClaim] = {}  # who may change a shard
        self.expired: set[int] = set()
        self.done: dict[int, str] = {}  # finished shards and where their results lie
        self.assemblies = 0
        self.times_held_back = 0

    def happen(self, way: str, index: int) -> None:
        """One step, then a look at the rows."""
        number = index % COUNT
        match way:
            case "start":
                if self.ended is None and self.holder is None and self.claim_job():
                    self.let_go(0)
            case "claim":
                self.claim_job()
            case "let_go" if self.claims:
                self.let_go(index)
            case "complete" if self.claims:
                self.complete_job(index)
            case "release" if self.holder:
                self.release_job()
            case "hold_back" if self.claims:
                self.hold_back(index)
            case "expire" if self.holder:
                self.let_the_lease_expire()
            case "run_shard" if self.claim_shard(number):
                self.complete_shard(0)
            case "claim_shard":
                self.claim_shard(number)
            case "expire_shard" if number in self.holders:
                self.let_a_shards_lease_expire(number)
            case "renew_shard" if self.taken:
                self.renew_shard(index)
            case "complete_shard" if self.taken:
                self.complete_shard(index)
            case "fail_shard" | "fail_shard_for_good" if self.taken:
                self.fail_shard(index, cannot_mend=way == "fail_shard_for_good")
            case "release_shard" if self.taken:
                self.release_shard(index)
            case "reap":
                self.reap()
                self.reap_shards()
            case "retry":
                self.retry()
            case "cancel":
                self.cancel()
        self.look()

    @property
    def runs_in_shards(self) -> bool:
        return self.plan is not None and self.holder is None and self.job().status is Status.PROCESSING

    def job(self) -> Job:
        return get(self.sessions, self.job_id)

    def shard(self, number: int) -> Shard | None:
        with self.sessions() as session:
            return session.get(Shard, (self.job_id, number))

    def some_claim(self, index: int) -> Claim:
        return self.claims[-1 - index % len(self.claims)]

    def some_shard(self, index: int) -> ShardClaim:
        return self.taken[-1 - index % len(self.taken)]

    def may_change(self, claim: ShardClaim) -> bool:
        return self.runs_in_shards and self.holders.get(claim.number) == claim

    # --- the job -------------------------------------------------------------------------------------------

    def claim_job(self) -> bool:
        before = self.job()
        with self.sessions.begin() as session:
            claim = jobs.claim_job(session, self.job_id, worker="a", lease_seconds=600, max_attempts=MAX_ATTEMPTS)
        is_free = before.status is Status.QUEUED or (self.holder is not None and self.is_expired)
        assert (claim is not None) == (is_free and before.attempts_charged < MAX_ATTEMPTS)
        if claim is not None:
            self.accept(claim)
        return claim is not None

    def accept(self, claim: Claim) -> None:
        assert claim.attempt == len(self.claims) + 1, "attempt numbers are never used twice"
        assert (claim.plan.attempt if claim.plan else None) == self.plan
        assert claim.plan is None or claim.plan.shards_done == len(self.done)
        self.claims.append(claim)
        self.holder, self.is_expired = claim, False

    def let_go(self, index: int) -> None:
        """As the worker does: plan what is in one piece, hand over what has shards left."""
        claim = self.some_claim(index)
        with self.sessions.begin() as session:
            if claim.plan is None:
                cut = [NewShard(n, n + 1, 1.0, "audio") for n in range(COUNT)]
                handed = shards.plan_job(session, claim, cut, samples=3, seconds=3, in_order=self.in_order)
            else:
                handed = shards.hand_over(session, claim)
        is_done = claim.plan is not None and claim.plan.is_done
        assert handed == (claim == self.holder and not is_done)
        if handed:
            self.plan, self.holder = self.plan or claim.attempt, None

    def complete_job(self, index: int) -> None:
        """As the worker does: only an attempt that has all results."""
        claim = self.some_claim(index)
        if claim.plan is None or not claim.plan.is_done:
            return
        with self.sessions.begin() as session:
            won = jobs.complete_job(session, claim, artifacts=[], note_count=claim.attempt, audio_seconds=1)
        assert won == (claim == self.holder)
        if won:
            self.winners += 1
            self.holder, self.ended = None, Status.SUCCEEDED

    def release_job(self) -> None:
        assert self.holder is not None
        with self.sessions.begin() as session:
            assert jobs.release_job(session, self.holder)
        self.holder = None

    def hold_back(self, index: int) -> None:
        """As the worker does: only what is not cut yet."""
        claim = self.some_claim(index)
        if claim.plan is not None:
            return
        with self.sessions.begin() as session:
            held_back = jobs.hold_back(session, claim)
        assert held_back == (claim == self.holder)
        if held_back:
            self.holder = None
            self.times_held_back += 1

    def let_the_lease_expire(self) -> None:
        with self.sessions.begin() as session:
            session.execute(update(Job).values(lease_until=now_plus(-1)))
        self.is_expired = True

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

    def cancel(self) -> None:
        with self.sessions.begin() as session:
            try:
                jobs.cancel_job(session, "public", self.job_id)
            except StateConflict:
                assert self.ended in (Status.SUCCEEDED, Status.FAILED)
            else:
                assert self.ended in (None, Status.CANCELED)
                self.holder, self.ended, self.plan = None, Status.CANCELED, None
                self.forget_shards()

    def forget_shards(self) -> None:
        self.holders, self.expired, self.done = {}, set(), {}

    def retry(self) -> None:
        with self.sessions.begin() as session:
            try:
                jobs.retry_job(session, "public", self.job_id)
            except StateConflict:
                assert self.ended in (None, Status.SUCCEEDED)
            else:
                assert self.ended in (Status.FAILED, Status.CANCELED)
                self.ended = None

    # --- its shards ----------------------------------------------------------------------------------------

    def claim_shard(self, number: int) -> bool:
        before = self.shard(number)
        is_due = self.runs_in_shards and number not in self.done and number not in self.holders
        is_due = is_due and (not self.in_order or all(n in self.done for n in range(number)))
        is_due = is_due and before is not None and before.attempts_charged < MAX_ATTEMPTS
        with self.sessions.begin() as session:
            claim = shards.claim_shard(
                session, self.job_id, number, worker="a", lease_seconds=600, max_attempts=MAX_ATTEMPTS
            )
        assert (claim is not None) == is_due
        if claim is not None:
            same = [c for c in self.taken if (c.plan, c.number) == (claim.plan, number)]
            assert claim.attempt == len(same) + 1, "attempt numbers are never used twice"
            assert claim.before_key == self.done.get(number - 1)
            self.taken.append(claim)
            self.holders[number] = claim
        return claim is not None

    def renew_shard(self, index: int) -> None:
        claim = self.some_shard(index)
        with self.sessions.begin() as session:
            held = shards.renew_shard(session, claim, lease_seconds=600, seconds_done=0.5, moved=True)
        assert held == self.may_change(claim)
        if held:
            self.expired.discard(claim.number)

    def complete_shard(self, index: int) -> None:
        claim = self.some_shard(index)
        may_win = self.may_change(claim)
        key = f"{claim.plan}/{claim.number}/{claim.attempt}"
        with self.sessions.begin() as session:
            ended = shards.complete_shard(session, claim, result_key=key, worker="a", lease_seconds=600)
        assert ended.won == may_win
        if may_win:
            self.leave(claim)
            self.done[claim.number] = key
        assert (ended.assembly is not None) == (may_win and len(self.done) == COUNT)
        if ended.assembly is not None:
            self.assemblies += 1
            self.accept(ended.assembly)

    def leave(self, claim: ShardClaim) -> None:
        del self.holders[claim.number]
        self.expired.discard(claim.number)

    def fail_shard(self, index: int, cannot_mend: bool) -> None:
        claim = self.some_shard(index)
        may_win, before = self.may_change(claim), self.shard(claim.number)
        with self.sessions.begin() as session:
            failed = shards.fail_shard(
                session,
                claim,
                code="c",
                detail="d",
                retry_after_seconds=None if cannot_mend else -1,
                max_attempts=MAX_ATTEMPTS,
            )
        assert failed == may_win
        if failed:
            assert before is not None
            self.leave(claim)
            if cannot_mend or before.attempts_charged >= MAX_ATTEMPTS:
                self.ended, self.holders, self.expired = Status.FAILED, {}, set()

    def release_shard(self, index: int) -> None:
        claim = self.some_shard(index)
        may_win = self.may_change(claim)
        with self.sessions.begin() as session:
            assert shards.release_shard(session, claim) == may_win
        if may_win:
            self.leave(claim)

    def let_a_shards_lease_expire(self, number: int) -> None:
        with self.sessions.begin() as session:
            session.execute(update(Shard).where(Shard.number == number).values(lease_until=now_plus(-1)))
        self.expired.add(number)

    def reap_shards(self) -> None:
        with self.sessions() as session:
            used_up = select(Shard.number).where(Shard.attempts_charged >= MAX_ATTEMPTS)
            poisoned = self.expired & set(session.scalars(used_up))
        with self.sessions.begin() as session:
            requeued, failed = shards.reap_shards(session, max_attempts=MAX_ATTEMPTS, stall_seconds=900)
        assert failed == ([self.job_id] if poisoned else [])
        if poisoned:
            assert self.ended is None
            self.ended, self.holders, self.expired = Status.FAILED, {}, set()
        else:
            assert {number for _, number in requeued} == self.expired
            for number in list(self.expired):
                self.leave(self.holders[number])

    # --- what always holds ---------------------------------------------------------------------------------

    def look(self) -> None:
        job = self.job()
        if self.ended:
            assert job.status is self.ended
        assert self.winners <= 1
        assert (job.finished_at is not None) == (self.ended is not None)
        assert (job.lease_until is not None) == (self.holder is not None)
        assert 0 <= job.attempts_charged <= MAX_ATTEMPTS
        assert (job.planned_by, job.shards_done) == (self.plan, len(self.done) if self.plan else None)
        assert job.continuations == self.assemblies + self.times_held_back
        with self.sessions() as session:
            rows = session.scalars(select(Shard).order_by(Shard.number)).all()
        assert len(rows) == (COUNT if self.plan else 0)
        assert {r.number: r.result_key for r in rows if r.status is ShardStatus.SUCCEEDED} == self.done
        running = {r.number: r.attempt for r in rows if r.status is ShardStatus.PROCESSING}
        assert running == {n: claim.attempt for n, claim in self.holders.items()}
        assert all(0 <= r.attempts_charged <= MAX_ATTEMPTS for r in rows)
        if job.status is Status.SUCCEEDED:
            assert len(self.done) == COUNT
            assert job.note_count == job.attempt, "the result is the last attempt's"


@pytest.mark.parametrize(
    ("database", "examples"),
    [("sessions", 15), pytest.param("postgres_sessions", 8, marks=pytest.mark.integration)],
)
def test_any_interleaving_keeps_the_promises(database: str, examples: int, request: pytest.FixtureRequest) -> None:
    sessions: Any = request.getfixturevalue(database)

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(life=lives, in_order=st.booleans())
    def live(life: list[tuple[str, int]], in_order: bool) -> None:
        seen = ShardedLife(sessions, in_order=in_order)
        try:
            for way, index in life:
                seen.happen(way, index)
        finally:
            with sessions.begin() as session:
                session.execute(delete(Job))
                session.execute(delete(Garbage))

    live()
