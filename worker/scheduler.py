"""The scheduler: rescues items of dead workers, announces work that is due, removes expired files.

`python -m worker.scheduler`. Any number may run; a lock in the database makes one of them active, and another
takes over when it dies. Every step is one guarded statement, so that two processes that both believe to hold the
lock do no harm, and no essential state is kept in memory: kill it at any point and start it again.
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
from shared.metrics import serve_metrics
from shared.queue import QUEUE_NAME, CeleryQueue, JobQueue, make_celery
from shared.storage import make_storage
from worker.scheduler_metrics import ATTEMPTS_EXHAUSTED, LEASES_EXPIRED, QueueCollector
from worker.steps import Steps
from worker.sweeper import Sweeper

log = get_logger(__name__)

LOCK_SECONDS = 5.0  # how long no process schedules after the active one was killed
MESSAGES = 100  # at most, in the list: enough to wake this many idle threads at each tick
SWEEP_SECONDS = 30.0
SWEEPER_LOCK_SECONDS = 120.0  # longer than the longest wait for storage


@dataclass
class Scheduler:
    """Runs all steps at each `tick`, unless another process holds the lock."""

    settings: Settings
    sessions: Sessions
    queue: JobQueue
    redis: Redis
    lock: DatabaseLock
    lock_seconds: float = LOCK_SECONDS
    _steps: Steps = field(default_factory=Steps, init=False)
    _held: float = field(default=float("-inf"), init=False)

    def tick(self) -> None:
        """Rescue, then announce. A step that fails is tried again at the next tick."""
        for step in (self._rescue_if_active, self._announce_if_active):
            self._steps.run(step)

    def rescue(self) -> None:
        """Rescue items whose lease expired or that make no progress."""
        requeued, failed = work.rescue(
            self.sessions,
            max_attempts=self.settings.max_attempts,
            stall_seconds=self.settings.stall_seconds,
        )
        for item in requeued:
            LEASES_EXPIRED.labels(item.kind).inc()
            log.warning("lease_expired", job_id=str(item.job_id), kind=item.kind, number=item.number)
        for item in failed:
            ATTEMPTS_EXHAUSTED.labels(item.kind).inc()
            log.error("attempts_exhausted", job_id=str(item.job_id), kind=item.kind, number=item.number)

    def announce(self) -> None:
        """Add messages until there are as many as items due; the fate of earlier messages does not matter."""
        with self.sessions() as session:
            due = work.count_due(session)
        if due:
            for _ in range(min(due, MESSAGES) - int(self.redis.llen(QUEUE_NAME))):
                self.queue.notify()

    def _rescue_if_active(self) -> None:
        if self._is_active():
            self.rescue()

    def _announce_if_active(self) -> None:
        if self._is_active():
            self.announce()

    def _is_active(self) -> bool:
        """Return True if this process holds the lock, which it renews after a third of the lease."""
        if time.monotonic() - self._held < self.lock_seconds / 3:
            return True
        asked = time.monotonic()
        if not self.lock.hold():
            return False
        self._held = asked
        return True


def main() -> None:
    """Tick until a signal stops the process."""
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
    serve_metrics(settings, QueueCollector(settings, sessions))
    if not startup.wait_for("database", lambda: startup.check_database(sessions), stopping):
        return
    # Redis may start later: items are rescued without it, and announced once it is available.
    # Sweeping waits for storage, which may be slow: it has its own thread.
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
