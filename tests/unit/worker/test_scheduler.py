"""The scheduler's tick: rings what waits, takes back what is lost, removes what is old."""

from __future__ import annotations

import io
from uuid import UUID

import pytest
from redis import Redis
from sqlalchemy import update
from uuid6 import uuid7

from shared import jobs
from shared.config import Settings
from shared.db import Sessions, now_plus
from shared.errors import ObjectMissing
from shared.jobs import NewJob
from shared.queue import InMemoryQueue
from shared.storage import make_storage
from shared.tables import Job, Status
from worker.scheduler import Scheduler


def add_job(sessions: Sessions) -> UUID:
    job_id = UUID(str(uuid7()))
    new = NewJob(job_id, "public", "basic_pitch", {}, {}, None, f"uploads/{job_id}/audio", 5)
    return jobs.create_job(sessions, new)[0].id


def make_scheduler(settings: Settings, sessions: Sessions, redis_url: str | None = None) -> Scheduler:
    return Scheduler(
        settings=settings,
        sessions=sessions,
        storage=make_storage(settings),
        queue=InMemoryQueue(),
        redis=Redis.from_url(redis_url or settings.redis_url),
    )


def rung(scheduler: Scheduler) -> list[UUID]:
    assert isinstance(scheduler.queue, InMemoryQueue)
    ids, scheduler.queue.job_ids = scheduler.queue.job_ids, []
    return ids


def test_a_row_that_nobody_rang_for_is_rung_for_once(settings: Settings, any_sessions: Sessions) -> None:
    scheduler, job_id = make_scheduler(settings, any_sessions), add_job(any_sessions)
    scheduler.tick()
    scheduler.tick()
    assert rung(scheduler) == [job_id]


def test_a_lost_workers_job_is_rung_for_in_the_same_tick(settings: Settings, any_sessions: Sessions) -> None:
    scheduler, job_id = make_scheduler(settings, any_sessions), add_job(any_sessions)
    with any_sessions.begin() as session:
        jobs.claim_job(session, job_id, worker="dead", lease_seconds=-1, max_attempts=3)
    scheduler.tick()
    assert rung(scheduler) == [job_id]


def test_a_ring_that_fails_is_tried_again_at_the_next_tick(
    settings: Settings, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler, ids = make_scheduler(settings, sessions), [add_job(sessions) for _ in range(3)]
    submitted: list[UUID] = []

    def submit(job_id: UUID) -> None:
        if len(submitted) == 1:
            raise ConnectionError("Redis is away")
        submitted.append(job_id)

    monkeypatch.setattr(scheduler.queue, "submit", submit)
    scheduler.tick()
    assert submitted == ids[:1]
    submitted.clear()
    submitted.append(ids[0])
    monkeypatch.undo()
    scheduler.tick()
    assert rung(scheduler) == ids[1:]


@pytest.mark.integration
def test_when_redis_lost_its_data_all_waiting_jobs_are_rung_for_again(
    settings: Settings, sessions: Sessions, redis_url: str
) -> None:
    scheduler, job_id = make_scheduler(settings, sessions, redis_url), add_job(sessions)
    scheduler.tick()
    scheduler.tick()
    assert rung(scheduler) == [job_id]
    scheduler.redis.flushall()
    scheduler.tick()
    assert rung(scheduler) == [job_id]
    scheduler.redis.close()


def test_housekeeping_removes_old_jobs_and_their_files(settings: Settings, sessions: Sessions) -> None:
    settings = settings.model_copy(update={"lease_seconds": 1e-9})
    scheduler, job_id = make_scheduler(settings, sessions), add_job(sessions)
    scheduler.storage.put(f"uploads/{job_id}/audio", io.BytesIO(b"x"), content_type="audio/wav")
    with sessions.begin() as session:
        session.execute(update(Job).values(status=Status.SUCCEEDED, finished_at=now_plus(-31 * 86400)))
    scheduler.keep_house()
    with sessions() as session:
        assert jobs.list_jobs(session, "public")[0] == []
    scheduler.keep_house()
    with pytest.raises(ObjectMissing):
        scheduler.storage.size(f"uploads/{job_id}/audio")
