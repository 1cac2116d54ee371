"""The job's state machine, on both databases: every way in, every way out, and none past the end."""

from __future__ import annotations

import os
import signal
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.exc import DBAPIError, OperationalError
from uuid6 import uuid7

from shared import jobs
from shared.config import Settings
from shared.db import Sessions, is_away, make_engine, now_plus
from shared.errors import IdempotencyConflict, InvalidCursor, JobNotFound, StateConflict
from shared.jobs import Claim, NewJob, Progress
from shared.tables import Attempt, Garbage, Job, Phase, Status

MAX_ATTEMPTS = 3


def add_job(sessions: Sessions, **changes: object) -> UUID:
    job_id = UUID(str(uuid7()))
    fields = {
        "id": job_id,
        "owner": "public",
        "model": "basic_pitch",
        "options": {},
        "client_metadata": {},
        "filename": "song.wav",
        "upload_key": f"uploads/{job_id}/audio",
        "upload_bytes": 10,
    }
    job, _ = jobs.create_job(sessions, NewJob(**(fields | changes)))  # type: ignore[arg-type]
    return job.id


def claim(sessions: Sessions, job_id: UUID, *, worker: str = "a", lease_seconds: float = 60) -> Claim | None:
    with sessions.begin() as session:
        return jobs.claim_job(
            session, job_id, worker=worker, lease_seconds=lease_seconds, max_attempts=MAX_ATTEMPTS
        )


def must_claim(sessions: Sessions, job_id: UUID, **how: object) -> Claim:
    claimed = claim(sessions, job_id, **how)  # type: ignore[arg-type]
    assert claimed is not None
    return claimed


def complete(sessions: Sessions, claimed: Claim) -> bool:
    with sessions.begin() as session:
        return jobs.complete_job(session, claimed, artifacts=[{"name": "x"}], note_count=3, audio_seconds=1.5)


def fail(sessions: Sessions, claimed: Claim, *, retry_after: float | None) -> bool:
    with sessions.begin() as session:
        return jobs.fail_attempt(
            session,
            claimed,
            code="broken",
            detail="It broke.",
            retry_after_seconds=retry_after,
            max_attempts=MAX_ATTEMPTS,
        )


def expire_lease(sessions: Sessions, job_id: UUID) -> None:
    with sessions.begin() as session:
        session.execute(update(Job).where(Job.id == job_id).values(lease_until=now_plus(-1)))


def reap(sessions: Sessions, *, stall_seconds: float = 900) -> tuple[list[UUID], list[UUID]]:
    with sessions.begin() as session:
        return jobs.reap_jobs(session, max_attempts=MAX_ATTEMPTS, stall_seconds=stall_seconds)


def get(sessions: Sessions, job_id: UUID) -> Job:
    with sessions() as session:
        return jobs.get_job(session, "public", job_id)


def outcomes(sessions: Sessions, job_id: UUID) -> list[str | None]:
    with sessions() as session:
        return list(
            session.scalars(select(Attempt.outcome).where(Attempt.job_id == job_id).order_by(Attempt.number))
        )


def test_a_new_job_is_queued_and_its_times_are_utc(any_sessions: Sessions) -> None:
    job = get(any_sessions, add_job(any_sessions))
    assert job.status is Status.QUEUED
    assert abs(datetime.now(UTC) - job.created_at) < timedelta(seconds=5)


def test_the_path_of_a_job_that_succeeds(any_sessions: Sessions) -> None:
    job_id = add_job(any_sessions)
    claimed = must_claim(any_sessions, job_id)
    assert claimed.attempt == 1
    with any_sessions.begin() as session:
        progress = Progress(Phase.TRANSCRIBING, 0.5, 1.5)
        assert jobs.renew_lease(session, claimed, lease_seconds=60, progress=progress, moved=True)
    halfway = get(any_sessions, job_id)
    assert (halfway.phase, halfway.audio_seconds_done) == (Phase.TRANSCRIBING, 0.5)
    assert complete(any_sessions, claimed)
    done = get(any_sessions, job_id)
    assert (done.status, done.phase, done.lease_until, done.note_count) == (Status.SUCCEEDED, None, None, 3)
    assert done.finished_at is not None
    assert outcomes(any_sessions, job_id) == ["succeeded"]


def test_a_second_message_for_a_job_in_hand_is_refused(any_sessions: Sessions) -> None:
    job_id = add_job(any_sessions)
    must_claim(any_sessions, job_id, worker="a")
    assert claim(any_sessions, job_id, worker="b") is None
    assert get(any_sessions, job_id).worker == "a"


