"""The scheduler's tick: takes back what is lost, rings what waits, and does it once however many tick."""

from __future__ import annotations

from uuid import UUID

import pytest
from redis import Redis
from sqlalchemy import update
from uuid6 import uuid7

from shared import jobs
from shared.config import Settings
from shared.db import Sessions, now_plus
from shared.jobs import NewJob
from shared.locks import DatabaseLock
from shared.queue import QUEUE_NAME, InMemoryQueue
from shared.tables import Job, Lock, Status
from worker.scheduler import Scheduler


def add_job(sessions: Sessions) -> UUID:
    job_id = UUID(str(uuid7()))
    new = NewJob(job_id, "public", "basic_pitch", {}, {}, None, f"uploads/{job_id}/audio", 5)
    return jobs.create_job(sessions, new)[0].id


def make_scheduler(
    settings: Settings, sessions: Sessions, redis_url: str | None = None, *, holder: str = "a"
) -> Scheduler:
    return Scheduler(
        settings=settings,
        sessions=sessions,
        queue=InMemoryQueue(),
        redis=Redis.from_url(redis_url or settings.redis_url),
        lock=DatabaseLock(sessions, "scheduler", holder=holder, lease_seconds=60),
        lock_seconds=0,  # asks for the lock at every step
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


def test_of_two_schedulers_one_works_and_the_other_takes_over(settings: Settings, any_sessions: Sessions) -> None:
    one = make_scheduler(settings, any_sessions)
    other = make_scheduler(settings, any_sessions, holder="b")
    first = add_job(any_sessions)
    one.tick()
    other.tick()
    assert (rung(one), rung(other)) == ([first], [])
    with any_sessions.begin() as session:  # the first one was killed a lease ago
        session.execute(update(Lock).values(until=now_plus(-1)))
    second = add_job(any_sessions)
    other.tick()
    one.tick()
    assert (rung(one), rung(other)) == ([], [second])


def test_two_schedulers_that_both_believe_to_be_alone_do_no_harm(
    settings: Settings, any_sessions: Sessions
) -> None:
    """As after a pause: the lock is gone, and its holder does not know."""
    one = make_scheduler(settings, any_sessions)
    other = make_scheduler(settings, any_sessions, holder="b")
    job_id = add_job(any_sessions)
    with any_sessions.begin() as session:
        jobs.claim_job(session, job_id, worker="dead", lease_seconds=-1, max_attempts=3)
    for scheduler in (one, other):
        scheduler.reap()
        scheduler.ring()
    assert rung(one) + rung(other) == [job_id]
    with any_sessions() as session:
        assert jobs.get_job(session, "public", job_id).attempts_charged == 1


def test_a_job_that_waits_and_has_no_attempt_left_has_failed(settings: Settings, any_sessions: Sessions) -> None:
    scheduler, job_id = make_scheduler(settings, any_sessions), add_job(any_sessions)
    with any_sessions.begin() as session:  # queued when more attempts were allowed
        session.execute(update(Job).values(attempts_charged=settings.max_attempts, error_code="unavailable"))
    scheduler.tick()
    with any_sessions() as session:
        job = jobs.get_job(session, "public", job_id)
    assert (job.status, job.error_code, job.error_detail) == (
        Status.FAILED,
        "unavailable",
        "All attempts are used up.",
    )
    assert rung(scheduler) == []


@pytest.mark.integration
def test_a_long_queue_is_not_rung_for_again_while_its_messages_are_there(
    settings: Settings, sessions: Sessions, redis_url: str
) -> None:
    settings = settings.model_copy(update={"ring_again_seconds": 1e-9})
    scheduler = make_scheduler(settings, sessions, redis_url)
    scheduler.redis.flushall()
    ids = [add_job(sessions) for _ in range(3)]
    scheduler.tick()
    assert rung(scheduler) == ids
    scheduler.redis.rpush(QUEUE_NAME, "message", "message", "message")
    scheduler.tick()
    assert rung(scheduler) == []
    scheduler.redis.lpop(QUEUE_NAME)  # one was lost, and nobody knows which
    scheduler.tick()
    assert rung(scheduler) == ids
    scheduler.redis.flushall()
    scheduler.redis.close()
