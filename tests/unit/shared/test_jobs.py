"""Jobs as clients use them, on both databases, and paused processes that hold locks."""

from __future__ import annotations

import os
import signal
import time
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.exc import DBAPIError, OperationalError

from shared import db, garbage, jobs
from shared.config import Settings
from shared.db import ENDED_BY_SERVER, Sessions, is_unavailable, make_engine, now_plus
from shared.errors import IdempotencyConflict, InvalidCursor, JobNotFound, StateConflict
from shared.kinds import Progress
from shared.model_reports import report_model
from shared.progress import eta_seconds
from shared.storage import upload_prefix
from shared.tables import Attempt, Garbage, Job, ModelReport, Phase, Status
from tests.work import add_job, claim, complete, get, must_claim, outcomes, renew


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
        assert jobs.cancel_job(session, "public", job_id).status is Status.CANCELED, (
            "a second cancel changes nothing"
        )
    assert claim(any_sessions, job_id) is None


def test_ended_job_cannot_be_canceled(any_sessions: Sessions) -> None:
    job_id = add_job(any_sessions)
    complete(any_sessions, must_claim(any_sessions, job_id))
    with any_sessions.begin() as session, pytest.raises(StateConflict, match="already succeeded"):
        jobs.cancel_job(session, "public", job_id)


def test_retry_restores_all_attempts_and_keeps_the_fencing_token(any_sessions: Sessions) -> None:
    job_id = add_job(any_sessions)
    stale = must_claim(any_sessions, job_id)
    with any_sessions.begin() as session:
        jobs.cancel_job(session, "public", job_id)
        job = jobs.retry_job(session, "public", job_id)
    assert (job.status, job.error_code) == (Status.QUEUED, None)
    again = must_claim(any_sessions, job_id)
    assert again.attempt == 2
    assert not complete(any_sessions, stale)
    with any_sessions.begin() as session, pytest.raises(StateConflict, match="processing"):
        jobs.retry_job(session, "public", job_id)


def test_delete_removes_the_row_and_records_its_files(any_sessions: Sessions) -> None:
    job_id = add_job(any_sessions)
    claimed = must_claim(any_sessions, job_id)
    with any_sessions.begin() as session:
        jobs.delete_job(session, "public", job_id)
    with any_sessions() as session:
        with pytest.raises(JobNotFound):
            jobs.get_job(session, "public", job_id)
        prefixes = set(session.scalars(select(Garbage.prefix)))
        assert session.scalars(select(Attempt)).all() == []
    assert prefixes == {f"{top}/{job_id}/" for top in ("uploads", "results", "shards", "exports")}
    assert not complete(any_sessions, claimed)


def test_another_owner_sees_nothing(any_sessions: Sessions) -> None:
    job_id = add_job(any_sessions, owner="other")
    with any_sessions.begin() as session:
        for forbidden in (jobs.get_job, jobs.cancel_job, jobs.retry_job, jobs.delete_job):
            with pytest.raises(JobNotFound):
                forbidden(session, "public", job_id)


def test_one_idempotency_key_makes_one_job(any_sessions: Sessions) -> None:
    first = add_job(any_sessions, idempotency_key="k", request_hash="h")
    assert add_job(any_sessions, idempotency_key="k", request_hash="h") == first
    with pytest.raises(IdempotencyConflict):
        add_job(any_sessions, idempotency_key="k", request_hash="other")
    assert add_job(any_sessions, owner="other", idempotency_key="k", request_hash="h") != first


def test_a_list_is_newest_first_in_pages(any_sessions: Sessions) -> None:
    ids = [add_job(any_sessions) for _ in range(5)]
    complete(any_sessions, must_claim(any_sessions, ids[1]))
    with any_sessions() as session:
        page, cursor = jobs.list_jobs(session, "public", limit=3)
        assert [job.id for job in page] == ids[:1:-1]
        rest, end = jobs.list_jobs(session, "public", limit=3, cursor=cursor)
        assert [job.id for job in rest] == [ids[1], ids[0]]
        assert end is None
        done, _ = jobs.list_jobs(session, "public", jobs.JobFilter([Status.SUCCEEDED]))
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
        assert set(garbage.list_garbage(session, older_than_seconds=-1)) == {
            upload_prefix(old),
            *garbage.job_prefixes([old]),
        }
        assert garbage.list_garbage(session, older_than_seconds=60) == []


