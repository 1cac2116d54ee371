"""The scheduler: rings for jobs that wait, takes jobs back from dead workers, removes what is past its time.

`python -m worker.scheduler`. Every step is one guarded statement, so a second scheduler does no harm, and none
keeps anything that matters in memory: kill it at any point and start it again.
"""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import dataclass, field
from uuid import uuid4

from redis import Redis
from redis.exceptions import RedisError

from shared import jobs, shards
from shared.config import Settings, read_settings
from shared.db import Sessions, make_engine, make_sessions
from shared.errors import ServiceError
from shared.logs import configure_logs, get_logger
from shared.queue import GENERATION_KEY, CeleryQueue, JobQueue, make_celery
from shared.storage import ObjectStorage, make_storage

log = get_logger(__name__)

HOUSEKEEPING_SECONDS = 30.0


@dataclass
class Scheduler:
    """One `tick` does everything that is due."""

    settings: Settings
    sessions: Sessions
    storage: ObjectStorage
    queue: JobQueue
    redis: Redis
    _housekept: float = field(default=float("-inf"), init=False)

    def tick(self) -> None:
        """Reap, ring, and now and then clean up. A part that is away is logged, and tried at the next tick."""
        for step in (self.reap, self.ring, self._keep_house_when_due):
            try:
                step()
            except Exception as error:
                log.warning("scheduler_step_failed", step=step.__name__, error=str(error).splitlines()[:1])

    def reap(self) -> None:
        """Take back jobs whose lease ran out or that stopped moving."""
        with self.sessions.begin() as session:
            requeued, failed = jobs.reap_jobs(
                session,
                max_attempts=self.settings.max_attempts,
                stall_seconds=self.settings.stall_seconds,
            )
            again, poisoned = shards.reap_shards(
                session,
                max_attempts=self.settings.max_attempts,
                stall_seconds=self.settings.stall_seconds,
            )
        for job_id, number in again:
            log.warning("lease_expired", job_id=str(job_id), shard=number)
        failed += poisoned
        for job_id in requeued:
            log.warning("lease_expired", job_id=str(job_id))
        for job_id in failed:
            log.error("attempts_used_up", job_id=str(job_id))

    def ring(self) -> None:
        """Ring once for each job and each shard that is due and that nobody was told of."""
        if self._redis_lost_its_data():
            with self.sessions.begin() as session:
                jobs.forget_rings(session)
                shards.forget_rings(session)
        with self.sessions.begin() as session:
            waiting = jobs.take_unrung(session, ring_again_seconds=self.settings.ring_again_seconds)
        for number, job_id in enumerate(waiting):
            try:
                self.queue.submit(job_id)
            except Exception:
                with self.sessions.begin() as session:
                    jobs.forget_rings(session, waiting[number:])
                raise
        with self.sessions.begin() as session:
            parts = shards.take_unrung(session, ring_again_seconds=self.settings.ring_again_seconds)
        for number, (job_id, _) in enumerate(parts):
            try:
                self.queue.submit(job_id)
            except Exception:
                with self.sessions.begin() as session:
                    shards.forget_rings(session, parts[number:])
                raise

    def keep_house(self) -> None:
        """Delete expired jobs, and the files of deleted ones once no worker can still be writing them."""
        with self.sessions.begin() as session:
            expired = jobs.expire_jobs(session, ttl_days=self.settings.result_ttl_days)
        if expired:
            log.info("jobs_expired", count=len(expired))
        with self.sessions() as session:
            garbage = jobs.list_garbage(session, older_than_seconds=2 * self.settings.lease_seconds)
        for prefix in garbage:
            try:
                self.storage.delete_prefix(prefix)
            except ServiceError as error:
                log.warning("garbage_left", prefix=prefix, error=str(error))
                return
            with self.sessions.begin() as session:
                jobs.forget_garbage(session, prefix)

    def _keep_house_when_due(self) -> None:
        if time.monotonic() - self._housekept >= HOUSEKEEPING_SECONDS:
            self._housekept = time.monotonic()
            self.keep_house()

    def _redis_lost_its_data(self) -> bool:
        try:
            return bool(self.redis.set(GENERATION_KEY, uuid4().hex, nx=True))
        except RedisError:
            return False  # away, not emptied: publishing will say so


def main() -> None:
    """Tick until told to stop."""
    settings = read_settings()
    configure_logs(settings)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    scheduler = Scheduler(
        settings=settings,
        sessions=make_sessions(make_engine(settings)),
        storage=make_storage(settings),
        queue=CeleryQueue(make_celery(settings)),
        redis=Redis.from_url(settings.redis_url, socket_timeout=5, socket_connect_timeout=2),
    )
    log.info("scheduler_started")
    while not stopping.wait(settings.scheduler_seconds):
        scheduler.tick()


if __name__ == "__main__":
    main()
