"""Announcements: a message means that there is work, never which. A lost one costs about a second.

A worker that receives one claims work until nothing is due, and the scheduler keeps as many messages in the list
as items are due. Lost, duplicate and late messages and an emptied list are thus one case, and no state is kept
about what was announced.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol

from celery import Celery
from kombu.transport import TRANSPORT_ALIASES

from shared.config import Settings
from shared.logs import get_logger

WAKE_TASK = "mt3.wake"
OLD_TASK = "mt3.transcribe"  # sent by earlier versions, with a job's id; treated as a wake
QUEUE_NAME = "mt3"  # the key of the list in Redis, too
BURST = 4  # announcements at a time, and the pause after them, of a process that has many to send
BURST_SECONDS = 0.05

log = get_logger(__name__)


class JobQueue(Protocol):
    """A way to announce work to workers."""

    def notify(self) -> None:
        """Announce that there is work. Errors of the broker may pass through: the scheduler announces it later."""


def make_celery(settings: Settings) -> Celery:
    """Return the Celery application, configured for long work whose state lives in the database."""
    app = Celery("mt3", broker=settings.redis_url)
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = "shared.transport:Transport"
    app.conf.update(
        # The row is authoritative: Celery keeps no results and retries nothing.
        task_ignore_result=True,  # no result backend to fall behind, or to lose
        task_acks_late=False,  # delivery is guaranteed by the row; a late ack would only run work twice
        task_reject_on_worker_lost=False,  # the lease brings a lost worker's job back
        task_publish_retry=False,  # the scheduler announces it again, not a thread that waits for Redis
        task_default_queue=QUEUE_NAME,
        task_serializer="json",
        accept_content=["json"],  # plain data only; no class is ever loaded from a message
        # One job per thread for as long as it takes.
        worker_pool="threads",  # one process, one set of resident networks; CUDA does not survive a fork
        worker_concurrency=settings.worker_concurrency,
        worker_prefetch_multiplier=1,  # a message taken early waits behind a long job
        worker_disable_prefetch=True,  # not even the one that Celery keeps in reserve
        task_time_limit=None,  # has no effect on threads: MT3_STALL_SECONDS rescues hanging jobs
        task_soft_time_limit=None,
        worker_max_tasks_per_child=None,  # has no effect on threads, and networks stay loaded
        worker_cancel_long_running_tasks_on_connection_loss=False,  # losing Redis does not stop a job
        worker_enable_prefetch_count_reduction=False,  # full concurrency again after an outage of Redis
        worker_soft_shutdown_timeout=0.0,  # on SIGTERM jobs are released at their next sign of progress
        # Redis may start late, fail, hang, and come back empty.
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # forever: a worker that gives up does not come back by itself
        broker_connection_timeout=4,
        broker_pool_limit=10,
        broker_pool_acquire_timeout=2,  # without it, an announcing thread waits forever for a connection
        broker_transport_options={
            "visibility_timeout": settings.visibility_timeout_seconds,
            "socket_timeout": 5,  # without it, publishing blocks forever on a frozen Redis
            "socket_connect_timeout": 2,
            "socket_keepalive": True,  # detects a peer that vanished silently
            "health_check_interval": 10,  # checks an idle connection before using it
            "retry_on_timeout": False,  # a timeout is final: see `task_publish_retry`
        },
        # Celery's own reports are unused: see `worker.liveness` and `shared.logs`.
        worker_enable_remote_control=False,  # no second connection that could hang
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
    )
    return app


class CeleryQueue:
    """Announces work through Celery."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def notify(self) -> None:
        """See `JobQueue`. Tries once: the scheduler makes up for a failure, so no caller has to wait."""
        self._app.send_task(WAKE_TASK, retry=False)


class InMemoryQueue:
    """Counts announcements, for tests and for running work by hand."""

    def __init__(self) -> None:
        self.notified = 0

    def notify(self) -> None:
        """See `JobQueue`."""
        self.notified += 1


class BackgroundQueue:
    """Announces from its own thread, so that a slow or unavailable Redis never delays a response.

    An announcement that fails is logged and dropped: the scheduler finds the row within a second. Of many at about
    the same time, only `BURST` are sent: the workers that they wake drain the queue.
    """

    def __init__(self, inner: JobQueue) -> None:
        self._inner = inner
        self._waiting = threading.Semaphore(0)
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def notify(self) -> None:
        """See `JobQueue`; returns at once and never raises."""
        self._waiting.release()
        with self._starting:  # started on first use: after the web server has forked
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="announcer", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            self._waiting.acquire()
            wanted = 1
            while self._waiting.acquire(blocking=False):
                wanted += 1
            try:
                for _ in range(min(wanted, BURST)):
                    self._inner.notify()
            except Exception as error:
                log.warning("announcement_failed", error=str(error))  # the scheduler announces it later
            time.sleep(BURST_SECONDS)