def test_a_message_for_a_job_that_has_ended_is_refused(any_sessions: Sessions) -> None:
    job_id = add_job(any_sessions)
    complete(any_sessions, must_claim(any_sessions, job_id))
    assert claim(any_sessions, job_id) is None


def test_an_expired_lease_can_be_taken_over_and_the_late_result_is_refused(any_sessions: Sessions) -> None:
    job_id = add_job(any_sessions)
    late = must_claim(any_sessions, job_id, worker="a")
    expire_lease(any_sessions, job_id)
    new = must_claim(any_sessions, job_id, worker="b")
    assert new.attempt == 2
    assert not complete(any_sessions, late)
    assert not fail(any_sessions, late, retry_after=None)
    with any_sessions.begin() as session:
        assert not jobs.renew_lease(session, late, lease_seconds=60, progress=None, moved=False)
        assert not jobs.release_job(session, late)
    assert complete(any_sessions, new)
    assert outcomes(any_sessions, job_id) == ["lost", "succeeded"]


def test_expired_leases_are_queued_again_until_the_attempts_are_used_up(any_sessions: Sessions) -> None:
    job_id = add_job(any_sessions)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        must_claim(any_sessions, job_id)
        assert reap(any_sessions) == ([], []), "a live lease is left alone"
        expire_lease(any_sessions, job_id)
        expected = ([job_id], []) if attempt < MAX_ATTEMPTS else ([], [job_id])
        assert reap(any_sessions) == expected
    job = get(any_sessions, job_id)
    assert (job.status, job.error_code) == (Status.FAILED, "worker_lost")
    assert outcomes(any_sessions, job_id) == ["lost"] * MAX_ATTEMPTS
    assert claim(any_sessions, job_id) is None


def test_a_heart_that_beats_without_progress_is_a_hang(any_sessions: Sessions) -> None:
    job_id = add_job(any_sessions)
    claimed = must_claim(any_sessions, job_id)
    with any_sessions.begin() as session:
        session.execute(update(Job).values(progress_at=now_plus(-100)))
        assert jobs.renew_lease(session, claimed, lease_seconds=60, progress=None, moved=False)
    assert reap(any_sessions, stall_seconds=200) == ([], [])
    assert reap(any_sessions, stall_seconds=50) == ([job_id], [])


def test_a_failure_that_may_mend_is_queued_for_later_and_in_the_end_fails(any_sessions: Sessions) -> None:
    job_id = add_job(any_sessions)
    assert fail(any_sessions, must_claim(any_sessions, job_id), retry_after=3600)
    job = get(any_sessions, job_id)
    assert job.status is Status.QUEUED
    assert claim(any_sessions, job_id) is None, "not before its time"
    with any_sessions.begin() as session:
        session.execute(update(Job).values(run_after=now_plus(-1)))
    assert fail(any_sessions, must_claim(any_sessions, job_id), retry_after=-1)
    assert fail(any_sessions, must_claim(any_sessions, job_id), retry_after=-1)
    job = get(any_sessions, job_id)
    assert (job.status, job.error_code, job.attempt) == (Status.FAILED, "broken", MAX_ATTEMPTS)


def test_a_failure_that_cannot_mend_fails_at_once(any_sessions: Sessions) -> None:
    job_id = add_job(any_sessions)
    assert fail(any_sessions, must_claim(any_sessions, job_id), retry_after=None)
    assert get(any_sessions, job_id).status is Status.FAILED


def test_a_job_handed_back_is_not_charged(any_sessions: Sessions) -> None:
    job_id = add_job(any_sessions)
    for _ in range(MAX_ATTEMPTS + 2):
        claimed = must_claim(any_sessions, job_id)
        with any_sessions.begin() as session:
            assert jobs.release_job(session, claimed)
    assert must_claim(any_sessions, job_id).attempt == MAX_ATTEMPTS + 3, "attempt numbers are never used twice"


@pytest.mark.parametrize("in_hand", [False, True])
def test_cancel_wins_over_the_worker(any_sessions: Sessions, in_hand: bool) -> None:
    job_id = add_job(any_sessions)
    claimed = must_claim(any_sessions, job_id) if in_hand else None
    with any_sessions.begin() as session:
        assert jobs.cancel_job(session, "public", job_id).status is Status.CANCELED
    if claimed:
        assert not complete(any_sessions, claimed)
        assert outcomes(any_sessions, job_id) == ["canceled"]
    with any_sessions.begin() as session:
        assert jobs.cancel_job(session, "public", job_id).status is Status.CANCELED, "twice is once"
    assert claim(any_sessions, job_id) is None


