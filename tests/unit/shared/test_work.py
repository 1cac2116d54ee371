"""The state machine of work items, on both databases: every transition, and none after the end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, update

from shared import jobs, work
from shared.db import Sessions, now_plus
from shared.kinds import ASSEMBLE, KINDS, SHARD, TRANSCRIBE, Claim, NewItem, Progress, Result
from shared.progress import shards_progress
from shared.tables import Garbage, Job, Phase, Status, WorkItem, WorkStatus
from tests.work import (
    KEY,
    MAX_ATTEMPTS,
    add_job,
    add_split_job,
    change_items,
    claim,
    complete,
    defer,
    expire_lease,
    fail,
    get,
    item,
    must_claim,
    outcomes,
    release,
    renew,
    rescue,
    split,
    states,
)


def test_a_new_job_is_queued_and_its_times_are_utc(any_sessions: Sessions) -> None:
    job = get(any_sessions, add_job(any_sessions))
    assert job.status is Status.QUEUED
    assert abs(datetime.now(UTC) - job.created_at) < timedelta(seconds=5)
    assert item(any_sessions, job.id).status is WorkStatus.QUEUED


def test_job_that_succeeds(any_sessions: Sessions) -> None:
    job_id = add_job(any_sessions)
    claimed = must_claim(any_sessions, job_id)
    assert (claimed.attempt, claimed.kind, claimed.model) == (1, TRANSCRIBE, "basic_pitch")
    assert get(any_sessions, job_id).status is Status.PROCESSING
    assert renew(any_sessions, claimed, Progress(Phase.TRANSCRIBING, 0.5, 1.5))
    halfway = get(any_sessions, job_id)
    assert (halfway.phase, halfway.audio_seconds_done) == (Phase.TRANSCRIBING, 0.5)
    assert complete(any_sessions, claimed)
    done = get(any_sessions, job_id)
    assert (done.status, done.phase, done.note_count, done.attempts) == (Status.SUCCEEDED, None, 3, 1)
    assert done.finished_at is not None
    assert item(any_sessions, job_id).lease_until is None
    assert outcomes(any_sessions, job_id) == ["succeeded"]


def test_second_claim_of_a_running_item_is_refused(any_sessions: Sessions) -> None:
    job_id = add_job(any_sessions)
    must_claim(any_sessions, job_id, worker="a")
    assert claim(any_sessions, job_id, worker="b") is None
    assert item(any_sessions, job_id).worker == "a"


def test_an_item_that_has_ended_is_not_claimed(any_sessions: Sessions) -> None:
    job_id = add_job(any_sessions)
    complete(any_sessions, must_claim(any_sessions, job_id))
    assert claim(any_sessions, job_id) is None


def test_an_expired_lease_is_taken_over_and_the_late_result_is_refused(any_sessions: Sessions) -> None:
    job_id = add_job(any_sessions)
    late = must_claim(any_sessions, job_id, worker="a")
    expire_lease(any_sessions, late)
    assert rescue(any_sessions) == ([(TRANSCRIBE, 0)], [])
    assert get(any_sessions, job_id).status is Status.QUEUED
    new = must_claim(any_sessions, job_id, worker="b")
    assert new.attempt == 2
    assert not complete(any_sessions, late)
    assert not split(any_sessions, late)
    assert not fail(any_sessions, late, retry_after=None)
    assert not renew(any_sessions, late, Progress(Phase.TRANSCRIBING, 7.0))
    assert not release(any_sessions, late)
    assert not defer(any_sessions, late)
    assert get(any_sessions, job_id).audio_seconds_done == 0
    assert complete(any_sessions, new)
    assert outcomes(any_sessions, job_id) == ["lost", "succeeded"]
    assert states(any_sessions, job_id) == []


def test_expired_leases_are_queued_again_until_the_attempts_are_exhausted(any_sessions: Sessions) -> None:
    job_id = add_job(any_sessions)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        held = must_claim(any_sessions, job_id)
        assert rescue(any_sessions) == ([], []), "a live lease is left alone"
        expire_lease(any_sessions, held)
        expected = ([(TRANSCRIBE, 0)], []) if attempt < MAX_ATTEMPTS else ([], [(TRANSCRIBE, 0)])
        assert rescue(any_sessions) == expected
    job = get(any_sessions, job_id)
    assert (job.status, job.error_code) == (Status.FAILED, "worker_lost")
    assert outcomes(any_sessions, job_id) == ["lost"] * MAX_ATTEMPTS
    assert claim(any_sessions, job_id) is None


@pytest.mark.parametrize("kind", [TRANSCRIBE, SHARD])
def test_heartbeat_without_progress_counts_as_a_hang(any_sessions: Sessions, kind: str) -> None:
    job_id = add_job(any_sessions) if kind == TRANSCRIBE else add_split_job(any_sessions)
    held = must_claim(any_sessions, job_id, kind, 0)
    change_items(any_sessions, job_id, kind, progress_at=now_plus(-100))
    assert renew(any_sessions, held, moved=False)
    assert rescue(any_sessions, stall_seconds=200) == ([], [])
    assert rescue(any_sessions, stall_seconds=50) == ([(kind, 0)], [])


@pytest.mark.parametrize("kind", [TRANSCRIBE, SHARD])
def test_retryable_failure_is_queued_for_later_and_finally_fails(any_sessions: Sessions, kind: str) -> None:
    job_id = add_job(any_sessions) if kind == TRANSCRIBE else add_split_job(any_sessions)
    assert fail(any_sessions, must_claim(any_sessions, job_id, kind, 0), retry_after=3600)
    expected = Status.QUEUED if kind == TRANSCRIBE else Status.PROCESSING
    assert get(any_sessions, job_id).status is expected
    assert claim(any_sessions, job_id, kind, 0) is None, "not before its time"
    change_items(any_sessions, job_id, kind, run_after=now_plus(-1))
    assert fail(any_sessions, must_claim(any_sessions, job_id, kind, 0), retry_after=-1)
    assert fail(any_sessions, must_claim(any_sessions, job_id, kind, 0), retry_after=-1)
    job = get(any_sessions, job_id)
    assert (job.status, job.error_code, job.error_detail) == (Status.FAILED, "broken", "It broke.")
    assert item(any_sessions, job_id, kind, 0).attempt == MAX_ATTEMPTS


def test_permanent_failure_fails_at_once(any_sessions: Sessions) -> None:
    job_id = add_job(any_sessions)
    assert fail(any_sessions, must_claim(any_sessions, job_id), retry_after=None)
    assert get(any_sessions, job_id).status is Status.FAILED
    assert outcomes(any_sessions, job_id) == ["failed"]


@pytest.mark.parametrize("kind", [TRANSCRIBE, SHARD])
def test_an_item_released_is_not_counted(any_sessions: Sessions, kind: str) -> None:
    job_id = add_job(any_sessions) if kind == TRANSCRIBE else add_split_job(any_sessions)
    for _ in range(MAX_ATTEMPTS + 2):
        assert release(any_sessions, must_claim(any_sessions, job_id, kind, 0))
    again = must_claim(any_sessions, job_id, kind, 0)
    assert again.attempt == MAX_ATTEMPTS + 3, "attempt numbers are never used twice"


def test_queued_item_without_attempts_left_fails(any_sessions: Sessions) -> None:
    """For example after the limit was lowered."""
    job_id = add_job(any_sessions)
    change_items(any_sessions, job_id, attempts_counted=MAX_ATTEMPTS, error_code="unavailable")
    assert claim(any_sessions, job_id) is None
    assert rescue(any_sessions) == ([], [(TRANSCRIBE, 0)])
    job = get(any_sessions, job_id)
    assert (job.status, job.error_code, job.error_detail) == (
        Status.FAILED,
        "unavailable",
        "All attempts are used up.",
    )


# --- long recordings -----------------------------------------------------------------------------------------


def test_a_recording_that_is_split_leaves_items_that_may_be_claimed(any_sessions: Sessions) -> None:
    job_id = add_job(any_sessions)
    claimed = must_claim(any_sessions, job_id)
    assert split(any_sessions, claimed)
    job = get(any_sessions, job_id)
    assert (job.status, job.audio_seconds_total, job.shards_total) == (Status.PROCESSING, 24.0, 3)
    assert states(any_sessions, job_id) == [("queued", 0)] * 3
    assert states(any_sessions, job_id, ASSEMBLE) == [("blocked", 0)]
    assert claim(any_sessions, job_id) is None
    assert claim(any_sessions, job_id, ASSEMBLE) is None
    assert rescue(any_sessions, stall_seconds=-60) == ([], [])
    with any_sessions() as session:
        assert work.was_completed(session, claimed)
        assert work.count_due(session) == 3
    assert not split(any_sessions, claimed), "once"
    assert not release(any_sessions, claimed)
    assert get(any_sessions, job_id).status is Status.PROCESSING


def test_last_shard_unblocks_the_assembly_in_any_order(any_sessions: Sessions) -> None:
    job_id = add_split_job(any_sessions)
    taken = [must_claim(any_sessions, job_id, SHARD, number) for number in range(3)]
    assert [(t.payload["first"], t.payload["stop"], t.attempt) for t in taken] == [
        (0, 4, 1),
        (4, 8, 1),
        (8, 12, 1),
    ]
    assert complete(any_sessions, taken[2])
    assert complete(any_sessions, taken[0])
    assert not complete(any_sessions, taken[0])
    with any_sessions() as session:
        assert work.was_completed(session, taken[0])
        assert not work.was_completed(session, taken[1])
    assert claim(any_sessions, job_id, ASSEMBLE) is None
    assert complete(any_sessions, taken[1])
    assembly = must_claim(any_sessions, job_id, ASSEMBLE)
    assert assembly.payload == {"samples": 24000, "seconds": 24.0, "split_by_attempt": 1}
    with any_sessions.begin() as session:
        result = Result(artifacts=[], note_count=1, audio_seconds=24.0)
        assert work.complete(session, assembly, result=result, unneeded=[f"shards/{job_id}/"])
        assert session.scalars(select(Garbage.prefix)).all() == [f"shards/{job_id}/"]
    job = get(any_sessions, job_id)
    assert (job.status, job.attempts) == (Status.SUCCEEDED, 1)
    assert outcomes(any_sessions, job_id) == ["succeeded"] * 5, "every item has a history"


def test_a_recording_may_have_thousands_of_shards(any_sessions: Sessions) -> None:
    """More rows than one statement may have parameters for."""
    job_id = add_split_job(any_sessions, count=4000, in_order=True)
    complete(any_sessions, must_claim(any_sessions, job_id, SHARD, 0))
    found = states(any_sessions, job_id)
    assert (len(found), found[:3]) == (4000, [("succeeded", 1), ("queued", 0), ("blocked", 0)])


def test_shards_completed_at_the_same_moment_unblock_the_assembly_once(any_sessions: Sessions) -> None:
    for _ in range(10):
        job_id = add_split_job(any_sessions, count=2)
        taken = [must_claim(any_sessions, job_id, SHARD, number) for number in range(2)]
        start = threading.Barrier(2)
        won: list[bool] = []

        def finish(shard: Claim, start: threading.Barrier = start, won: list[bool] = won) -> None:
            start.wait()
            won.append(complete(any_sessions, shard))

        threads = [threading.Thread(target=finish, args=(shard,)) for shard in taken]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert won == [True, True]
        assert states(any_sessions, job_id, ASSEMBLE) == [("queued", 0)]


@pytest.mark.parametrize("kind", [TRANSCRIBE, SHARD])
def test_one_of_many_workers_claims_an_item(any_sessions: Sessions, kind: str) -> None:
    job_id = add_job(any_sessions) if kind == TRANSCRIBE else add_split_job(any_sessions, count=1)
    got: list[Claim | None] = []
    threads = [threading.Thread(target=lambda: got.append(claim(any_sessions, job_id, kind))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(claimed is not None for claimed in got) == 1
    assert states(any_sessions, job_id, kind) == [("processing", 1)]


def test_lost_shard_is_repeated_and_its_late_worker_is_refused(any_sessions: Sessions) -> None:
    job_id = add_split_job(any_sessions)
    late, other = must_claim(any_sessions, job_id, SHARD, 0), must_claim(any_sessions, job_id, SHARD, 1)
    assert rescue(any_sessions) == ([], []), "live leases are left alone"
    expire_lease(any_sessions, late)
    assert rescue(any_sessions) == ([(SHARD, 0)], [])
    assert get(any_sessions, job_id).status is Status.PROCESSING, "a job with finished items stays processing"
    again = must_claim(any_sessions, job_id, SHARD, 0, worker="b")
    assert again.attempt == 2
    assert not renew(any_sessions, late)
    assert not complete(any_sessions, late)
    assert not fail(any_sessions, late, retry_after=None)
    assert not release(any_sessions, late)
    assert complete(any_sessions, again)
    assert complete(any_sessions, other)
    assert states(any_sessions, job_id) == [("succeeded", 2), ("succeeded", 1), ("queued", 0)]


def test_a_shard_that_kills_its_workers_fails_the_job_and_stops_the_others(any_sessions: Sessions) -> None:
    job_id = add_split_job(any_sessions)
    other = must_claim(any_sessions, job_id, SHARD, 1)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        expire_lease(any_sessions, must_claim(any_sessions, job_id, SHARD, 0))
        expected = ([(SHARD, 0)], []) if attempt < MAX_ATTEMPTS else ([], [(SHARD, 0)])
        assert rescue(any_sessions) == expected
    job = get(any_sessions, job_id)
    assert (job.status, job.error_code) == (Status.FAILED, "worker_lost")
    assert not renew(any_sessions, other)
    assert not complete(any_sessions, other)
    assert claim(any_sessions, job_id, SHARD, 2) is None
    with any_sessions() as session:
        assert work.count_due(session) == 0


def test_retry_keeps_finished_shards(any_sessions: Sessions) -> None:
    job_id = add_split_job(any_sessions)
    complete(any_sessions, must_claim(any_sessions, job_id, SHARD, 0))
    running = must_claim(any_sessions, job_id, SHARD, 1)
    assert fail(any_sessions, must_claim(any_sessions, job_id, SHARD, 2), retry_after=None)
    assert states(any_sessions, job_id) == [("succeeded", 1), ("canceled", 1), ("failed", 1)]
    with any_sessions.begin() as session:
        jobs.retry_job(session, "public", job_id)
    assert get(any_sessions, job_id).status is Status.QUEUED
    assert not complete(any_sessions, running)
    assert complete(any_sessions, must_claim(any_sessions, job_id, SHARD, 1))
    assert get(any_sessions, job_id).status is Status.PROCESSING
    assert complete(any_sessions, must_claim(any_sessions, job_id, SHARD, 2))
    assert states(any_sessions, job_id) == [("succeeded", 1), ("succeeded", 2), ("succeeded", 2)]
    assert complete(any_sessions, must_claim(any_sessions, job_id, ASSEMBLE))
    assert get(any_sessions, job_id).status is Status.SUCCEEDED


def test_assembly_of_a_dead_worker_is_repeated(any_sessions: Sessions) -> None:
    job_id = add_split_job(any_sessions, count=1)
    complete(any_sessions, must_claim(any_sessions, job_id, SHARD))
    first = must_claim(any_sessions, job_id, ASSEMBLE)
    expire_lease(any_sessions, first)
    assert rescue(any_sessions) == ([(ASSEMBLE, 1)], [])
    second = must_claim(any_sessions, job_id, ASSEMBLE)
    assert not complete(any_sessions, first)
    assert complete(any_sessions, second)


def test_cancel_removes_the_shards_and_a_retry_splits_again(any_sessions: Sessions) -> None:
    job_id = add_split_job(any_sessions)
    taken = must_claim(any_sessions, job_id, SHARD, 0)
    with any_sessions.begin() as session:
        jobs.cancel_job(session, "public", job_id)
        assert session.scalars(select(Garbage.prefix)).all() == [f"shards/{job_id}/1/"]
    assert states(any_sessions, job_id) == []
    assert not renew(any_sessions, taken)
    with any_sessions.begin() as session:
        jobs.retry_job(session, "public", job_id)
    claimed = must_claim(any_sessions, job_id)
    assert claimed.attempt == 2
    assert split(any_sessions, claimed)
    again = must_claim(any_sessions, job_id, SHARD, 0)
    assert (again.attempt, again.input_key) == (taken.attempt, f"shards/{job_id}/2/0/audio")
    assert not renew(any_sessions, taken), "the same shard and attempt, of another split"
    assert not complete(any_sessions, taken)
    assert not fail(any_sessions, taken, retry_after=None)
    assert not release(any_sessions, taken)
    with any_sessions.begin() as session:
        jobs.cancel_job(session, "public", job_id)  # its earlier garbage is still recorded


def test_attempt_numbers_do_not_repeat_after_cancel(any_sessions: Sessions) -> None:
    """Folders of results have these numbers: an earlier, late worker must not share one."""
    job_id = add_split_job(any_sessions, count=1)
    complete(any_sessions, must_claim(any_sessions, job_id, SHARD))
    for _ in range(3):
        release(any_sessions, must_claim(any_sessions, job_id, ASSEMBLE))
    with any_sessions.begin() as session:
        jobs.cancel_job(session, "public", job_id)
        jobs.retry_job(session, "public", job_id)
    assert must_claim(any_sessions, job_id).attempt == 4


def test_delete_removes_the_items(any_sessions: Sessions) -> None:
    job_id = add_split_job(any_sessions)
    taken = must_claim(any_sessions, job_id, SHARD, 0)
    with any_sessions.begin() as session:
        jobs.delete_job(session, "public", job_id)
        assert f"shards/{job_id}/" in session.scalars(select(Garbage.prefix)).all()
        assert session.scalars(select(WorkItem)).all() == []
    assert outcomes(any_sessions, job_id) == []
    assert not renew(any_sessions, taken)
    assert not complete(any_sessions, taken)


def test_shards_run_in_order_if_segments_depend_on_each_other(any_sessions: Sessions) -> None:
    job_id = add_split_job(any_sessions, in_order=True)
    assert claim(any_sessions, job_id, SHARD, 1) is None
    first = must_claim(any_sessions, job_id, SHARD, 0)
    assert claim(any_sessions, job_id, SHARD, 1) is None
    assert complete(any_sessions, first)
    assert claim(any_sessions, job_id, SHARD, 2) is None
    assert item(any_sessions, job_id, SHARD, 0).result_key == KEY
    assert fail(any_sessions, must_claim(any_sessions, job_id, SHARD, 1), retry_after=None)
    with any_sessions.begin() as session:
        jobs.retry_job(session, "public", job_id)
    assert states(any_sessions, job_id) == [("succeeded", 1), ("queued", 1), ("blocked", 0)]
    complete(any_sessions, must_claim(any_sessions, job_id, SHARD, 1))
    complete(any_sessions, must_claim(any_sessions, job_id, SHARD, 2))
    assert complete(any_sessions, must_claim(any_sessions, job_id, ASSEMBLE))


def test_deferring_does_not_count_as_an_attempt(any_sessions: Sessions) -> None:
    job_id = add_job(any_sessions)
    assert defer(any_sessions, must_claim(any_sessions, job_id))
    job, waiting = get(any_sessions, job_id), item(any_sessions, job_id)
    assert (job.status, job.attempts, job.started_at) == (Status.QUEUED, 0, None)
    assert (waiting.is_long, waiting.attempts_counted) == (True, 0)
    assert outcomes(any_sessions, job_id) == ["deferred"]
    assert must_claim(any_sessions, job_id).is_long


def test_due_items_are_counted_only_while_their_job_is_active(any_sessions: Sessions) -> None:
    job_id = add_split_job(any_sessions)

    def due() -> int:
        with any_sessions() as session:
            return work.count_due(session)

    assert due() == 3
    must_claim(any_sessions, job_id, SHARD, 1)
    assert due() == 2
    fail(any_sessions, must_claim(any_sessions, job_id, SHARD, 0), retry_after=None)
    assert due() == 0


def test_progress_is_the_sum_over_the_shards(any_sessions: Sessions) -> None:
    job_id = add_split_job(any_sessions)
    complete(any_sessions, must_claim(any_sessions, job_id, SHARD, 0))
    running = must_claim(any_sessions, job_id, SHARD, 1)
    assert renew(any_sessions, running, Progress(Phase.TRANSCRIBING, 4.0))
    began, ended = datetime(2030, 1, 1, 0, 0, 0, tzinfo=UTC), datetime(2030, 1, 1, 0, 0, 4, tzinfo=UTC)
    change_items(any_sessions, job_id, SHARD, 0, started_at=began, finished_at=ended)
    change_items(any_sessions, job_id, SHARD, 1, started_at=ended)
    with any_sessions() as session:
        job = jobs.get_job(session, "public", job_id)
        assert job.audio_seconds_done == 0
        now = datetime(2030, 1, 1, 0, 0, 6, tzinfo=UTC)
        progress = shards_progress(session, [job], now)[job_id]
    assert (progress.done, progress.total, progress.seconds_done, progress.attempts) == (1, 3, 12.0, 1)
    assert progress.eta_seconds == 6.0, "12 s in 6 s, and 12 s to go"


def test_new_kind_needs_no_new_statement(any_sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain: fetch, then transcribe, then an item that does not change the job's outcome."""
    monkeypatch.setitem(KINDS, "fetch", KINDS[TRANSCRIBE])
    monkeypatch.setitem(KINDS, "webhook", KINDS[SHARD])
    job_id = add_job(any_sessions)
    with any_sessions.begin() as session:
        session.execute(update(WorkItem).values(kind="fetch"))
    fetch = must_claim(any_sessions, job_id, "fetch")
    with any_sessions.begin() as session:
        assert work.complete(session, fetch, then=[NewItem(TRANSCRIBE, 1, input_key="somewhere")])
    transcribe = must_claim(any_sessions, job_id)
    assert transcribe.input_key == "somewhere"
    with any_sessions.begin() as session:
        result = Result(artifacts=[], note_count=1, audio_seconds=1.0)
        afterwards = [NewItem("webhook", number) for number in (2, 3)]
        assert work.complete(session, transcribe, then=afterwards, result=result)
    assert fail(any_sessions, must_claim(any_sessions, job_id, "webhook", 2), retry_after=-1)
    assert fail(any_sessions, must_claim(any_sessions, job_id, "webhook", 2), retry_after=None)
    other = must_claim(any_sessions, job_id, "webhook", 3)
    with any_sessions.begin() as session:
        assert work.complete(session, other)
    assert get(any_sessions, job_id).status is Status.SUCCEEDED
    assert outcomes(any_sessions, job_id) == ["succeeded", "succeeded", "failed", "failed", "succeeded"]


