"""Any interleaving of workers, a client and the scheduler keeps the invariants of a job and its work items.

Hypothesis plays the parts against a real database and holds each answer against a model of a few lines.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select

from shared import jobs, work
from shared.db import Sessions
from shared.errors import StateConflict
from shared.kinds import ASSEMBLE, SHARD, TRANSCRIBE, Claim, Result
from shared.tables import Attempt, Garbage, Job, Status, WorkItem, WorkStatus
from tests.work import add_job, claim, defer, expire_lease, fail, get, release, renew, rescue, split

MAX_ATTEMPTS = 3
COUNT = 3
WAYS = {
    "run_first": 3,
    "run": 6,
    "claim": 6,
    "renew": 2,
    "complete": 6,
    "split": 3,
    "fail": 2,
    "fail_uncounted": 1,
    "fail_for_good": 1,
    "release": 2,
    "defer": 1,
    "expire": 3,
    "rescue": 3,
    "retry": 3,
    "cancel": 1,
}
"""Possible events with their weights, chosen so that jobs make progress."""

ways = st.sampled_from([way for way, weight in WAYS.items() for _ in range(weight)])
which = st.integers(min_value=0, max_value=9)  # an item, or any claim so far, counted from the latest
lives = st.lists(st.tuples(ways, which), min_size=60, max_size=60)

Name = tuple[str, int]


@dataclass(frozen=True)
class Item:
    status: WorkStatus = WorkStatus.QUEUED
    attempt: int = 0
    counted: int = 0
    blocked_by: int | None = None


class Life:
    """A model of one job, compared with its rows."""

    def __init__(self, sessions: Sessions, *, in_order: bool) -> None:
        self.sessions = sessions
        self.in_order = in_order
        self.job_id = add_job(sessions)
        self.status = Status.QUEUED
        self.items: dict[Name, Item] = {(TRANSCRIBE, 0): Item()}
        self.claims: list[Claim] = []
        self.holders: dict[Name, Claim] = {}  # the attempts that may change an item
        self.expired: set[Name] = set()
        self.completed: set[tuple[Any, int]] = set()
        self.finishes = 0

    def happen(self, way: str, index: int) -> None:
        """Perform a step, then check the rows."""
        match way:
            case "run_first" if self.claim((TRANSCRIBE, 0)):
                self.split(0) if index % 3 else self.complete(0)
            case "run" if self.claim(self.some_item(index)) and self.claims[-1].kind != TRANSCRIBE:
                self.complete(0)
            case "claim":
                self.claim(self.some_item(index))
            case "rescue":
                self.rescue()
            case "retry":
                self.retry()
            case "cancel":
                self.cancel()
            case "expire":
                self.expire(index)
            case (
                "renew" | "complete" | "split" | "fail" | "fail_uncounted" | "fail_for_good" | "release" | "defer"
            ):
                if self.claims:
                    getattr(self, way)(index)
        self.look()

    def some_item(self, index: int) -> Name:
        names = list(self.items)
        return names[index % len(names)]

    def some_claim(self, index: int) -> Claim:
        return self.claims[-1 - index % len(self.claims)]

    def name(self, claim: Claim) -> Name:
        return claim.kind, claim.number

    def is_held(self, claim: Claim) -> bool:
        return self.holders.get(self.name(claim)) == claim

    def change(self, name: Name, **values: Any) -> None:
        self.items[name] = replace(self.items[name], **values)

    def leave(self, claim: Claim, **values: Any) -> None:
        """End the attempt that holds an item."""
        del self.holders[self.name(claim)]
        self.expired.discard(self.name(claim))
        self.change(self.name(claim), **values)

    # --- workers ---------------------------------------------------------------------------------------------

    def claim(self, name: Name) -> bool:
        before = self.items[name]
        claimed = claim(self.sessions, self.job_id, *name, max_attempts=MAX_ATTEMPTS)
        is_due = before.status is WorkStatus.QUEUED and before.counted < MAX_ATTEMPTS
        assert (claimed is not None) == is_due
        if claimed is not None:
            assert claimed.attempt == before.attempt + 1, "attempt numbers are never used twice"
            self.claims.append(claimed)
            self.holders[name] = claimed
            self.change(name, status=WorkStatus.PROCESSING, attempt=claimed.attempt, counted=before.counted + 1)
            self.status = Status.PROCESSING
        return claimed is not None

    def renew(self, index: int) -> None:
        claimed = self.some_claim(index)
        assert renew(self.sessions, claimed) == self.is_held(claimed)
        if self.is_held(claimed):
            self.expired.discard(self.name(claimed))

    def complete(self, index: int) -> None:
        claimed = self.some_claim(index)
        result = None if claimed.kind == SHARD else Result([], note_count=claimed.attempt, audio_seconds=1)
        with self.sessions.begin() as session:
            won = work.complete(session, claimed, result=result, result_key=f"{claimed.id}/{claimed.attempt}")
        self.settle(claimed, won)
        if won and result is not None:
            self.status = Status.SUCCEEDED
            self.finishes += 1

    def split(self, index: int) -> None:
        claimed = self.some_claim(index)
        if claimed.kind != TRANSCRIBE:
            return
        won = split(self.sessions, claimed, count=COUNT, in_order=self.in_order)
        if won:
            for number in range(COUNT):
                blocked_by = number - 1 if self.in_order and number else None
                state = WorkStatus.QUEUED if blocked_by is None else WorkStatus.BLOCKED
                self.items[SHARD, number] = Item(state, blocked_by=blocked_by)
            self.items[ASSEMBLE, COUNT] = Item(WorkStatus.BLOCKED, blocked_by=COUNT - 1)
        self.settle(claimed, won)

    def settle(self, claimed: Claim, won: bool) -> None:
        """Compare the end of an item with the model."""
        assert won == self.is_held(claimed)
        if won:
            self.leave(claimed, status=WorkStatus.SUCCEEDED)
            self.completed.add((claimed.id, claimed.attempt))
            for name, item in self.items.items():
                if item.blocked_by is not None and item.status is WorkStatus.BLOCKED:
                    before = [self.items[SHARD, number] for number in range(item.blocked_by + 1)]
                    if all(other.status is WorkStatus.SUCCEEDED for other in before):
                        self.change(name, status=WorkStatus.QUEUED)
        with self.sessions() as session:
            was_completed = work.was_completed(session, claimed)
        assert not won or was_completed
        assert was_completed <= ((claimed.id, claimed.attempt) in self.completed), "no other attempt has"

    def fail(self, index: int, *, may_mend: bool = True, is_counted: bool = True) -> None:
        claimed = self.some_claim(index)
        failed = fail(self.sessions, claimed, retry_after=-1 if may_mend else None, is_counted=is_counted)
        assert failed == self.is_held(claimed)
        if failed:
            counted = self.items[self.name(claimed)].counted
            left = counted if is_counted else counted - 1
            if may_mend and left < MAX_ATTEMPTS:
                self.leave(claimed, status=WorkStatus.QUEUED, counted=left)
                self.wait_if_nothing_is_done()
            else:
                self.leave(claimed, status=WorkStatus.FAILED)
                self.fail_job()

    def fail_uncounted(self, index: int) -> None:
        self.fail(index, is_counted=False)

    def fail_for_good(self, index: int) -> None:
        self.fail(index, may_mend=False)

    def fail_job(self) -> None:
        self.status = Status.FAILED
        self.holders, self.expired = {}, set()
        for name, item in self.items.items():
            if item.status in (WorkStatus.QUEUED, WorkStatus.PROCESSING):
                self.change(name, status=WorkStatus.CANCELED)

    def wait_if_nothing_is_done(self) -> None:
        if not any(item.status is WorkStatus.SUCCEEDED for item in self.items.values()):
            self.status = Status.QUEUED

    def release(self, index: int) -> None:
        self.put_back(index, release)

    def defer(self, index: int) -> None:
        if self.some_claim(index).kind == TRANSCRIBE:
            self.put_back(index, defer)

    def put_back(self, index: int, how: Any) -> None:
        claimed = self.some_claim(index)
        is_held = self.is_held(claimed)
        assert how(self.sessions, claimed) == is_held
        if is_held:
            counted = self.items[self.name(claimed)].counted
            self.leave(claimed, status=WorkStatus.QUEUED, counted=counted - 1)
            self.wait_if_nothing_is_done()

    def expire(self, index: int) -> None:
        if not self.holders:
            return
        name = list(self.holders)[index % len(self.holders)]
        expire_lease(self.sessions, self.holders[name])
        self.expired.add(name)

    # --- scheduler and client --------------------------------------------------------------------------------

    def rescue(self) -> None:
        exhausted = {name for name in self.expired if self.items[name].counted >= MAX_ATTEMPTS}
        requeued, failed = rescue(self.sessions, max_attempts=MAX_ATTEMPTS)
        if exhausted:
            assert failed, "the first of them fails the job"
            assert set(failed) <= exhausted
            for name in requeued:
                self.leave(self.holders[name], status=WorkStatus.QUEUED)
            for name in failed:
                self.leave(self.holders[name], status=WorkStatus.FAILED)
            self.fail_job()
        else:
            assert (set(requeued), failed) == (self.expired, [])
            for name in requeued:
                self.leave(self.holders[name], status=WorkStatus.QUEUED)
            if requeued:
                self.wait_if_nothing_is_done()

    def cancel(self) -> None:
        with self.sessions.begin() as session:
            try:
                jobs.cancel_job(session, "public", self.job_id)
            except StateConflict:
                assert self.status in (Status.SUCCEEDED, Status.FAILED)
                return
        if self.status is not Status.CANCELED:
            assert self.status in (Status.QUEUED, Status.PROCESSING)
            latest = max(item.attempt for item in self.items.values())
            first = replace(self.items[TRANSCRIBE, 0], status=WorkStatus.CANCELED, attempt=latest)
            self.items = {(TRANSCRIBE, 0): first}
            self.holders, self.expired, self.status = {}, set(), Status.CANCELED

    def retry(self) -> None:
        with self.sessions.begin() as session:
            try:
                jobs.retry_job(session, "public", self.job_id)
            except StateConflict:
                assert self.status not in (Status.FAILED, Status.CANCELED)
                return
        assert self.status in (Status.FAILED, Status.CANCELED)
        self.status = Status.QUEUED
        for name, item in self.items.items():
            if item.status in (WorkStatus.FAILED, WorkStatus.CANCELED):
                self.change(name, status=WorkStatus.QUEUED, counted=0)

    # --- what always holds -----------------------------------------------------------------------------------

    def look(self) -> None:
        job = get(self.sessions, self.job_id)
        assert job.status is self.status
        assert self.finishes <= 1
        assert (job.finished_at is not None) == job.status.is_final
        with self.sessions() as session:
            rows = session.scalars(select(WorkItem)).all()
            open_attempts = session.execute(
                select(Attempt.item_id, Attempt.number).where(Attempt.outcome.is_(None))
            )
            assert {(item_id, number) for item_id, number in open_attempts} == {
                (held.id, held.attempt) for held in self.holders.values()
            }
        found = {(row.kind, row.number): row for row in rows}
        assert found.keys() == self.items.keys()
        for name, item in self.items.items():
            row = found[name]
            assert (row.status, row.attempt, row.attempts_counted) == (item.status, item.attempt, item.counted)
            assert (row.lease_until is not None) == (name in self.holders)
            assert 0 <= row.attempts_counted <= MAX_ATTEMPTS
        if not job.status.is_final:
            assert any(
                item.status in (WorkStatus.QUEUED, WorkStatus.PROCESSING) for item in self.items.values()
            ), "what is left to do can be claimed, or is held"
        if job.status is Status.SUCCEEDED:
            assert all(item.status is WorkStatus.SUCCEEDED for item in self.items.values())
            last = found.get((ASSEMBLE, COUNT), found[TRANSCRIBE, 0])
            assert job.note_count == last.attempt, "the result is the last attempt's"


def live(sessions: Sessions, examples: int) -> None:
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(life=lives, in_order=st.booleans())
    def one(life: list[tuple[str, int]], in_order: bool) -> None:
        seen = Life(sessions, in_order=in_order)
        try:
            for way, index in life:
                seen.happen(way, index)
        finally:
            with sessions.begin() as session:
                session.execute(delete(Job))
                session.execute(delete(Garbage))

    one()


def test_any_interleaving_keeps_the_invariants(sessions: Sessions) -> None:
    live(sessions, examples=50)


@pytest.mark.integration
def test_any_interleaving_keeps_the_invariants_on_postgresql(postgres_sessions: Sessions) -> None:
    live(postgres_sessions, examples=15)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_thousand_runs_keep_the_invariants(any_sessions: Sessions) -> None:
    live(any_sessions, examples=1000)