def test_what_has_ended_cannot_be_canceled(any_sessions: Sessions) -> None:
    job_id = add_job(any_sessions)
    complete(any_sessions, must_claim(any_sessions, job_id))
    with any_sessions.begin() as session, pytest.raises(StateConflict, match="already succeeded"):
        jobs.cancel_job(session, "public", job_id)


def test_retry_gives_all_attempts_back_and_keeps_the_fencing_token(any_sessions: Sessions) -> None:
    job_id = add_job(any_sessions)
    stale = must_claim(any_sessions, job_id)
    with any_sessions.begin() as session:
        jobs.cancel_job(session, "public", job_id)
        job = jobs.retry_job(session, "public", job_id)
    assert (job.status, job.attempts_charged, job.error_code) == (Status.QUEUED, 0, None)
    again = must_claim(any_sessions, job_id)
    assert again.attempt == 2
    assert not complete(any_sessions, stale)
    with any_sessions.begin() as session, pytest.raises(StateConflict, match="processing"):
        jobs.retry_job(session, "public", job_id)


def test_delete_removes_the_row_and_puts_down_its_files(any_sessions: Sessions) -> None:
    job_id = add_job(any_sessions)
    claimed = must_claim(any_sessions, job_id)
    with any_sessions.begin() as session:
        jobs.delete_job(session, "public", job_id)
    with any_sessions() as session:
        with pytest.raises(JobNotFound):
            jobs.get_job(session, "public", job_id)
        prefixes = set(session.scalars(select(Garbage.prefix)))
        assert session.scalars(select(Attempt)).all() == []
    assert prefixes == {f"uploads/{job_id}/", f"results/{job_id}/", f"shards/{job_id}/"}
    assert not complete(any_sessions, claimed)


def test_another_owner_sees_nothing(any_sessions: Sessions) -> None:
    job_id = add_job(any_sessions, owner="somebody")
    with any_sessions.begin() as session:
        for forbidden in (jobs.get_job, jobs.cancel_job, jobs.retry_job, jobs.delete_job):
            with pytest.raises(JobNotFound):
                forbidden(session, "public", job_id)


def test_one_idempotency_key_makes_one_job(any_sessions: Sessions) -> None:
    first = add_job(any_sessions, idempotency_key="k", request_hash="h")
    assert add_job(any_sessions, idempotency_key="k", request_hash="h") == first
    with pytest.raises(IdempotencyConflict):
        add_job(any_sessions, idempotency_key="k", request_hash="other")
    assert add_job(any_sessions, owner="somebody", idempotency_key="k", request_hash="h") != first


def test_a_list_is_newest_first_in_pages(any_sessions: Sessions) -> None:
    ids = [add_job(any_sessions) for _ in range(5)]
    complete(any_sessions, must_claim(any_sessions, ids[1]))
    with any_sessions() as session:
        page, cursor = jobs.list_jobs(session, "public", limit=3)
        assert [job.id for job in page] == ids[:1:-1]
        rest, end = jobs.list_jobs(session, "public", limit=3, cursor=cursor)
        assert [job.id for job in rest] == [ids[1], ids[0]]
        assert end is None
        done, _ = jobs.list_jobs(session, "public", status=Status.SUCCEEDED)
        assert [job.id for job in done] == [ids[1]]
        with pytest.raises(InvalidCursor):
            jobs.list_jobs(session, "public", cursor="'; drop table jobs")


def test_old_results_expire_and_running_jobs_do_not(any_sessions: Sessions) -> None:
    old, new, running = (add_job(any_sessions) for _ in range(3))
    for job_id in (old, new, running):
        claimed = must_claim(any_sessions, job_id)
        if job_id != running:
            complete(any_sessions, claimed)
    with any_sessions.begin() as session:
        session.execute(update(Job).where(Job.id == old).values(finished_at=now_plus(-40 * 86400)))
        session.execute(update(Job).values(created_at=now_plus(-40 * 86400)))
        assert jobs.expire_jobs(session, ttl_days=30) == [old]
    with any_sessions() as session:
        assert set(jobs.list_garbage(session, older_than_seconds=-1)) == set(jobs.all_prefixes([old]))
        assert jobs.list_garbage(session, older_than_seconds=60) == []


