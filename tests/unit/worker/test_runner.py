"""The runner without broker and network: every outcome of an attempt, on both databases."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from uuid import UUID

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from uuid6 import uuid7

from checkpoints.errors import DownloadError, OfflineError
from mt3_infer.errors import AudioError
from shared import jobs
from shared.config import Settings
from shared.db import Sessions, now_plus
from shared.errors import StorageUnavailable
from shared.jobs import NewJob
from shared.queue import InMemoryQueue
from shared.storage import ObjectStorage, make_storage, upload_prefix
from shared.tables import Attempt, Job, ModelReport, Phase, Status, WorkItem
from tests.fakes import FakeEngine
from tests.servers import wait_until
from tests.work import item, rescue
from web.schemas import DownloadView
from web.views import view_progress
from worker.context import Services
from worker.runner import Runner


@pytest.fixture
def storage(settings: Settings) -> ObjectStorage:
    return make_storage(settings)


@pytest.fixture
def add_job(any_sessions: Sessions, storage: ObjectStorage) -> Callable[[], UUID]:
    def add() -> UUID:
        job_id = UUID(str(uuid7()))
        key = upload_prefix(job_id) + "audio"
        storage.put(key, io.BytesIO(b"sound"), content_type="audio/wav")
        new = NewJob(job_id, "public", "basic_pitch", {}, {}, "song.wav", key, 5)
        return jobs.create_job(any_sessions, new)[0].id

    return add


@pytest.fixture
def make_runner(settings: Settings, any_sessions: Sessions, storage: ObjectStorage) -> Callable[..., Runner]:
    def make(engine: FakeEngine | None = None, **changes: object) -> Runner:
        defaults: dict[str, object] = {
            "settings": settings,
            "sessions": any_sessions,
            "storage": storage,
            "engine": (engine or FakeEngine()).as_engine(),
            "queue": InMemoryQueue(),
            "worker": "host:1",
            "stopping": threading.Event(),
        }
        return Runner(Services(**(defaults | changes)))  # type: ignore[arg-type]

    return make


def get(sessions: Sessions, job_id: UUID) -> Job:
    with sessions() as session:
        return jobs.get_job(session, "public", job_id)


def test_an_attempt_ends_with_artifacts_that_can_be_read(
    any_sessions: Sessions,
    storage: ObjectStorage,
    add_job: Callable[[], UUID],
    make_runner: Callable[..., Runner],
) -> None:
    job_id, engine = add_job(), FakeEngine()
    assert make_runner(engine).run_next() == "succeeded"
    job = get(any_sessions, job_id)
    assert (job.status, job.note_count, job.audio_seconds_total) == (Status.SUCCEEDED, 3, 2.0)
    assert engine.recordings == [b"sound"]
    artifacts = {artifact["name"]: artifact for artifact in job.artifacts}
    assert artifacts["transcription.mid"]["key"] == f"results/{job_id}/1/transcription.mid"
    with storage.open(artifacts["transcription.mid"]["key"]) as midi:
        assert midi.read(4) == b"MThd"
    with storage.open(artifacts["notes.json"]["key"]) as notes:
        assert len(json.load(notes)["notes"]) == 3
    with any_sessions() as session:
        assert (session.scalars(select(ModelReport.realtime_factor)).one() or 0) > 0


def test_progress_reaches_the_row_while_the_attempt_runs(
    any_sessions: Sessions, add_job: Callable[[], UUID], make_runner: Callable[..., Runner]
) -> None:
    job_id, seen = add_job(), []

    def look() -> None:
        wait_until(lambda: get(any_sessions, job_id).phase is Phase.TRANSCRIBING, what="progress")
        job = get(any_sessions, job_id)
        seen.append((job.audio_seconds_done, job.audio_seconds_total))

    assert make_runner(FakeEngine(on_half=look)).run_next() == "succeeded"
    assert seen == [(1.0, 2.0)]


def test_the_download_of_the_checkpoint_reaches_the_row_and_leaves_it(
    any_sessions: Sessions, add_job: Callable[[], UUID], make_runner: Callable[..., Runner]
) -> None:
    job_id, seen = add_job(), []

    def look() -> None:
        wait_until(lambda: get(any_sessions, job_id).download, what="figures of the download")
        seen.append(view_progress(get(any_sessions, job_id)).download)

    assert make_runner(FakeEngine(on_fetch=look)).run_next() == "succeeded"
    assert seen == [
        DownloadView(
            bytes_done=50_000_000,
            bytes_total=200_000_000,
            bytes_per_second=10_000_000,
            eta_seconds=15.0,
            waiting=True,
        )
    ]
    assert get(any_sessions, job_id).download is None


def test_the_heartbeat_keeps_a_lease_that_is_shorter_than_the_work(
    settings: Settings,
    any_sessions: Sessions,
    add_job: Callable[[], UUID],
    make_runner: Callable[..., Runner],
) -> None:
    add_job()
    others = []

    def outlast_the_lease() -> None:
        time.sleep(1.5 * settings.lease_seconds)
        others.append(make_runner(worker="host:2").run_next())

    assert make_runner(FakeEngine(on_half=outlast_the_lease)).run_next() == "succeeded"
    assert others == [None], "another worker found the lease alive"


def test_two_messages_for_one_job_produce_one_result(
    any_sessions: Sessions, add_job: Callable[[], UUID], make_runner: Callable[..., Runner]
) -> None:
    job_id, outcomes = add_job(), []

    def run() -> None:
        outcomes.append(make_runner().run_next())

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes, key=str) == [None] * 5 + ["succeeded"]
    assert get(any_sessions, job_id).attempts == 1


def test_cancel_stops_the_attempt_and_leaves_nothing_in_storage(
    any_sessions: Sessions,
    storage: ObjectStorage,
    add_job: Callable[[], UUID],
    make_runner: Callable[..., Runner],
) -> None:
    job_id = add_job()

    def cancel() -> None:
        with any_sessions.begin() as session:
            jobs.cancel_job(session, "public", job_id)
        time.sleep(1)  # the heartbeat notices

    assert make_runner(FakeEngine(on_half=cancel)).run_next() == "lost"
    job = get(any_sessions, job_id)
    assert (job.status, job.artifacts) == (Status.CANCELED, [])


def test_a_late_worker_changes_nothing_and_its_artifacts_are_removed(
    any_sessions: Sessions,
    storage: ObjectStorage,
    add_job: Callable[[], UUID],
    make_runner: Callable[..., Runner],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As after a SIGSTOP: the lease expires, another worker completes the item, and the first one is late."""
    job_id = add_job()
    # The paused worker has no heartbeat.
    monkeypatch.setattr("shared.work.renew", lambda *_, **__: True)

    def pause() -> None:
        monkeypatch.undo()
        with any_sessions.begin() as session:
            session.execute(update(WorkItem).values(lease_until=now_plus(-1)))
        assert rescue(any_sessions) == ([("transcribe", 0)], [])
        assert make_runner(worker="host:2").run_next() == "succeeded"

    assert make_runner(FakeEngine(on_half=pause)).run_next() == "lost"
    job = get(any_sessions, job_id)
    assert (job.status, job.attempts) == (Status.SUCCEEDED, 2)
    assert all(f"results/{job_id}/2/" in artifact["key"] for artifact in job.artifacts)
    assert storage.size(job.artifacts[0]["key"]) > 0
    with any_sessions() as session:
        outcomes = session.scalars(select(Attempt.outcome).order_by(Attempt.number)).all()
    assert outcomes == ["lost", "succeeded"]


