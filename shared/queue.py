"""Announcements: a message says that there is work, never which. A lost one costs about a second.

A worker that gets one claims work until nothing is due, and the scheduler tops the list of messages up to the
work that is due. Lost, doubled, late and emptied lists are thus one case, and nothing records what was announced.
"""

from __future__ import annotations

import threading
from typing import Protocol

from celery import Celery
from kombu.transport import TRANSPORT_ALIASES

from shared.config import Settings
from shared.logs import get_logger

WAKE_TASK = "mt3.wake"
OLD_TASK = "mt3.transcribe"  # sent by earlier versions, with a job's id; treated as a wake
QUEUE_NAME = "mt3"  # the key of the list in Redis, too

log = get_logger(__name__)


class JobQueue(Protocol):
    """Where work is announced to workers."""

    def notify(self) -> None:
        """Announce that there is work. May raise what the broker raises: the scheduler announces it later."""


def make_celery(settings: Settings) -> Celery:
    """The Celery application, configured for long work whose truth lies in the database."""
    app = Celery("mt3", broker=settings.redis_url)
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = "shared.transport:Transport"
    app.conf.update(
        # The truth is the row: no results are kept, and nothing is retried behind its back.
        task_ignore_result=True,  # no result backend to fall behind, or to lose
        task_acks_late=False,  # the row, not the message, guarantees; a late ack would only run things twice
        task_reject_on_worker_lost=False,  # the lease brings a lost worker's job back
        task_publish_retry=False,  # the scheduler announces it again, not a thread that waits for Redis
        task_default_queue=QUEUE_NAME,
        task_serializer="json",
        accept_content=["json"],  # a message is a text; no class is ever loaded from one
        # One job per thread for as long as it takes.
        worker_pool="threads",  # one process, one set of resident networks; CUDA does not survive a fork
        worker_concurrency=settings.worker_concurrency,
        worker_prefetch_multiplier=1,  # a message taken early waits behind a long job
        worker_disable_prefetch=True,  # not even the one that Celery keeps in reserve
        task_time_limit=None,  # does nothing on threads: MT3_STALL_SECONDS takes hanging jobs back
        task_soft_time_limit=None,
        worker_max_tasks_per_child=None,  # does nothing on threads, and networks stay loaded
        worker_cancel_long_running_tasks_on_connection_loss=False,  # Redis may go while we transcribe
        worker_enable_prefetch_count_reduction=False,  # after Redis was away a worker takes as much as before
        worker_soft_shutdown_timeout=0.0,  # on SIGTERM jobs are handed back at their next sign of progress
        # Redis may come late, go, hang, and come back empty.
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # for ever: a worker that gives up does not come back by itself
        broker_connection_timeout=4,
        broker_pool_limit=10,
        broker_pool_acquire_timeout=2,  # without it, a thread that announces waits for ever for a connection
        broker_transport_options={
            "visibility_timeout": settings.visibility_timeout_seconds,
            "socket_timeout": 5,  # without it, publishing blocks for ever on a frozen Redis
            "socket_connect_timeout": 2,
            "socket_keepalive": True,  # a peer that vanished without a word is noticed
            "health_check_interval": 10,  # an idle connection is tried before it is used
            "retry_on_timeout": False,  # a time-out is a time-out: see `task_publish_retry`
        },
        # Celery's own reports are not read: liveness is `worker.liveness`, logs are `shared.logs`.
        worker_enable_remote_control=False,  # no second connection that could hang
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
    )
    return app


class CeleryQueue:
    """Announces through Celery."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def notify(self) -> None:
        """See `JobQueue`. Tries once: a caller is not kept waiting for what the scheduler does anyway."""
        self._app.send_task(WAKE_TASK, retry=False)


class InMemoryQueue:
    """Counts announcements, for tests and for running work by hand."""

    def __init__(self) -> None:
        self.notified = 0

    def notify(self) -> None:
        """See `JobQueue`."""
        self.notified += 1


class BackgroundQueue:
    """Announces from a thread of its own, so that a slow or absent Redis never delays the answer to a client.

    What cannot be announced is dropped with a log line: the scheduler finds the row within a second.
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
            try:
                self._inner.notify()
            except Exception as error:
                log.warning("announcement_failed", error=str(error))
                while self._waiting.acquire(blocking=False):
                    pass  # the scheduler announces all of it once the broker is back