# --- with locks held -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [jobs.cancel_job, jobs.delete_job])
@pytest.mark.parametrize("what", ["claim", "complete"])
def test_ending_a_job_concurrently_never_deadlocks(
    any_sessions: Sessions, end: Callable[..., object], what: str
) -> None:
    for _ in range(10):
        job_id = add_split_job(any_sessions, count=2)
        complete(any_sessions, must_claim(any_sessions, job_id, SHARD, 0))
        last = item(any_sessions, job_id, SHARD, 1)
        held = must_claim(any_sessions, job_id, SHARD, 1) if what == "complete" else None
        start, problems = threading.Barrier(2), list[Exception]()

        def client(job_id: UUID = job_id, start: threading.Barrier = start) -> None:
            start.wait()
            with any_sessions.begin() as session:
                end(session, "public", job_id)

        def worker(last: WorkItem = last, held: Claim | None = held, start: threading.Barrier = start) -> None:
            start.wait()
            if held is not None:
                complete(any_sessions, held)
            else:
                with any_sessions.begin() as session:
                    work.claim(session, last.id, worker="a", lease_seconds=60, max_attempts=3)

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
        assert states(any_sessions, job_id) == []


@pytest.mark.integration
@pytest.mark.parametrize("table", [Job, WorkItem])
def test_row_locked_by_a_paused_process_does_not_block_others(postgres_sessions: Sessions, table: Any) -> None:
    held, other = (must_claim(postgres_sessions, add_job(postgres_sessions), lease_seconds=-1) for _ in range(2))
    key = held.job_id if table is Job else held.id
    with postgres_sessions() as paused:
        paused.execute(update(table).where(table.id == key).values(owner="public"))
        requeued, _ = work.rescue(postgres_sessions, max_attempts=3, stall_seconds=900)
        assert [item.id for item in requeued] == [other.id]
        paused.rollback()
    requeued, _ = work.rescue(postgres_sessions, max_attempts=3, stall_seconds=900)
    assert [item.id for item in requeued] == [held.id]


def test_item_that_makes_progress_during_a_rescue_is_left_alone(
    any_sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease had expired when lost items were selected."""
    held = must_claim(any_sessions, add_job(any_sessions), lease_seconds=-1)
    lock = work.lock_job

    def renew_first(*arguments: Any, **named: Any) -> bool:
        monkeypatch.undo()
        assert renew(any_sessions, held)
        return lock(*arguments, **named)

    monkeypatch.setattr(work, "lock_job", renew_first)
    assert rescue(any_sessions) == ([], [])
    assert states(any_sessions, held.job_id, TRANSCRIBE) == [("processing", 1)]
