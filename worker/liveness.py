"""Whether this worker gets on with its work: a heartbeat of work, not a process that merely is there.

Its consumer loop must turn, and each job in hand must move. As long as that holds a file is touched every
second. `worker.alive` and the supervisor of `mt3-infer serve` look at its age, and so see a process that is
stopped or hangs as a whole. A worker that sees for itself that it hangs ends itself: a thread stuck in a driver
cannot be ended alone, and a stuck worker would keep its place for ever. Its jobs come back by their leases.
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

from shared import presence
from shared.db import Sessions
from shared.logs import get_logger
from worker.steps import Steps

log = get_logger(__name__)

PULSE_SECONDS = 1.0
LOOP_SECONDS = 0.1
HANGING_STATUS = 70  # EX_SOFTWARE of sysexits.h


@dataclass(eq=False)
class Movement:
    """When a job in hand last moved."""

    at: float = field(default_factory=time.monotonic)

    def moved(self) -> None:
        """It moves."""
        self.at = time.monotonic()


class Liveness:
    """Hears of all that moves in this process, and says whether enough does.

    Args:
        stall_seconds: for how long a job in hand may stand still.
        loop_seconds: for how long the consumer loop may stand still while Redis answers.
        check_redis: raises if Redis is away; the consumer then waits for it, as it should.
    """

    def __init__(
        self, *, stall_seconds: float, loop_seconds: float, check_redis: Callable[[], None] = lambda: None
    ) -> None:
        self._stall_seconds = stall_seconds
        self._loop_seconds = loop_seconds
        self._check_redis = check_redis
        self._jobs: set[Movement] = set()
        self._changing = threading.Lock()
        self._loop: Movement | None = None  # until it has begun to turn

    @contextmanager
    def job(self) -> Iterator[Movement]:
        """A job in hand, from its claim to its end."""
        movement = Movement()
        with self._changing:
            self._jobs.add(movement)
        try:
            yield movement
        finally:
            with self._changing:
                self._jobs.discard(movement)

    def turned(self) -> None:
        """The consumer loop turned."""
        self._loop = Movement()

    def ending(self) -> None:
        """The loop need not turn any more."""
        self._loop = None

    def complaint(self) -> str | None:
        """What does not move, in words; None if all is well."""
        now = time.monotonic()
        with self._changing:
            stuck = sum(now - movement.at > self._stall_seconds for movement in self._jobs)
        if stuck:
            return f"{stuck} of {len(self._jobs)} jobs stood still for {self._stall_seconds:.0f} s"
        loop = self._loop
        if loop is not None and now - loop.at > self._loop_seconds:
            try:
                self._check_redis()
            except Exception:
                self._loop = Movement()  # the time counts from when Redis is back
            else:
                return f"no message was looked for in {self._loop_seconds:.0f} s"
        return None


class Pulse:
    """Touches the file as long as the worker is well, and ends the process when it is not."""

    def __init__(self, liveness: Liveness, file: Path, *, end: Callable[[int], Any] = os._exit) -> None:
        self._liveness = liveness
        self._file = file
        self._end = end
        self._steps = Steps()

    def start(self) -> None:
        """Beat from now on."""
        threading.Thread(target=self._run, name="pulse", daemon=True).start()

    def beat(self) -> None:
        """Look once."""
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
            self.beat()
            time.sleep(PULSE_SECONDS)


class Presence:
    """Says in the database that this worker is there. A thread of its own: a database may hang, too."""

    def __init__(self, sessions: Sessions, worker: str) -> None:
        self._sessions = sessions
        self._worker = worker
        self._steps = Steps()
        self._ended = threading.Event()

    def start(self) -> None:
        """Say it from now on."""
        threading.Thread(target=self._run, name="presence", daemon=True).start()

    def end(self) -> None:
        """Say goodbye."""
        self._ended.set()
        self._steps.run(self._say_goodbye)

    def _run(self) -> None:
        self._steps.run(self._say_present)
        while not self._ended.wait(presence.SAY_SECONDS):
            self._steps.run(self._say_present)

    def _say_present(self) -> None:
        with self._sessions.begin() as session:
            presence.say_present(session, self._worker)

    def _say_goodbye(self) -> None:
        with self._sessions.begin() as session:
            presence.say_goodbye(session, self._worker)


def loop_step(liveness: Liveness) -> type[bootsteps.StartStopStep]:
    """A step of Celery's consumer that has its event loop turn, and say so, ten times a second.

    Left to itself the loop looks for the next message up to a second after a job has ended, as no message is
    taken in advance: three workers then do three short jobs a second, however short they are.
    """

    class LoopTurns(bootsteps.StartStopStep):  # type: ignore[misc]
        def register_with_event_loop(self, _consumer: Any, hub: Any) -> None:
            liveness.turned()
            hub.call_repeatedly(LOOP_SECONDS, liveness.turned)

    return LoopTurns
