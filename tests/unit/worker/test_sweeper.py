"""Expired jobs and old orphans are removed, and everything else is kept."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import insert, select, update

from shared import jobs, work
from shared.config import Settings
from shared.db import Sessions, now_plus
from shared.errors import ObjectMissing, RecordingRemoved, StorageUnavailable
from shared.jobs import NewJob
from shared.kinds import Result
from shared.locks import DatabaseLock
from shared.quotas import count_stored_bytes
from shared.storage import LocalStorage, ObjectStorage, make_storage, result_prefix, upload_prefix
from shared.tables import Job, Status, Worker
from shared.watches import trust_all
from tests.unit.shared.test_storage import s3_settings
from tests.work import expire_lease, must_claim, rescue
from worker.sweeper import Sweeper

DAYS = 86400


@pytest.fixture
def storage(settings: Settings) -> ObjectStorage:
    return make_storage(settings)


def make_sweeper(settings: Settings, sessions: Sessions, storage: ObjectStorage, holder: str = "a") -> Sweeper:
    """Return a sweeper that has watched storage all the time."""
    lock = DatabaseLock(sessions, "sweeper", holder=holder, lease_seconds=60)
    with sessions.begin() as session:
        trust_all(session)
    return Sweeper(settings=settings, sessions=sessions, storage=storage, lock=lock)


def put(storage: ObjectStorage, key: str) -> None:
    storage.put(key, io.BytesIO(b"x"), content_type="audio/wav")


def add_job(sessions: Sessions, storage: ObjectStorage) -> UUID:
    job_id = uuid4()
    key = upload_prefix(job_id) + "audio"
    put(storage, key)
    jobs.create_job(sessions, NewJob(job_id, "public", "basic_pitch", {}, {}, None, key, 1))
    return job_id


def succeed(sessions: Sessions, storage: ObjectStorage, job_id: UUID, attempts: int) -> None:
    """Complete a job whose attempts but the last are lost after they have stored results."""
    for attempt in range(1, attempts + 1):
        claim = must_claim(sessions, job_id)
        key = result_prefix(job_id, claim.attempt) + "notes.json"
        put(storage, key)
        if attempt < attempts:
            expire_lease(sessions, claim)
            rescue(sessions)
    with sessions.begin() as session:
        result = Result(artifacts=[{"name": "notes.json", "key": key}], note_count=1, audio_seconds=1)
        assert work.complete(session, claim, result=result)


def keys(storage: ObjectStorage) -> set[str]:
    return {entry.key for top in ("uploads/", "results/") for entry in storage.list_objects(top)}


def test_old_jobs_and_their_files_are_removed(
    settings: Settings, any_sessions: Sessions, storage: ObjectStorage
) -> None:
    settings = settings.model_copy(update={"lease_seconds": 1e-9})
    sweeper, job_id = make_sweeper(settings, any_sessions, storage), add_job(any_sessions, storage)
    kept = add_job(any_sessions, storage)
    with any_sessions.begin() as session:
        old = update(Job).where(Job.id == job_id)
        session.execute(old.values(status=Status.SUCCEEDED, finished_at=now_plus(-31 * DAYS)))
    sweeper.tick()
    sweeper.tick()
    with any_sessions() as session:
        assert [job.id for job in jobs.list_jobs(session, "public")[0]] == [kept]
    assert keys(storage) == {f"uploads/{kept}/audio"}


def test_workers_that_are_long_gone_are_removed_from_the_registry(
    settings: Settings, any_sessions: Sessions, storage: ObjectStorage
) -> None:
    with any_sessions.begin() as session:
        for name, age in (("gone", 2 * DAYS), ("here", 1)):
            session.execute(insert(Worker).values(name=name, seen_at=now_plus(-age)))
    make_sweeper(settings, any_sessions, storage).tick()
    with any_sessions() as session:
        assert session.scalars(select(Worker.name)).all() == ["here"]


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.integration)])
def either_storage(request: pytest.FixtureRequest, storage: ObjectStorage, tmp_path: Path) -> ObjectStorage:
    if request.param == "local":
        return storage
    return make_storage(s3_settings(request.getfixturevalue("s3_url"), prefix=tmp_path.name))


def test_only_old_orphans_are_removed(
    settings: Settings, sessions: Sessions, either_storage: ObjectStorage
) -> None:
    storage = either_storage
    waiting, done, running, unknown = (
        add_job(sessions, storage),
        add_job(sessions, storage),
        add_job(sessions, storage),
        uuid4(),
    )
    succeed(sessions, storage, done, attempts=3)
    must_claim(sessions, running)
    in_use = {f"uploads/{job_id}/audio" for job_id in (waiting, done, running)}
    in_use |= {f"results/{done}/3/notes.json", f"results/{running}/1/transcription.mid"}
    put(storage, f"results/{running}/1/transcription.mid")
    put(storage, "results/read.me")  # a foreign key
    put(storage, f"results/{done}/notes-of-another-kind")
    in_use |= {"results/read.me", f"results/{done}/notes-of-another-kind"}
    orphans = {f"uploads/{unknown}/audio", f"results/{unknown}/7/x", f"results/{unknown}/more"}
    for key in orphans:
        put(storage, key)
    orphans |= {f"results/{done}/1/notes.json", f"results/{done}/2/notes.json"}

    assert keys(storage) == in_use | orphans
    make_sweeper(settings, sessions, storage).remove_orphans()
    assert keys(storage) == in_use | orphans, "young ones may be in the making"
    time.sleep(1.1)  # S3 servers report times in seconds
    settings = settings.model_copy(update={"orphan_hours": 1e-9})
    make_sweeper(settings, sessions, storage).remove_orphans()
    assert keys(storage) == in_use


def test_parts_of_an_unfinished_write_are_removed(
    settings: Settings, sessions: Sessions, storage: ObjectStorage
) -> None:
    assert isinstance(storage, LocalStorage)
    job_id = add_job(sessions, storage)
    part = storage.root / f"uploads/{job_id}/.part-abc"
    part.write_bytes(b"half")
    sweeper = make_sweeper(settings, sessions, storage)
    sweeper.remove_orphans()
    assert part.exists()
    os.utime(part, (0, 0))
    sweeper.remove_orphans()
    assert not part.exists()
    assert keys(storage) == {f"uploads/{job_id}/audio"}


def test_a_second_sweeper_leaves_the_work_to_the_first(
    settings: Settings, sessions: Sessions, storage: ObjectStorage
) -> None:
    settings = settings.model_copy(update={"orphan_hours": 1e-9})
    put(storage, f"uploads/{uuid4()}/audio")
    lock = DatabaseLock(sessions, "sweeper", holder="another", lease_seconds=60)
    assert lock.hold()
    sweeper = make_sweeper(settings, sessions, storage)
    sweeper.tick()
    assert len(keys(storage)) == 1
    lock.release()
    sweeper.tick()
    assert keys(storage) == set()


def test_unavailable_storage_stops_the_sweep_but_not_the_sweeper(
    settings: Settings, sessions: Sessions, storage: ObjectStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise StorageUnavailable("Storage does not answer.")

    job_id = add_job(sessions, storage)
    settings = settings.model_copy(update={"lease_seconds": 1e-9})
    sweeper = make_sweeper(settings, sessions, storage)
    with sessions.begin() as session:
        jobs.delete_job(session, "public", job_id)
    monkeypatch.setattr(storage, "delete_prefix", fail)
    monkeypatch.setattr(storage, "delete_unfinished", fail)
    sweeper.tick()
    assert len(keys(storage)) == 1
    monkeypatch.undo()
    sweeper.tick()
    with pytest.raises(ObjectMissing):
        storage.size(f"uploads/{job_id}/audio")


def test_recordings_go_before_results_unless_another_job_uses_them(
    settings: Settings, any_sessions: Sessions, storage: ObjectStorage
) -> None:
    settings = settings.model_copy(update={"upload_ttl_days": 7.0, "lease_seconds": 1e-9})
    old, shared, young = (add_job(any_sessions, storage) for _ in range(3))
    for job_id in (old, shared, young):
        succeed(any_sessions, storage, job_id, attempts=1)
    with any_sessions.begin() as session:
        aged = update(Job).where(Job.id.in_((old, shared)))
        session.execute(aged.values(finished_at=now_plus(-8 * DAYS)))
        session.execute(update(Job).where(Job.id == young).values(recording_id=shared))
    sweeper = make_sweeper(settings, any_sessions, storage)
    sweeper.tick()
    sweeper.tick()
    found = keys(storage)
    assert f"uploads/{old}/audio" not in found
    with any_sessions() as session:
        assert count_stored_bytes(session, "public") == 1, "quotas count what is still there"
    assert f"uploads/{shared}/audio" in found, "a younger job uses it"
    assert {f"results/{job_id}/1/notes.json" for job_id in (old, shared, young)} <= found


def test_job_without_its_recording_is_not_retried(any_sessions: Sessions, storage: ObjectStorage) -> None:
    job_id = add_job(any_sessions, storage)
    with any_sessions.begin() as session:
        session.execute(
            update(Job).where(Job.id == job_id).values(status=Status.FAILED, upload_removed_at=now_plus())
        )
    with pytest.raises(RecordingRemoved), any_sessions.begin() as session:
        jobs.retry_job(session, "public", job_id)
    with any_sessions() as session:
        assert jobs.get_job(session, "public", job_id).status is Status.FAILED
