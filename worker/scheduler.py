"""The scheduler: takes jobs back from dead workers, announces work that is due, removes what is past its time.

`python -m worker.scheduler`. Any number may run; a lock in the database lets one of them work, and another one
go on when it dies. Every step is one guarded statement, so that two who both believe to have the lock do no
harm, and none keeps anything that matters in memory: kill it at any point and start it again.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import uuid4

from redis import Redis

from shared import startup, work
from shared.config import Settings, read_settings
from shared.db import Sessions, make_engine, make_sessions
from shared.locks import DatabaseLock
from shared.logs import configure_logs, get_logger
from shared.queue import QUEUE_NAME, CeleryQueue, JobQueue, make_celery
from shared.storage import make_storage
from worker.steps import Steps
from worker.sweeper import Sweeper

log = get_logger(__name__)

LOCK_SECONDS = 5.0  # how long no process schedules after the one that did was killed
MESSAGES = 100  # at most, in the list: enough to wake so many idle threads at each tick
SWEEP_SECONDS = 30.0
SWEEPER_LOCK_SECONDS = 120.0  # longer than the longest wait for storage


@dataclass
class Scheduler:
    """One `tick` does everything that is due, unless another process is at it."""

    settings: Settings
    sessions: Sessions
    queue: JobQueue
    redis: Redis
    lock: DatabaseLock
    lock_seconds: float = LOCK_SECONDS
    _steps: Steps = field(default_factory=Steps, init=False)
    _held: float = field(default=float("-inf"), init=False)

    def tick(self) -> None:
        """Rescue, then announce. What an unavailable dependency prevents is tried again at the next tick."""
        for step in (self._rescue_if_ours, self._announce_if_ours):
            self._steps.run(step)

    def rescue(self) -> None:
        """Take items back whose lease ran out or that stopped moving."""
        requeued, failed = work.rescue(
            self.sessions,
            max_attempts=self.settings.max_attempts,
            stall_seconds=self.settings.stall_seconds,
        )
        for item in requeued:
            log.warning("lease_expired", job_id=str(item.job_id), kind=item.kind, number=item.number)
        for item in failed:
            log.error("attempts_exhausted", job_id=str(item.job_id), kind=item.kind, number=item.number)

    def announce(self) -> None:
        """Top the list of messages up to the work that is due: what became of earlier messages does not matter."""
        with self.sessions() as session:
            due = work.count_due(session)
        if due:
            for _ in range(min(due, MESSAGES) - int(self.redis.llen(QUEUE_NAME))):
                self.queue.notify()

    def _rescue_if_ours(self) -> None:
        if self._is_ours():
            self.rescue()

    def _announce_if_ours(self) -> None:
        if self._is_ours():
            self.announce()

    def _is_ours(self) -> bool:
        """Whether this process is the one that schedules. Asked anew when a third of the lease is over."""
        if time.monotonic() - self._held < self.lock_seconds / 3:
            return True
        asked = time.monotonic()
        if not self.lock.hold():
            return False
        self._held = asked
        return True


def main() -> None:
    """Tick until a signal ends the process."""
    settings = read_settings()
    configure_logs(settings)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    sessions, storage = make_sessions(make_engine(settings)), make_storage(settings)
    holder = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
    lock_seconds = max(LOCK_SECONDS, 3 * settings.scheduler_seconds)
    scheduler = Scheduler(
        settings=settings,
        sessions=sessions,
        queue=CeleryQueue(make_celery(settings)),
        redis=startup.make_redis(settings),
        lock=DatabaseLock(sessions, "scheduler", holder=holder, lease_seconds=lock_seconds),
        lock_seconds=lock_seconds,
    )
    sweeper = Sweeper(
        settings=settings,
        sessions=sessions,
        storage=storage,
        lock=DatabaseLock(sessions, "sweeper", holder=holder, lease_seconds=SWEEPER_LOCK_SECONDS),
    )
    log.info("scheduler_started")
    if not startup.wait_for("database", lambda: startup.check_database(sessions), stopping):
        return
    # Redis may come later: jobs are taken back without it, and announced when it is there.
    # Sweeping waits for storage, which may be slow: it has a thread of its own.
    threading.Thread(
        target=_repeat, args=(sweeper.tick, SWEEP_SECONDS, stopping), name="sweeper", daemon=True
    ).start()
    _repeat(scheduler.tick, settings.scheduler_seconds, stopping)
    for lock in (scheduler.lock, sweeper.lock):
        Steps().run(lock.release)


def _repeat(tick: Callable[[], None], seconds: float, stopping: threading.Event) -> None:
    while not stopping.wait(seconds):
        tick()


if __name__ == "__main__":
    main()