def test_the_eta_comes_from_the_measured_speed(sessions: Sessions) -> None:
    job_id = add_job(sessions)
    claimed = must_claim(sessions, job_id)
    with sessions.begin() as session:
        progress = Progress(Phase.TRANSCRIBING, 10.0, 40.0)
        jobs.renew_lease(session, claimed, lease_seconds=60, progress=progress, moved=True)
    job = get(sessions, job_id)
    assert job.transcribing_since is not None
    assert jobs.eta_seconds(job, job.transcribing_since + timedelta(seconds=2)) == 6.0


def test_a_report_of_a_model_keeps_the_last_speed(any_sessions: Sessions) -> None:
    from shared.tables import ModelReport

    with any_sessions.begin() as session:
        jobs.report_model(session, "basic_pitch", installed=False, realtime_factor=None)
        jobs.report_model(session, "basic_pitch", installed=True, realtime_factor=48.0)
        jobs.report_model(session, "basic_pitch", installed=True, realtime_factor=None)
    with any_sessions() as session:
        report = session.scalars(select(ModelReport)).one()
        assert (report.installed, report.realtime_factor) == (True, 48.0)


@pytest.mark.integration
def test_a_row_that_a_paused_process_holds_locked_does_not_keep_the_others_waiting(
    postgres_sessions: Sessions,
) -> None:
    held, other = add_job(postgres_sessions), add_job(postgres_sessions)
    for job_id in (held, other):
        assert claim(postgres_sessions, job_id, lease_seconds=-1)
    with postgres_sessions() as paused:
        paused.execute(update(Job).where(Job.id == held).values(phase=None))
        with postgres_sessions.begin() as session:
            requeued, _ = jobs.reap_jobs(session, max_attempts=3, stall_seconds=900)
        assert requeued == [other]
        paused.rollback()
    with postgres_sessions.begin() as session:
        assert jobs.reap_jobs(session, max_attempts=3, stall_seconds=900)[0] == [held]


@pytest.mark.integration
def test_a_process_that_is_paused_in_mid_transaction_loses_its_locks(postgres_url: str) -> None:
    engine = make_engine(Settings(database_url=postgres_url, lease_seconds=1))
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        time.sleep(2.5)
        with pytest.raises(DBAPIError, match="idle-in-transaction") as raised:
            connection.execute(text("SELECT 1"))
    assert is_away(raised.value), "what it was about to do is tried again"
    engine.dispose()


@pytest.mark.integration
def test_a_server_that_is_frozen_is_given_up_and_asked_anew_through_another_connection(postgres_url: str) -> None:
    engine = make_engine(Settings(database_url=postgres_url), statement_seconds=0.2)
    backend = text("SELECT pg_backend_pid()")
    with engine.connect() as connection:
        frozen = connection.scalar(backend)
    assert frozen is not None
    os.kill(frozen, signal.SIGSTOP)
    try:
        with engine.connect() as connection:  # the pool finds out that its connection is of no use
            second = connection.scalar(backend)
            assert second not in (None, frozen)
            os.kill(second, signal.SIGSTOP)
            began = time.monotonic()
            with pytest.raises(OperationalError) as raised:
                connection.execute(text("SELECT 1"))
            os.kill(second, signal.SIGCONT)
            assert time.monotonic() - began < 10
            assert is_away(raised.value)
    finally:
        os.kill(frozen, signal.SIGCONT)
        engine.dispose()


@pytest.mark.integration
def test_a_lease_that_ends_while_others_are_reaped_waits_for_the_next_time(postgres_sessions: Sessions) -> None:
    """Its row was locked, or its lease still ran, when jobs with attempts left were looked for."""
    held = add_job(postgres_sessions)
    assert claim(postgres_sessions, held, lease_seconds=-1)
    paused = postgres_sessions()
    paused.execute(update(Job).where(Job.id == held).values(phase=None))
    with postgres_sessions.begin() as session:
        execute = session.scalars
        statements: list[Any] = []

        def let_go_after_the_first(statement: Any, *args: Any, **how: Any) -> Any:
            result = execute(statement, *args, **how)
            if not statements:
                paused.rollback()
            statements.append(statement)
            return result

        session.scalars = let_go_after_the_first  # type: ignore[method-assign]
        assert jobs.reap_jobs(session, max_attempts=3, stall_seconds=900) == ([], [])
        assert len(statements) > 1
    with postgres_sessions.begin() as session:
        assert jobs.reap_jobs(session, max_attempts=3, stall_seconds=900) == ([held], [])
