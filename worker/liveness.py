"""Liveness of a worker, by what it does: a process that merely exists may hang.

Its consumer loop must turn, and each attempt must move. As long as that holds, a watchdog touches the liveness
file every second. `worker.liveness_file` and the supervisor of `mt3-infer serve` look at its age, and so see a
process that is stopped or hangs as a whole. A worker that finds that it hangs ends itself: a thread stuck in a
driver cannot be ended alone, and a stuck worker would keep its place for ever. Its items are rescued when their
leases end.
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
    """When an attempt last moved."""

    at: float = field(default_factory=time.monotonic)

    def touch(self) -> None:
        """Record that it moves."""
        self.at = time.monotonic()


class Liveness:
    """Watches what moves in this process, and whether enough does.

    Args:
        stall_seconds: for how long an attempt may stand still.
        loop_seconds: for how long the consumer loop may stand still while Redis answers.
        check_redis: raises if Redis is away; the consumer then waits for it, as it should.
    """

    def __init__(
        self, *, stall_seconds: float, loop_seconds: float, check_redis: Callable[[], None] = lambda: None
    ) -> None:
        self._stall_seconds = stall_seconds
        self._loop_seconds = loop_seconds
        self._check_redis = check_redis
        self._attempts: set[Activity] = set()
        self._changing = threading.Lock()
        self._loop: Activity | None = None  # until it has begun to turn

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
        """Record that the consumer loop turned."""
        self._loop = Activity()

    def ending(self) -> None:
        """Let the loop stop, as the worker is to end."""
        self._loop = None

    def complaint(self) -> str | None:
        """Return what does not move, in words; None if all is well."""
        now = time.monotonic()
        with self._changing:
            stuck = sum(now - activity.at > self._stall_seconds for activity in self._attempts)
        if stuck:
            return f"{stuck} of {len(self._attempts)} attempts stood still for {self._stall_seconds:.0f} s"
        loop = self._loop
        if loop is not None and now - loop.at > self._loop_seconds:
            try:
                self._check_redis()
            except Exception:
                self._loop = Activity()  # the time counts from when Redis is back
            else:
                return f"no message was looked for in {self._loop_seconds:.0f} s"
        return None


class Watchdog:
    """Touches the liveness file as long as the worker is well, and ends the process when it is not."""

    def __init__(self, liveness: Liveness, file: Path, *, end: Callable[[int], Any] = os._exit) -> None:
        self._liveness = liveness
        self._file = file
        self._end = end
        self._steps = Steps()

    def start(self) -> None:
        """Check from now on."""
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def check(self) -> None:
        """Check once."""
        complaint = self._liveness.complaint()
        if complaint is not None:
            log.error("worker_hangs", reason=complaint)
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
    """Keeps this worker in the registry. A thread of its own: a database may hang, too."""

    def __init__(self, sessions: Sessions, worker: str) -> None:
        self._sessions = sessions
        self._worker = worker
        self._steps = Steps()
        self._ended = threading.Event()

    def start(self) -> None:
        """Register, from now on again and again."""
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
            worker_registry.register(session, self._worker)

    def _unregister(self) -> None:
        with self._sessions.begin() as session:
            worker_registry.unregister(session, self._worker)


def loop_step(liveness: Liveness) -> type[bootsteps.StartStopStep]:
    """Return a step of Celery's consumer that has its event loop turn, and report it, ten times a second.

    Left to itself the loop looks for the next message up to a second after a job has ended, as no message is
    taken in advance: three workers then do three short jobs a second, however short they are.
    """

    class LoopTurns(bootsteps.StartStopStep):  # type: ignore[misc]
        def register_with_event_loop(self, _consumer: Any, hub: Any) -> None:
            liveness.turned()
            hub.call_repeatedly(LOOP_SECONDS, liveness.turned)

    return LoopTurns
