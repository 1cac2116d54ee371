"""The line of waiting jobs: each job's position, and when it will start, by measured speeds."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy.orm import Session

from shared.estimates import Estimates, read_arrivals, read_capacity, read_estimates, read_running, read_waiting
from shared.forecast import Running, Waiting, forecast
from shared.tables import Job, Status

LINE_SECONDS = 1.0  # how old a reported position may be
REST = 20.0  # forecasts for jobs that arrive in between take at most a 20th of the time
LINE_LENGTH = 1000  # jobs with an exact position; all later ones share the next one
ARRIVALS = 300  # the latest jobs, by which others are expected
PROBE = Waiting(UUID(int=0), owner="", served_at=0.0, seconds=0.0)  # a job of an owner that has no other


@dataclass(frozen=True)
class Place:
    """Where a queued job stands.

    Attributes:
        position: among the waiting jobs of all owners, from 1.
        eta_seconds: until it starts; None if no worker is present, or nothing was ever measured.
        workers: how many are present.
    """

    position: int
    eta_seconds: float | None
    workers: int


@dataclass(frozen=True)
class Line:
    """The line as it was read.

    Attributes:
        starts: seconds until each job starts.
        workers: how many are present.
        threads: how many items they run at a time, all together.
        expected: jobs that will probably arrive.
    """

    positions: Mapping[UUID, int] = field(default_factory=dict)
    workers: int = 0
    threads: int = 0
    estimates: Estimates | None = None
    waiting: Sequence[Waiting] = ()
    running: Sequence[Running] = ()
    expected: Sequence[Waiting] = ()
    starts: Mapping[UUID, float] = field(default_factory=dict)


class WaitingLine:
    """The line, read at most once a second however many clients poll.

    Args:
        shard_seconds: longer recordings are split (MT3_SHARD_SECONDS); 0 if none are.
    """

    def __init__(self, *, shard_seconds: float = 0.0) -> None:
        self._shard_seconds = shard_seconds
        self._line: Line | None = None
        self._later: list[Waiting] = []  # jobs that arrived since
        self._places: dict[UUID, tuple[int, float | None]] = {}  # of these, with the start
        self._starts: Mapping[UUID, float] = {}
        self._forecast_at, self._forecast_cost = float("-inf"), 0.0
        self._read_at = self._as_of = float("-inf")  # when reading it began, and that of the line itself
        self._reading, self._placing = threading.Lock(), threading.Lock()

    def place(self, session: Session, job: Job) -> Place | None:
        """Return the job's place; None if it is not waiting."""
        if job.status is not Status.QUEUED:
            return None
        self._refresh(session)
        with self._placing:
            line = self._line or Line()
            if job.id in line.positions:
                position, start = line.positions[job.id], self._starts.get(job.id)
            else:
                if job.id not in self._places:
                    self._places[job.id] = self._place_new(line, job)
                position, start = self._places[job.id]
            age = time.monotonic() - self._as_of
            return Place(position, None if start is None else max(0.0, start - age), line.workers)

    def count_workers(self, session: Session) -> int:
        """Return how many workers are present."""
        self._refresh(session)
        return self._line.workers if self._line else 0

    def _refresh(self, session: Session) -> None:
        """Read the line if it is old; meanwhile others go on with the old one, if there is one."""
        is_first = self._line is None
        if (self._is_recent() and not is_first) or not self._reading.acquire(blocking=is_first):
            return
        try:
            if self._is_recent():
                return
            began = self._read_at = time.monotonic()  # first: in an outage only one client waits for the database
            line = read_line(session, self._shard_seconds)
            with self._placing:
                self._line, self._as_of = line, began
                self._later, self._places, self._starts = [], {}, line.starts
        finally:
            self._reading.release()

    def _is_recent(self) -> bool:
        return time.monotonic() - self._read_at <= LINE_SECONDS

    def _place_new(self, line: Line, job: Job) -> tuple[int, float | None]:
        """Return position and start of a job that came since the line was read."""
        position = min(len(line.positions) + len(self._places), LINE_LENGTH) + 1
        if line.estimates is None or position > LINE_LENGTH:
            return position, None
        began, used = time.monotonic(), time.thread_time()
        self._later.append(line.estimates.new_job(job, arrives=began - self._as_of))
        if began - self._forecast_at > REST * self._forecast_cost:
            waiting = [*line.waiting, *self._later]
            expected = [job for job in line.expected if job.ready > began - self._as_of]
            self._starts = forecast([*waiting, PROBE], line.running, expected, threads=line.threads)
            self._forecast_at, self._forecast_cost = began, time.thread_time() - used
            return position, self._starts[job.id]
        # As late as the last short one of its owner, or as soon as a thread is free if there is none.
        others = (
            other for other in (*line.waiting, *self._later) if other.owner == job.owner and not other.is_long
        )
        starts = (self._starts[other.job_id] for other in others if other.job_id in self._starts)
        return position, max(starts, default=self._starts[PROBE.job_id])


def read_line(session: Session, shard_seconds: float) -> Line:
    """Read the waiting jobs, and forecast when each of them starts."""
    rows = read_waiting(session, limit=LINE_LENGTH)
    now, workers, threads = read_capacity(session)
    line = Line({row.job_id: place for place, row in enumerate(rows, start=1)}, workers, max(threads, workers))
    if not workers:
        return line
    held = read_running(session)
    together = line.threads / workers
    estimates = read_estimates(session, now, held, together=together, shard_seconds=shard_seconds)
    if estimates is None:
        return line
    running, waiting = [], [estimates.waiting(row) for row in rows]
    for row in held:
        item, rest = estimates.running(row)
        running.append(item)
        waiting += rest
    expected = estimates.expected(read_arrivals(session, limit=ARRIVALS))
    starts = forecast([*waiting, PROBE], running, expected, threads=line.threads)
    return Line(line.positions, workers, line.threads, estimates, waiting, running, expected, starts)