def test_the_eta_comes_from_the_measured_speed(sessions: Sessions) -> None:
    job_id = add_job(sessions)
    claimed = must_claim(sessions, job_id)
    assert renew(sessions, claimed, Progress(Phase.TRANSCRIBING, 10.0, 40.0))
    job = get(sessions, job_id)
    assert job.transcribing_since is not None
    assert eta_seconds(job, job.transcribing_since + timedelta(seconds=2)) == 6.0


def test_a_report_of_a_model_keeps_the_last_speed(any_sessions: Sessions) -> None:
    with any_sessions.begin() as session:
        report_model(session, "basic_pitch", installed=False, realtime_factor=None)
        report_model(session, "basic_pitch", installed=True, realtime_factor=48.0)
        report_model(session, "basic_pitch", installed=True, realtime_factor=None)
    with any_sessions() as session:
        report = session.scalars(select(ModelReport)).one()
        assert (report.installed, report.realtime_factor) == (True, 48.0)


@pytest.mark.integration
def test_process_paused_in_a_transaction_loses_its_locks(postgres_url: str) -> None:
    engine = make_engine(Settings(database_url=postgres_url, lease_seconds=1))
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        time.sleep(2.5)
        with pytest.raises(DBAPIError, match="idle-in-transaction") as raised:
            connection.execute(text("SELECT 1"))
    assert is_unavailable(raised.value), "the transaction is retried"
    engine.dispose()


@pytest.mark.integration
@pytest.mark.parametrize("code", sorted(ENDED_BY_SERVER))
def test_connection_that_the_server_gives_up_is_replaced(postgres_url: str, code: str) -> None:
    """As after a cut of the network: the server's last answer has arrived, the end of the connection has not."""
    engine = make_engine(Settings(database_url=postgres_url))
    backend = text("SELECT pg_backend_pid()")
    with engine.connect() as connection:
        first = connection.scalar(backend)
        with pytest.raises(DBAPIError) as raised:
            connection.execute(text(f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{code}'; END $$"))
    assert is_unavailable(raised.value), "the transaction is retried"
    with engine.connect() as connection:
        assert connection.scalar(backend) != first
    engine.dispose()


@pytest.mark.integration
def test_query_to_a_frozen_server_times_out_and_is_retried_on_a_new_connection(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "PING_AFTER_SECONDS", 0)  # as if its connections had been idle
    engine = make_engine(Settings(database_url=postgres_url), statement_seconds=0.2)
    backend = text("SELECT pg_backend_pid()")
    with engine.connect() as connection:
        frozen = connection.scalar(backend)
    assert frozen is not None
    os.kill(frozen, signal.SIGSTOP)
    try:
        with engine.connect() as connection:  # the pool detects that its connection is closed
            second = connection.scalar(backend)
            assert second not in (None, frozen)
            os.kill(second, signal.SIGSTOP)
            began = time.monotonic()
            with pytest.raises(OperationalError) as raised:
                connection.execute(text("SELECT 1"))
            os.kill(second, signal.SIGCONT)
            assert time.monotonic() - began < 10
            assert is_unavailable(raised.value)
    finally:
        os.kill(frozen, signal.SIGCONT)
        engine.dispose()


def test_connection_that_the_server_has_closed_is_replaced_without_a_ping(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "PING_AFTER_SECONDS", 3600)
    engine, other = (make_engine(Settings(database_url=postgres_url)) for _ in range(2))
    backend = text("SELECT pg_backend_pid()")
    pings: list[object] = []
    ping = engine.dialect.do_ping

    def count(connection: Any) -> bool:
        pings.append(connection)
        return ping(connection)

    monkeypatch.setattr(engine.dialect, "do_ping", count)
    try:
        with engine.connect() as connection:
            first = connection.scalar(backend)
        with engine.connect() as connection:
            assert connection.scalar(backend) == first
        assert not pings  # a round trip that nothing asked for
        with other.connect() as connection:
            connection.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": first})
        with engine.connect() as connection:
            assert connection.scalar(backend) not in (None, first)
    finally:
        engine.dispose()
        other.dispose()
