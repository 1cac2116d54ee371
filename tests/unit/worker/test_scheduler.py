"""The scheduler's tick: it rescues lost items, announces due ones, and is safe to run concurrently."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import pytest
from redis import Redis
from sqlalchemy import update

from shared import jobs
from shared.config import Settings
from shared.db import Sessions, now_plus
from shared.locks import DatabaseLock
from shared.queue import QUEUE_NAME, CeleryQueue, make_celery
from shared.tables import Lock, Status
from tests.work import add_job, change_items, item, must_claim
from worker.scheduler import Scheduler


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    """An empty Redis."""
    with Redis.from_url(redis_url) as redis:
        redis.flushall()
        yield redis
        redis.flushall()


def make_scheduler(settings: Settings, sessions: Sessions, redis_url: str, *, holder: str = "a") -> Scheduler:
    settings = settings.model_copy(update={"redis_url": redis_url})
    return Scheduler(
        settings=settings,
        sessions=sessions,
        queue=CeleryQueue(make_celery(settings)),
        redis=Redis.from_url(redis_url),
        lock=DatabaseLock(sessions, "scheduler", holder=holder, lease_seconds=60),
        lock_seconds=0,  # acquires the lock at every step
    )


def lose(sessions: Sessions, job_id: UUID) -> None:
    """Create a job that was claimed by a worker that has died."""
    must_claim(sessions, job_id, worker="dead", lease_seconds=-1)


@pytest.mark.integration
def test_list_of_messages_is_filled_up_to_the_number_of_due_items(
    settings: Settings, any_sessions: Sessions, redis: Redis, redis_url: str
) -> None:
    """Messages may be lost, duplicated or read: only their number counts."""
    scheduler = make_scheduler(settings, any_sessions, redis_url)
    scheduler.tick()
    assert redis.llen(QUEUE_NAME) == 0, "nothing is due"
    later = add_job(any_sessions)
    change_items(any_sessions, later, run_after=now_plus(60))
    for _ in range(3):
        add_job(any_sessions)
    for taken in (3, 0, 1, 2):
        redis.lpop(QUEUE_NAME, taken)
        scheduler.tick()
        assert redis.llen(QUEUE_NAME) == 3
    redis.flushall()
    scheduler.tick()
    assert redis.llen(QUEUE_NAME) == 3
    redis.rpush(QUEUE_NAME, "doubled", "doubled")
    scheduler.tick()
    assert redis.llen(QUEUE_NAME) == 5, "too many are let be"


@pytest.mark.integration
def test_a_long_queue_has_a_short_list_of_messages(
    settings: Settings, sessions: Sessions, redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.scheduler.MESSAGES", 4)
    scheduler = make_scheduler(settings, sessions, redis_url)
    for _ in range(6):
        add_job(sessions)
    for _ in range(3):
        scheduler.tick()
        assert redis.llen(QUEUE_NAME) == 4


@pytest.mark.integration
def test_a_lost_workers_job_is_announced_in_the_same_tick(
    settings: Settings, any_sessions: Sessions, redis: Redis, redis_url: str
) -> None:
    scheduler = make_scheduler(settings, any_sessions, redis_url)
    lose(any_sessions, add_job(any_sessions))
    scheduler.tick()
    assert redis.llen(QUEUE_NAME) == 1


@pytest.mark.integration
def test_jobs_are_rescued_without_redis_and_announced_after_its_return(
    settings: Settings, sessions: Sessions, redis: Redis, redis_url: str
) -> None:
    job_id = add_job(sessions)
    lose(sessions, job_id)
    scheduler = make_scheduler(settings, sessions, "redis://127.0.0.1:1/0")
    scheduler.tick()
    with sessions() as session:
        assert jobs.get_job(session, "public", job_id).status is Status.QUEUED
    make_scheduler(settings, sessions, redis_url).tick()
    assert redis.llen(QUEUE_NAME) == 1


@pytest.mark.integration
def test_one_of_two_schedulers_is_active_and_the_other_takes_over(
    settings: Settings, any_sessions: Sessions, redis: Redis, redis_url: str
) -> None:
    one = make_scheduler(settings, any_sessions, redis_url)
    other = make_scheduler(settings, any_sessions, redis_url, holder="b")
    add_job(any_sessions)
    one.tick()
    redis.flushall()
    other.tick()
    assert redis.llen(QUEUE_NAME) == 0
    with any_sessions.begin() as session:  # the first one was killed a lease ago
        session.execute(update(Lock).values(until=now_plus(-1)))
    other.tick()
    assert redis.llen(QUEUE_NAME) == 1
    redis.flushall()
    one.tick()
    assert redis.llen(QUEUE_NAME) == 0


@pytest.mark.integration
def test_two_schedulers_that_both_believe_to_hold_the_lock_do_no_harm(
    settings: Settings, any_sessions: Sessions, redis: Redis, redis_url: str
) -> None:
    """As after a pause: the lock is lost, and its former holder does not know."""
    one = make_scheduler(settings, any_sessions, redis_url)
    other = make_scheduler(settings, any_sessions, redis_url, holder="b")
    job_id = add_job(any_sessions)
    lose(any_sessions, job_id)
    for scheduler in (one, other):
        scheduler.rescue()
        scheduler.announce()
    assert redis.llen(QUEUE_NAME) == 1
    assert item(any_sessions, job_id).attempts_counted == 1
