"""`mt3-infer admin` and what is behind it, on both databases."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import select

from launcher.admin import admin
from shared import operations, worker_registry
from shared.config import Settings
from shared.db import Sessions, now_plus
from shared.errors import JobNotFound, StateConflict
from shared.tables import Job, Status, Watch, Worker
from tests.work import add_job, change_items, claim, fail, get, item, must_claim, rescue
from worker.liveness import Registration

Call = Callable[..., Result]


@pytest.fixture
def call(settings: Settings, sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.setenv("MT3_DATABASE_URL", settings.database_url)
    monkeypatch.setenv("MT3_STORAGE_URL", settings.storage_url)

    def call(*arguments: str, status: int = 0) -> Result:
        result = CliRunner().invoke(admin, arguments)
        assert result.exit_code == status, result.output
        return result

    return call


def find_stuck(sessions: Sessions) -> dict[UUID, str]:
    with sessions() as session:
        found = operations.find_stuck(session, quiet_seconds=60, waiting_seconds=60)
    return {stuck.job_id: stuck.reason for stuck in found}


def register(sessions: Sessions, name: str) -> bool:
    with sessions.begin() as session:
        return worker_registry.register(session, name)


def test_reason_names_why_an_item_does_not_move(any_sessions: Sessions) -> None:
    waiting, moving, quiet, lost, _young = (add_job(any_sessions) for _ in range(5))
    for job_id in (moving, quiet, lost):
        must_claim(any_sessions, job_id, lease_seconds=600)
    change_items(any_sessions, waiting, run_after=now_plus(-300), error_code="unavailable")
    change_items(any_sessions, quiet, progress_at=now_plus(-100))
    change_items(any_sessions, lost, progress_at=now_plus(-200), lease_until=now_plus(-100))
    assert find_stuck(any_sessions) == {
        waiting: "no worker takes items; the attempt before failed with unavailable",
        quiet: "its worker makes no progress",
        lost: "its worker is gone; a scheduler rescues it",
    }
    assert list(find_stuck(any_sessions)) == [waiting, lost, quiet], "the oldest first"
    register(any_sessions, "host:1")
    assert find_stuck(any_sessions)[waiting].startswith("all workers are busy")
    with any_sessions.begin() as session:
        operations.set_draining(session, None, is_draining=True)
    assert find_stuck(any_sessions)[waiting].startswith("no worker takes items")


def test_worker_learns_that_it_drains_and_that_it_does_no_more(any_sessions: Sessions) -> None:
    draining = threading.Event()
    registration = Registration(any_sessions, "host:1", threads=2, draining=draining)
    registration._register()
    for is_draining in (True, False):
        with any_sessions.begin() as session:
            assert operations.set_draining(session, ["host:1", "other"], is_draining=is_draining) == ["host:1"]
        registration._register()
        assert draining.is_set() is is_draining


def test_draining_worker_claims_nothing_from_then_on(any_sessions: Sessions) -> None:
    job_id = add_job(any_sessions)
    register(any_sessions, "host:1")
    with any_sessions.begin() as session:
        operations.set_draining(session, ["host:1"], is_draining=True)
    assert claim(any_sessions, job_id, worker="host:1") is None
    assert get(any_sessions, job_id).status is Status.QUEUED, "the job has not begun"
    with any_sessions() as session:
        assert worker_registry.count_workers(session)[0] == 0, "clients are not promised its work"
    assert claim(any_sessions, job_id, worker="host:2") is not None


def test_restarted_worker_takes_items_even_under_the_name_of_one_that_drained(any_sessions: Sessions) -> None:
    register(any_sessions, "host:1")
    with any_sessions.begin() as session:
        operations.set_draining(session, ["host:1"], is_draining=True)
    draining = threading.Event()
    Registration(any_sessions, "host:1", threads=2, draining=draining)._register()
    assert not draining.is_set()
    assert claim(any_sessions, add_job(any_sessions), worker="host:1") is not None


def test_waiting_for_a_drain_ends_when_nothing_is_in_hand(
    call: Call, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(sessions, "host:1")
    job_id = add_job(sessions)
    held = must_claim(sessions, job_id, worker="host:1", lease_seconds=600)
    looks = []

    def sleep(_: float) -> None:
        looks.append(item(sessions, job_id).status)
        if len(looks) == 3:
            fail(sessions, held, retry_after=None)

    monkeypatch.setattr("launcher.admin.time.sleep", sleep)
    call("drain", "--all", "--wait")
    assert looks == ["processing"] * 3 + ["failed"], "one look more after the first with nothing in hand"


def test_requeued_job_leaves_its_worker(any_sessions: Sessions) -> None:
    job_id = add_job(any_sessions)
    must_claim(any_sessions, job_id, lease_seconds=600)
    with any_sessions.begin() as session:
        assert operations.requeue(session, job_id).startswith("1 leases ended")
    assert rescue(any_sessions) == ([("transcribe", 0)], [])
    assert item(any_sessions, job_id).status == "queued"


def test_failed_job_of_any_owner_is_retried(any_sessions: Sessions) -> None:
    job_id = add_job(any_sessions, owner="somebody")
    fail(any_sessions, must_claim(any_sessions, job_id), retry_after=None)
    with any_sessions.begin() as session:
        operations.requeue(session, job_id)
    assert get(any_sessions, job_id).status is Status.QUEUED
    with any_sessions.begin() as session, pytest.raises(StateConflict):
        operations.requeue(session, job_id)
    with any_sessions.begin() as session, pytest.raises(JobNotFound):
        operations.requeue(session, uuid4())


def test_commands_show_and_change_the_service(
    call: Call, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Nothing is stuck" in call("stuck").output
    job_id = add_job(sessions, upload_bytes=5_000_000)
    must_claim(sessions, job_id, worker="host:1", lease_seconds=600)
    change_items(sessions, job_id, progress_at=now_plus(-7200))
    register(sessions, "host:1")
    assert "1 in hand" in call("workers").output
    assert f"{job_id} transcribe 0 on host:1, for 2.0 h: its worker makes no progress" in call("stuck").output
    shown = call("status").output
    assert "transcribe processing 1" in " ".join(shown.split())
    assert "stuck               1" in shown
    assert call("drain", "host:1").output == "host:1\n"
    assert "draining" in call("workers").output
    assert "There is no worker host:9" in call("drain", "host:9", status=1).output
    assert "--all" in call("drain", status=2).output
    assert "leases ended" in call("requeue", str(job_id)).output
    assert "public" in call("usage").output
    assert "5.0 MB" in call("usage").output
    assert "5.0 MB of recordings and results are stored\n" in call("usage").output
    monkeypatch.setenv("MT3_MAX_STORED_BYTES", "9000000")
    assert "5.0 MB of recordings and results are stored of 9.0 MB (MT3_MAX_STORED_BYTES)" in call("usage").output


def test_purge_removes_ended_jobs_and_trusts_storage_again(call: Call, sessions: Sessions) -> None:
    old, kept = add_job(sessions), add_job(sessions)
    with sessions.begin() as session:
        job = session.get(Job, old)
        assert job is not None
        job.status, job.finished_at = Status.SUCCEEDED, session.scalar(select(now_plus(-10 * 86400)))
    asked = call("purge", "--older-than", "7", status=1).output  # and nobody confirms
    assert "deletes 1 transcription that ended more than 7 days ago, with its files. Go on?" in asked
    assert "1 job deleted" in call("purge", "--older-than", "7", "--yes").output
    assert call("purge", "--older-than", "7").output.startswith("0 jobs deleted"), "there is nothing to ask"
    assert "the files that no transcription needs" in call("purge", "--unknown", status=1).output
    with sessions() as session:
        assert session.scalars(select(Job.id)).all() == [kept]
        assert session.scalars(select(Watch)).all() == []
        assert session.scalars(select(Worker)).all() == []
    call("purge", "--unknown", "--yes")
    with sessions() as session:
        assert len(session.scalars(select(Watch)).all()) == 1


def test_command_makes_no_database_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MT3_DATABASE_URL", f"sqlite:///{tmp_path}/elsewhere/mt3.sqlite3")
    for command in (["status"], ["drain", "--all"], ["purge", "--older-than", "7"]):
        result = CliRunner().invoke(admin, command)
        assert (result.exit_code, "There is no database sqlite:///" in result.output) == (1, True)
    assert list(tmp_path.iterdir()) == []


def test_drain_of_all_says_that_there_is_none(call: Call) -> None:
    assert call("drain", "--all").output == "No worker is registered.\n"
