"""Shards of a long recording, on both databases: taken once, assembled once, redone only where they were lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, update

from shared import jobs, shards
from shared.db import Sessions, now_plus
from shared.jobs import Claim
from shared.shards import Completed, NewShard, ShardClaim
from shared.tables import Attempt, Garbage, Job, Shard, Status
from tests.unit.shared.test_jobs import MAX_ATTEMPTS, add_job, claim, expire_lease, get, must_claim, reap

KEY = "shards/somewhere/results"


def plan(sessions: Sessions, claimed: Claim, *, count: int = 3, in_order: bool = False) -> bool:
    cut = [NewShard(4 * n, 4 * n + 4, 8.0, f"shards/{claimed.job_id}/1/{n}/audio") for n in range(count)]
    with sessions.begin() as session:
        return shards.plan_job(session, claimed, cut, samples=count * 8000, seconds=count * 8.0, in_order=in_order)


def planned(sessions: Sessions, **how: Any) -> UUID:
    job_id = add_job(sessions)
    assert plan(sessions, must_claim(sessions, job_id), **how)
    return job_id


def take(sessions: Sessions, job_id: UUID, number: int, *, worker: str = "a") -> ShardClaim | None:
    with sessions.begin() as session:
        return shards.claim_shard(
            session, job_id, number, worker=worker, lease_seconds=60, max_attempts=MAX_ATTEMPTS
        )


def must_take(sessions: Sessions, job_id: UUID, number: int, **how: Any) -> ShardClaim:
    taken = take(sessions, job_id, number, **how)
    assert taken is not None
    return taken


def complete(sessions: Sessions, taken: ShardClaim) -> Completed:
    with sessions.begin() as session:
        return shards.complete_shard(session, taken, result_key=KEY, worker="a", lease_seconds=60)


def fail(sessions: Sessions, taken: ShardClaim, *, retry_after: float | None) -> bool:
    with sessions.begin() as session:
        return shards.fail_shard(
            session,
            taken,
            code="broken",
            detail="It broke.",
            retry_after_seconds=retry_after,
            max_attempts=MAX_ATTEMPTS,
        )


def renew(sessions: Sessions, taken: ShardClaim, *, seconds_done: float = 1.0) -> bool:
    with sessions.begin() as session:
        return shards.renew_shard(session, taken, lease_seconds=60, seconds_done=seconds_done, moved=True)


def release(sessions: Sessions, taken: ShardClaim) -> bool:
    with sessions.begin() as session:
        return shards.release_shard(session, taken)


def expire(sessions: Sessions, number: int) -> None:
    with sessions.begin() as session:
        session.execute(update(Shard).where(Shard.number == number).values(lease_until=now_plus(-1)))


def reap_shards(sessions: Sessions, *, stall_seconds: float = 900) -> tuple[list[tuple[UUID, int]], list[UUID]]:
    with sessions.begin() as session:
        return shards.reap_shards(session, max_attempts=MAX_ATTEMPTS, stall_seconds=stall_seconds)


def states(sessions: Sessions) -> list[tuple[str, int]]:
    with sessions() as session:
        rows = session.execute(select(Shard.status, Shard.attempt).order_by(Shard.number))
        return [(status.value, attempt) for status, attempt in rows]


def test_a_planned_job_is_held_by_nobody_and_missed_by_nobody(any_sessions: Sessions) -> None:
    job_id = add_job(any_sessions)
    claimed = must_claim(any_sessions, job_id)
    assert plan(any_sessions, claimed)
    job = get(any_sessions, job_id)
    assert (job.status, job.lease_until, job.worker) == (Status.PROCESSING, None, None)
    assert (job.attempts_charged, job.audio_seconds_total) == (0, 24.0)
    assert reap(any_sessions, stall_seconds=-60) == ([], [])
    assert claim(any_sessions, job_id) is None
    with any_sessions.begin() as session:
        assert not jobs.renew_lease(session, claimed, lease_seconds=60, progress=None, moved=True)
        assert not jobs.complete_job(session, claimed, artifacts=[], note_count=0, audio_seconds=1)
        assert not jobs.release_job(session, claimed)
    assert not plan(any_sessions, claimed), "once"


def test_a_stale_attempt_plans_nothing(any_sessions: Sessions) -> None:
    job_id = add_job(any_sessions)
    stale = must_claim(any_sessions, job_id)
    expire_lease(any_sessions, job_id)
    must_claim(any_sessions, job_id, worker="b")
    assert not plan(any_sessions, stale)
    assert states(any_sessions) == []


def test_who_completes_the_last_shard_assembles(any_sessions: Sessions) -> None:
    job_id = planned(any_sessions)
    taken = [must_take(any_sessions, job_id, number) for number in range(3)]
    assert [(t.first, t.stop, t.attempt, t.plan) for t in taken] == [(0, 4, 1, 1), (4, 8, 1, 1), (8, 12, 1, 1)]
    assert complete(any_sessions, taken[2]) == Completed(won=True)
    assert complete(any_sessions, taken[0]) == Completed(won=True)
    assert complete(any_sessions, taken[0]) == Completed(won=False)
    with any_sessions() as session:
        assert shards.was_completed(session, taken[0], result_key=KEY)
        assert not shards.was_completed(session, taken[1], result_key=KEY)
    last = complete(any_sessions, taken[1])
    assert last.assembly is not None
    assert last.assembly.plan == jobs.Plan(1, 24000, 24.0, 3, 3)
    assert last.assembly.attempt == 2
    with any_sessions() as session:
        assert shards.result_keys(session, job_id) == [KEY] * 3
    with any_sessions.begin() as session:
        assert jobs.complete_job(session, last.assembly, artifacts=[], note_count=1, audio_seconds=24)
        outcomes = session.scalars(select(Attempt.outcome).order_by(Attempt.number)).all()
        assert session.scalars(select(Garbage.prefix)).all() == [f"shards/{job_id}/"]
    job = get(any_sessions, job_id)
    assert (job.status, job.attempt - job.continuations) == (Status.SUCCEEDED, 1)
    assert outcomes == ["handed_over", "succeeded"]


def test_two_workers_that_finish_at_the_same_moment_assemble_once(any_sessions: Sessions) -> None:
    for _ in range(10):
        job_id = planned(any_sessions, count=2)
        taken = [must_take(any_sessions, job_id, number) for number in range(2)]
        start = threading.Barrier(2)
        ended: list[Completed] = []

        def finish(shard: ShardClaim, start: threading.Barrier = start, ended: list[Completed] = ended) -> None:
            start.wait()
            ended.append(complete(any_sessions, shard))

        threads = [threading.Thread(target=finish, args=(shard,)) for shard in taken]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [end.won for end in ended] == [True, True]
        assert sum(end.assembly is not None for end in ended) == 1


def test_one_of_many_workers_gets_a_shard(any_sessions: Sessions) -> None:
    job_id, got = planned(any_sessions, count=1), []
    threads = [threading.Thread(target=lambda: got.append(take(any_sessions, job_id, 0))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(claimed is not None for claimed in got) == 1
    assert states(any_sessions) == [("processing", 1)]


def test_a_lost_shard_is_done_again_and_its_late_worker_is_refused(any_sessions: Sessions) -> None:
    job_id = planned(any_sessions)
    late, other = must_take(any_sessions, job_id, 0), must_take(any_sessions, job_id, 1)
    assert reap_shards(any_sessions) == ([], []), "live leases are left alone"
    expire(any_sessions, 0)
    assert reap_shards(any_sessions) == ([(job_id, 0)], [])
    again = must_take(any_sessions, job_id, 0, worker="b")
    assert again.attempt == 2
    assert not renew(any_sessions, late)
    assert not complete(any_sessions, late).won
    assert not fail(any_sessions, late, retry_after=None)
    assert not release(any_sessions, late)
    assert complete(any_sessions, again).won
    assert complete(any_sessions, other).won
    assert states(any_sessions) == [("succeeded", 2), ("succeeded", 1), ("queued", 0)]


def test_a_shard_that_hangs_is_taken_from_its_worker(any_sessions: Sessions) -> None:
    job_id = planned(any_sessions)
    must_take(any_sessions, job_id, 0)
    with any_sessions.begin() as session:
        session.execute(update(Shard).where(Shard.number == 0).values(progress_at=now_plus(-100)))
    assert reap_shards(any_sessions, stall_seconds=200) == ([], [])
    assert reap_shards(any_sessions, stall_seconds=50) == ([(job_id, 0)], [])


def test_a_shard_that_kills_its_workers_fails_the_job_and_stops_the_others(any_sessions: Sessions) -> None:
    job_id = planned(any_sessions)
    other = must_take(any_sessions, job_id, 1)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        must_take(any_sessions, job_id, 0)
        expire(any_sessions, 0)
        expected = ([(job_id, 0)], []) if attempt < MAX_ATTEMPTS else ([], [job_id])
        assert reap_shards(any_sessions) == expected
    job = get(any_sessions, job_id)
    assert (job.status, job.error_code) == (Status.FAILED, "worker_lost")
    assert not renew(any_sessions, other)
    assert not complete(any_sessions, other).won
    assert take(any_sessions, job_id, 2) is None


def test_a_failure_that_may_mend_is_tried_again_later(any_sessions: Sessions) -> None:
    job_id = planned(any_sessions)
    assert fail(any_sessions, must_take(any_sessions, job_id, 0), retry_after=3600)
    assert take(any_sessions, job_id, 0) is None, "not before its time"
    with any_sessions.begin() as session:
        session.execute(update(Shard).values(run_after=now_plus(-1)))
    assert fail(any_sessions, must_take(any_sessions, job_id, 0), retry_after=-1)
    assert fail(any_sessions, must_take(any_sessions, job_id, 0), retry_after=-1)
    job = get(any_sessions, job_id)
    assert (job.status, job.error_code, job.error_detail) == (Status.FAILED, "broken", "It broke.")


def test_retry_keeps_what_is_finished_and_the_next_attempt_hands_over_again(any_sessions: Sessions) -> None:
    job_id = planned(any_sessions)
    complete(any_sessions, must_take(any_sessions, job_id, 0))
    running = must_take(any_sessions, job_id, 1)
    assert fail(any_sessions, must_take(any_sessions, job_id, 2), retry_after=None)
    assert states(any_sessions) == [("succeeded", 1), ("queued", 1), ("failed", 1)]
    with any_sessions.begin() as session:
        jobs.retry_job(session, "public", job_id)
    assert not complete(any_sessions, running).won
    claimed = must_claim(any_sessions, job_id)
    assert claimed.plan == jobs.Plan(1, 24000, 24.0, 3, 1)
    with any_sessions.begin() as session:
        assert shards.hand_over(session, claimed)
        assert not shards.hand_over(session, claimed)
    assert complete(any_sessions, must_take(any_sessions, job_id, 1)).won
    assert complete(any_sessions, must_take(any_sessions, job_id, 2)).assembly is not None
    assert states(any_sessions) == [("succeeded", 1), ("succeeded", 2), ("succeeded", 2)]


def test_an_assembly_whose_worker_dies_is_taken_up_with_all_results(any_sessions: Sessions) -> None:
    job_id = planned(any_sessions, count=1)
    first = complete(any_sessions, must_take(any_sessions, job_id, 0)).assembly
    assert first is not None
    expire_lease(any_sessions, job_id)
    assert reap(any_sessions) == ([job_id], [])
    second = must_claim(any_sessions, job_id)
    assert second.plan is not None
    assert second.plan.is_done
    with any_sessions.begin() as session:
        assert not shards.hand_over(session, second), "there is nothing left to run"
        assert not jobs.complete_job(session, first, artifacts=[], note_count=1, audio_seconds=8)
        assert jobs.complete_job(session, second, artifacts=[], note_count=1, audio_seconds=8)


def test_cancel_ends_the_shards_and_the_next_plan_is_another(any_sessions: Sessions) -> None:
    job_id = planned(any_sessions)
    taken = must_take(any_sessions, job_id, 0)
    with any_sessions.begin() as session:
        jobs.cancel_job(session, "public", job_id)
        assert session.scalars(select(Garbage.prefix)).all() == [f"shards/{job_id}/1/"]
    assert states(any_sessions) == []
    assert not renew(any_sessions, taken)
    with any_sessions.begin() as session:
        jobs.retry_job(session, "public", job_id)
    claimed = must_claim(any_sessions, job_id)
    assert (claimed.plan, claimed.attempt) == (None, 2)
    assert plan(any_sessions, claimed)
    again = must_take(any_sessions, job_id, 0)
    assert (again.plan, again.attempt) == (2, taken.attempt)
    assert not renew(any_sessions, taken), "the same shard and attempt, of another plan"
    assert not complete(any_sessions, taken).won
    assert not fail(any_sessions, taken, retry_after=None)
    assert not release(any_sessions, taken)
    with any_sessions.begin() as session:
        jobs.cancel_job(session, "public", job_id)  # its garbage of before is still there


def test_delete_removes_the_shards(any_sessions: Sessions) -> None:
    job_id = planned(any_sessions)
    taken = must_take(any_sessions, job_id, 0)
    with any_sessions.begin() as session:
        jobs.delete_job(session, "public", job_id)
        assert f"shards/{job_id}/" in session.scalars(select(Garbage.prefix)).all()
    assert states(any_sessions) == []
    assert not renew(any_sessions, taken)
    assert not complete(any_sessions, taken).won


def test_a_shard_handed_back_is_not_charged(any_sessions: Sessions) -> None:
    job_id = planned(any_sessions)
    for _ in range(MAX_ATTEMPTS + 2):
        assert release(any_sessions, must_take(any_sessions, job_id, 0))
    assert must_take(any_sessions, job_id, 0).attempt == MAX_ATTEMPTS + 3


def test_where_segments_need_the_one_before_shards_run_in_order(any_sessions: Sessions) -> None:
    job_id = planned(any_sessions, in_order=True)
    assert take(any_sessions, job_id, 1) is None
    first = must_take(any_sessions, job_id, 0)
    assert first.before_key is None
    assert take(any_sessions, job_id, 1) is None
    assert complete(any_sessions, first).won
    assert take(any_sessions, job_id, 2) is None
    second = must_take(any_sessions, job_id, 1)
    assert second.before_key == KEY
    assert fail(any_sessions, second, retry_after=None)
    with any_sessions.begin() as session:
        jobs.retry_job(session, "public", job_id)
    assert states(any_sessions) == [("succeeded", 1), ("queued", 1), ("waiting", 0)]


def test_what_is_due_is_counted_only_while_its_job_runs(any_sessions: Sessions) -> None:
    job_id = planned(any_sessions)

    def due() -> int:
        with any_sessions() as session:
            return shards.count_waiting(session)

    assert due() == 3
    must_take(any_sessions, job_id, 1)
    assert due() == 2
    fail(any_sessions, must_take(any_sessions, job_id, 0), retry_after=None)
    assert due() == 0


def test_progress_is_the_sum_over_the_shards(any_sessions: Sessions) -> None:
    job_id = planned(any_sessions)
    complete(any_sessions, must_take(any_sessions, job_id, 0))
    running = must_take(any_sessions, job_id, 1)
    assert renew(any_sessions, running, seconds_done=4.0)
    with any_sessions.begin() as session:
        began, ended = datetime(2030, 1, 1, 0, 0, 0, tzinfo=UTC), datetime(2030, 1, 1, 0, 0, 4, tzinfo=UTC)
        session.execute(update(Shard).where(Shard.number == 0).values(started_at=began, finished_at=ended))
        session.execute(update(Shard).where(Shard.number == 1).values(started_at=ended))
    with any_sessions() as session:
        job = jobs.get_job(session, "public", job_id)
        now = datetime(2030, 1, 1, 0, 0, 6, tzinfo=UTC)
        progress = shards.progress_of(session, [job], now)[job_id]
    assert (progress.done, progress.total, progress.seconds_done, progress.attempts) == (1, 3, 12.0, 1)
    assert progress.eta_seconds == 6.0, "12 s in 6 s, and 12 s to go"


@pytest.mark.parametrize("end", [jobs.cancel_job, jobs.delete_job])
def test_a_client_that_ends_the_job_while_its_last_shard_ends_never_meets_a_deadlock(
    any_sessions: Sessions, end: Callable[..., object]
) -> None:
    for _ in range(10):
        job_id = planned(any_sessions, count=2)
        complete(any_sessions, must_take(any_sessions, job_id, 0))
        last, start = must_take(any_sessions, job_id, 1), threading.Barrier(2)
        problems: list[Exception] = []

        def client(job_id: UUID = job_id, start: threading.Barrier = start) -> None:
            start.wait()
            with any_sessions.begin() as session:
                end(session, "public", job_id)

        def worker(last: ShardClaim = last, start: threading.Barrier = start) -> None:
            start.wait()
            complete(any_sessions, last)

        def guarded(do: Callable[[], None], problems: list[Exception] = problems) -> None:
            try:
                do()
            except Exception as error:
                problems.append(error)

        threads = [threading.Thread(target=guarded, args=(do,)) for do in (client, worker)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert problems == []
        with any_sessions() as session:
            statuses = session.scalars(select(Job.status).where(Job.id == job_id)).all()
            assert statuses in ([], [Status.CANCELED])
            assert session.scalars(select(Shard).where(Shard.job_id == job_id)).all() == []
