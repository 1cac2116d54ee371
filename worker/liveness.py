"""Liveness of a worker, measured by its activity: a process that merely exists may hang.

The consumer loop must run, and each attempt must make progress. While both hold, a watchdog touches the liveness
file every second. `worker.liveness_file` and the supervisor of `mt3-infer serve` check its age, and so detect a
process that is stopped or hangs as a whole. A worker that detects that it hangs exits: a thread stuck in a driver
cannot be ended alone, and a stuck worker would hold its slot forever. Its items are rescued when their leases end.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from celery import bootsteps

from shared import worker_registry
from shared.db import Sessions
from shared.logs import get_logger
from worker.steps import Steps

log = get_logger(__name__)

CHECK_SECONDS = 1.0
LOOP_SECONDS = 0.1
HANGING_STATUS = 70  # EX_SOFTWARE of sysexits.h


@dataclass(eq=False)
class Activity:
    """The time of the last activity of an attempt or of the loop."""

    at: float = field(default_factory=time.monotonic)

    def touch(self) -> None:
        """Record a sign of activity."""
        self.at = time.monotonic()


class Liveness:
    """Watches the consumer loop and the attempts of this process.

    Args:
        stall_seconds: how long an attempt may make no progress.
        loop_seconds: how long the consumer loop may stand still while Redis answers.
        check_redis: raises if Redis is unavailable; the consumer then rightly waits for it.
    """

    def __init__(
        self, *, stall_seconds: float, loop_seconds: float, check_redis: Callable[[], None] = lambda: None
    ) -> None:
        self._stall_seconds = stall_seconds
        self._loop_seconds = loop_seconds
        self._check_redis = check_redis
        self._attempts: set[Activity] = set()
        self._changing = threading.Lock()
        self._loop: Activity | None = None  # until it has started

    @contextmanager
    def attempt(self) -> Iterator[Activity]:
        """Watch an attempt, from its claim to its end."""
        activity = Activity()
        with self._changing:
            self._attempts.add(activity)
        try:
            yield activity
        finally:
            with self._changing:
                self._attempts.discard(activity)

    def turned(self) -> None:
        """Record an iteration of the consumer loop."""
        self._loop = Activity()

    def ending(self) -> None:
        """Stop watching the loop, as the worker is shutting down."""
        self._loop = None

    def describe_hang(self) -> str | None:
        """Return a description of what hangs; None if nothing does."""
        now = time.monotonic()
        with self._changing:
            stuck = sum(now - activity.at > self._stall_seconds for activity in self._attempts)
        if stuck:
            return f"{stuck} of {len(self._attempts)} attempts made no progress for {self._stall_seconds:.0f} s"
        loop = self._loop
        if loop is not None and now - loop.at > self._loop_seconds:
            try:
                self._check_redis()
            except Exception:
                self._loop = Activity()  # the time counts from when Redis is back
            else:
                return f"the consumer loop stood still for {self._loop_seconds:.0f} s"
        return None


class Watchdog:
    """Touches the liveness file as long as the worker makes progress, and ends the process when it hangs."""

    def __init__(self, liveness: Liveness, file: Path, *, end: Callable[[int], Any] = os._exit) -> None:
        self._liveness = liveness
        self._file = file
        self._end = end
        self._steps = Steps()

    def start(self) -> None:
        """Start checking in a thread."""
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def check(self) -> None:
        """Check once."""
        reason = self._liveness.describe_hang()
        if reason is not None:
            log.error("worker_hangs", reason=reason)
            self._end(HANGING_STATUS)
        self._steps.run(self._touch)

    def _touch(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.touch()

    def _run(self) -> None:
        while True:
            self.check()
            time.sleep(CHECK_SECONDS)


class Registration:
    """Keeps this worker in the registry, from its own thread because the database may hang."""

    def __init__(
        self, sessions: Sessions, worker: str, *, threads: int, draining: threading.Event | None = None
    ) -> None:
        self._draining = draining or threading.Event()
        self._sessions = sessions
        self._worker = worker
        self._threads = threads
        self._has_registered = False
        self._steps = Steps()
        self._ended = threading.Event()

    def start(self) -> None:
        """Register now, and renew the entry regularly."""
        threading.Thread(target=self._run, name="registration", daemon=True).start()

    def end(self) -> None:
        """Remove this worker from the registry."""
        self._ended.set()
        self._steps.run(self._unregister)

    def _run(self) -> None:
        self._steps.run(self._register)
        while not self._ended.wait(worker_registry.REGISTER_SECONDS):
            self._steps.run(self._register)

    def _register(self) -> None:
        with self._sessions.begin() as session:
            # In a container that is restarted, this process may have the name of one that drained and was killed.
            if not self._has_registered:
                worker_registry.unregister(session, self._worker)
            is_draining = worker_registry.register(session, self._worker, threads=self._threads)
        self._has_registered = True
        if is_draining and not self._draining.is_set():
            log.info("worker_draining")
            self._draining.set()
        elif not is_draining:
            self._draining.clear()

    def _unregister(self) -> None:
        with self._sessions.begin() as session:
            worker_registry.unregister(session, self._worker)


def loop_step(liveness: Liveness) -> type[bootsteps.StartStopStep]:
    """Return a step of Celery's consumer that runs its event loop, and reports it, ten times a second.

    By itself the loop reads the next message up to a second after a job has ended, as nothing is prefetched: three
    workers then do three short jobs a second, however short they are.
    """

    class LoopTurns(bootsteps.StartStopStep):  # type: ignore[misc]
        def register_with_event_loop(self, _consumer: Any, hub: Any) -> None:
            liveness.turned()
            hub.call_repeatedly(LOOP_SECONDS, liveness.turned)

    return LoopTurns
