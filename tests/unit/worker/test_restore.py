"""An older database over today's storage: the orphan sweep keeps every file that a lost or newer job may need."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import func, insert, select

from shared import jobs
from shared.config import Settings
from shared.db import Sessions, make_engine, make_sessions
from shared.jobs import NewJob
from shared.locks import DatabaseLock
from shared.storage import LocalStorage, make_storage, upload_prefix
from shared.tables import Job, Watch
from shared.watches import MARGIN, Watcher, list_watches, trust_all, was_watched
from tests import backups, servers
from worker.sweeper import Sweeper

HOUR = timedelta(hours=1)


@pytest.fixture
def storage(settings: Settings) -> LocalStorage:
    storage = make_storage(settings)
    assert isinstance(storage, LocalStorage)
    return storage


def sweep(settings: Settings, sessions: Sessions, storage: LocalStorage) -> Sweeper:
    """Sweep as a new process does, for which every file is old."""
    eager = settings.model_copy(update={"orphan_hours": -1.0})
    sweeper = Sweeper(eager, sessions, storage, DatabaseLock(sessions, "sweeper", holder="a", lease_seconds=60))
    sweeper.tick()
    return sweeper


def submit(sessions: Sessions, storage: LocalStorage) -> UUID:
    """Store a recording and create its job, as the web process does: in this order."""
    job_id = uuid4()
    key = upload_prefix(job_id) + "audio"
    storage.put(key, io.BytesIO(b"x"), content_type="audio/wav")
    jobs.create_job(sessions, NewJob(job_id, "public", "basic_pitch", {}, {}, None, key, 1))
    return job_id


def uploads(storage: LocalStorage) -> set[str]:
    return {entry.key.split("/")[1] for entry in storage.list_objects("uploads/")}


def watch(sessions: Sessions, since: datetime, until: datetime) -> None:
    with sessions.begin() as session:
        session.execute(insert(Watch).values(id=uuid4(), since=since, until=until))


@contextmanager
def empty_database(url: str, folder: Path) -> Iterator[str]:
    """Make another database of the same kind; yield its URL."""
    if url.startswith("sqlite"):
        yield f"sqlite:///{folder / 'elsewhere.sqlite3'}"
        return
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS elsewhere WITH (FORCE)")
        connection.execute("CREATE DATABASE elsewhere")
        yield url.rsplit("/", 1)[0] + "/elsewhere"
        connection.execute("DROP DATABASE elsewhere WITH (FORCE)")


@contextmanager
def load(sessions: Sessions, storage: LocalStorage) -> Iterator[list[UUID]]:
    """Submit jobs from three clients during the block; yield the list of what was accepted."""
    accepted: list[UUID] = []
    ending = threading.Event()

    def keep_submitting() -> None:
        while not ending.is_set():
            accepted.append(submit(sessions, storage))

    clients = [threading.Thread(target=keep_submitting) for _ in range(3)]
    for client in clients:
        client.start()
    try:
        yield accepted
    finally:
        ending.set()
        for client in clients:
            client.join()


def test_backup_taken_under_load_and_restored_over_todays_storage_loses_no_file(
    settings: Settings, any_sessions: Sessions, storage: LocalStorage, tmp_path: Path
) -> None:
    sweep(settings, any_sessions, storage)
    bound = any_sessions.kw["bind"].url
    url = bound.set(drivername=bound.get_backend_name()).render_as_string(hide_password=False)
    with load(any_sessions, storage) as accepted:
        servers.wait_until(lambda: len(accepted) >= 30, seconds=60)
        backups.dump(url, tmp_path / "backup")
        count = len(accepted)
        servers.wait_until(lambda: len(accepted) >= count + 10, seconds=60)
    with empty_database(url, tmp_path) as elsewhere:
        backups.restore(tmp_path / "backup", elsewhere)
        engine = make_engine(settings.model_copy(update={"database_url": elsewhere}))
        restored = make_sessions(engine)
        with restored() as session:
            known = session.scalar(select(func.count()).select_from(Job)) or 0
        assert 30 <= known < len(accepted), "the backup is older than the storage"
        sweep(settings, restored, storage)
        assert uploads(storage) == {str(job_id) for job_id in accepted}
        sweep(settings, any_sessions, storage)  # the newer database turns up again
        assert uploads(storage) == {str(job_id) for job_id in accepted}

        with restored.begin() as session:
            trust_all(session)  # the operator gives the lost jobs up
        sweep(settings, restored, storage)
        assert len(uploads(storage)) == known
        engine.dispose()


def test_new_database_over_an_old_storage_removes_nothing(
    settings: Settings, sessions: Sessions, storage: LocalStorage
) -> None:
    storage.put(upload_prefix(uuid4()) + "audio", io.BytesIO(b"x"), content_type="audio/wav")
    assert sweep(settings, sessions, storage)._search.kept == 1
    assert len(uploads(storage)) == 1


NOW = datetime.now(UTC)


@pytest.mark.parametrize(
    ("written", "is_watched"),
    [
        (NOW - 50 * HOUR, False),  # before the first scheduler
        (NOW - 30 * HOUR, True),
        (NOW - 20 * HOUR - MARGIN / 2, False),  # its row may have been committed after a backup at the end
        (NOW - 15 * HOUR, False),  # between backup and restart
        (NOW - 5 * HOUR, True),
    ],
)
def test_files_of_a_time_that_was_watched_are_known(
    sessions: Sessions, written: datetime, is_watched: bool
) -> None:
    watch(sessions, NOW - 40 * HOUR, NOW - 20 * HOUR)
    watch(sessions, NOW - 10 * HOUR, NOW)
    with sessions() as session:
        assert was_watched(written, list_watches(session)) is is_watched


def test_one_process_extends_its_period_and_another_begins_one(any_sessions: Sessions) -> None:
    first, second = Watcher(), Watcher()
    for watcher in (first, first, second, first):
        with any_sessions.begin() as session:
            watcher.record(session)
    with any_sessions() as session:
        assert session.scalar(select(func.count()).select_from(Watch)) == 2


@pytest.mark.parametrize("change", [lambda row: row.until - HOUR, None])
def test_period_begins_anew_where_the_database_was_replaced_under_a_running_process(
    sessions: Sessions, change: Callable[[Watch], datetime] | None
) -> None:
    watcher = Watcher()
    with sessions.begin() as session:
        watcher.record(session)
    with sessions.begin() as session:
        row = session.scalars(select(Watch)).one()
        if change is None:
            session.delete(row)  # a backup from before this process
        else:
            row.until = change(row)  # from an hour ago
    with sessions.begin() as session:
        watcher.record(session)
    with sessions() as session:
        newest = session.scalars(select(Watch).order_by(Watch.until.desc())).first()
    assert newest is not None
    assert newest.since == newest.until