@pytest.mark.parametrize(
    ("error", "code", "is_retried"),
    [
        (AudioError("This is no audio."), "undecodable_audio", False),
        (StorageUnavailable("Storage does not answer."), "unavailable", True),
        (DownloadError("No source answered.", []), "checkpoint_download_failed", True),
        (OperationalError("UPDATE", {}, Exception("gone")), "unavailable", True),
        (MemoryError(), "out_of_memory", True),
        (ZeroDivisionError(), "internal_error", True),
    ],
)
def test_failure_is_final_or_retried_depending_on_its_class(
    any_sessions: Sessions,
    add_job: Callable[[], UUID],
    make_runner: Callable[..., Runner],
    error: Exception,
    code: str,
    is_retried: bool,
) -> None:
    job_id = add_job()

    def fail() -> None:
        raise error

    assert make_runner(FakeEngine(on_half=fail)).run_next() == "failed"
    job = get(any_sessions, job_id)
    assert job.error_code == code
    assert job.status is (Status.QUEUED if is_retried else Status.FAILED)
    assert job.error_detail


def test_a_checkpoint_error_shows_no_paths_or_sums_to_clients(
    any_sessions: Sessions,
    add_job: Callable[[], UUID],
    make_runner: Callable[..., Runner],
) -> None:
    job_id = add_job()

    def fail() -> None:
        raise OfflineError("Copy weights.bin (sha256 0123abcd) to /srv/checkpoints/tiny.")

    assert make_runner(FakeEngine(on_half=fail)).run_next() == "failed"
    job = get(any_sessions, job_id)
    assert (job.error_code, job.error_detail) == ("checkpoint_offline", OfflineError.user_message)


def test_outage_of_a_dependency_uses_up_no_attempt(
    settings: Settings,
    any_sessions: Sessions,
    add_job: Callable[[], UUID],
    make_runner: Callable[..., Runner],
) -> None:
    job_id = add_job()

    def fail() -> None:
        raise StorageUnavailable("Storage does not answer.")

    for _ in range(settings.max_attempts + 2):
        with any_sessions.begin() as session:
            session.execute(update(WorkItem).values(run_after=now_plus(-1)))
        assert make_runner(FakeEngine(on_load=fail)).run_next() == "failed"
        job = get(any_sessions, job_id)
        assert (job.status, job.error_code) == (Status.QUEUED, "unavailable")
        assert item(any_sessions, job_id).attempts_counted == 0
    with any_sessions.begin() as session:
        session.execute(update(WorkItem).values(run_after=now_plus(-1)))
    assert make_runner().run_next() == "succeeded"


def test_endless_outage_fails_the_job(
    settings: Settings,
    any_sessions: Sessions,
    add_job: Callable[[], UUID],
    make_runner: Callable[..., Runner],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.runner.OUTAGE_ATTEMPTS", 2)
    job_id = add_job()

    def fail() -> None:
        raise StorageUnavailable("Access denied.")

    for _ in range(1 + settings.max_attempts):
        with any_sessions.begin() as session:
            session.execute(update(WorkItem).values(run_after=now_plus(-1)))
        assert make_runner(FakeEngine(on_load=fail)).run_next() == "failed"
    job = get(any_sessions, job_id)
    assert (job.status, job.error_code, job.error_detail) == (Status.FAILED, "unavailable", "Access denied.")


class AwayDatabase:
    """Return sessions of a database that fails at some transactions, before or after they take effect."""

    def __init__(self, sessions: Sessions, *, before: int = 0, after: int = 0) -> None:
        self.sessions, self.before, self.after = sessions, before, after
        self.broken = 0

    def __call__(self) -> Session:
        return self.sessions()

    @contextmanager
    def begin(self) -> Iterator[Session]:
        gone = OperationalError("COMMIT", {}, Exception("server closed the connection"))
        if self.before > 0 and current_thread() is main_thread():
            self.before -= 1
            self.broken += 1
            raise gone
        with self.sessions.begin() as session:
            yield session
        if self.after > 0 and current_thread() is main_thread():
            self.after -= 1
            self.broken += 1
            raise gone


@pytest.mark.parametrize("fault", ["before", "after"])
def test_completion_during_a_database_outage_happens_once(
    any_sessions: Sessions,
    storage: ObjectStorage,
    add_job: Callable[[], UUID],
    make_runner: Callable[..., Runner],
    fault: str,
) -> None:
    """Even if the commit took effect and only seems to have failed, the results must not be discarded."""
    job_id, database = add_job(), AwayDatabase(any_sessions)

    def break_it() -> None:
        setattr(database, fault, 2)

    runner = make_runner(FakeEngine(on_half=break_it), sessions=database)
    assert runner.run_next() == "succeeded"
    assert database.broken == 2
    job = get(any_sessions, job_id)
    assert (job.status, job.attempts) == (Status.SUCCEEDED, 1)
    assert storage.size(job.artifacts[0]["key"]) > 0


def test_worker_waits_for_the_database(
    any_sessions: Sessions, add_job: Callable[[], UUID], make_runner: Callable[..., Runner]
) -> None:
    add_job()
    database = AwayDatabase(any_sessions, before=2)
    assert make_runner(sessions=database).run_next() == "succeeded"
    assert database.broken == 2


def test_each_out_of_memory_error_halves_the_batch_again(
    settings: Settings,
    any_sessions: Sessions,
    add_job: Callable[[], UUID],
    make_runner: Callable[..., Runner],
) -> None:
    add_job()
    failures = [MemoryError(), MemoryError()]

    def fail_at_first() -> None:
        if failures:
            raise failures.pop()

    engine = FakeEngine(on_half=fail_at_first)
    outcomes = []
    for _ in range(3):
        with any_sessions.begin() as session:
            session.execute(update(WorkItem).values(run_after=now_plus(-1)))
        outcomes.append(make_runner(engine).run_next())
    assert outcomes == ["failed", "failed", "succeeded"]
    assert (engine.halvings, engine.made_room) == ([0, 1, 2], 2)
    add_job()
    assert make_runner(engine).run_next() == "succeeded"
    assert engine.halvings[3] == 0, "another job asks for no less"


def test_a_job_that_always_fails_ends_after_its_attempts(
    settings: Settings,
    any_sessions: Sessions,
    add_job: Callable[[], UUID],
    make_runner: Callable[..., Runner],
) -> None:
    job_id = add_job()

    def fail() -> None:
        raise ZeroDivisionError

    for _ in range(settings.max_attempts):
        with any_sessions.begin() as session:
            session.execute(update(WorkItem).values(run_after=now_plus(-1)))
        assert make_runner(FakeEngine(on_load=fail)).run_next() == "failed"
    assert get(any_sessions, job_id).status is Status.FAILED
    assert make_runner().run_next() is None


def test_results_of_a_newer_database_are_neither_overwritten_nor_removed(
    any_sessions: Sessions, storage: ObjectStorage, add_job: Callable[[], UUID], make_runner: Callable[..., Runner]
) -> None:
    """Storage may be newer than the database: it was restored from a backup of before these attempts."""
    first, canceled = add_job(), add_job()
    newer = [f"results/{first}/1/notes.json", f"shards/{first}/2/0/audio", f"results/{canceled}/1/notes.json"]
    for key in newer:
        storage.put(key, io.BytesIO(b"newer"), content_type="application/json")
    make_runner().drain()
    assert get(any_sessions, first).status is Status.SUCCEEDED
    assert {artifact["key"].split("/")[2] for artifact in get(any_sessions, first).artifacts} == {"3"}
    for key in newer:
        with storage.open(key) as content:
            assert content.read() == b"newer"
    with any_sessions() as session:
        attempts = session.scalars(
            select(Attempt.outcome).join(WorkItem, WorkItem.id == Attempt.item_id).where(WorkItem.job_id == first)
        )
        assert sorted(map(str, attempts)) == ["released", "released", "succeeded"]
    assert item(any_sessions, first).attempts_counted == 1


def test_stopping_worker_releases_its_job_uncounted(
    any_sessions: Sessions, add_job: Callable[[], UUID], make_runner: Callable[..., Runner]
) -> None:
    job_id, stopping = add_job(), threading.Event()
    assert make_runner(FakeEngine(on_half=stopping.set), stopping=stopping).run_next() == "released"
    assert get(any_sessions, job_id).status is Status.QUEUED
    assert item(any_sessions, job_id).attempts_counted == 0
    assert make_runner(stopping=stopping).run_next() is None, "no new claim while ending"
    assert make_runner().run_next() == "succeeded"
