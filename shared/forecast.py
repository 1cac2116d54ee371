"""Forecast of the queue: when each waiting job will start, by simulating the claims of all workers.

The simulation follows the rules of `shared.fairness` and of preemption in the worker: owners with the fewest
running items first, then the least recently served job; a long recording is opened in its turn, or deferred while
parts of its owner wait, and each part of it moves the others behind; short work runs between two segments of a
long recording, for at most three quarters of the time. Jobs that will probably arrive take part as if they had.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from uuid import UUID

CHECK_AFTER = 1.0  # seconds from the beginning of a part until its worker looks for short work
PREEMPT_AFTER = 1.5  # seconds that short work waits: workers look once a second for what is a second old
SHARE = 3.0  # seconds of short work for each second of a long recording that it preempts


@dataclass(frozen=True)
class Waiting:
    """A job with items that wait.

    Attributes:
        served_at: seconds from now, at most 0 unless the job arrives later.
        ready: seconds from now until it may be claimed.
        seconds: of work, for each of its pieces.
        is_long: it is split into its pieces when a worker opens it.
        is_split: it has been, and its pieces wait.
        is_deferred: a worker has opened it, and it waits until no pieces of its owner do.
        opening: seconds that it takes to split it.
    """

    job_id: UUID
    owner: str
    served_at: float
    seconds: float
    pieces: int = 1
    ready: float = 0.0
    is_long: bool = False
    is_split: bool = False
    is_deferred: bool = False
    opening: float = 0.0


@dataclass(frozen=True)
class Running:
    """An item that a worker holds, with the seconds that it will still take."""

    job_id: UUID
    owner: str
    left: float
    is_long: bool = False


@dataclass(eq=False)
class _Piece:
    owner: str
    job_id: UUID
    end: float
    is_long: bool
    takes_thread: bool = True  # False if it preempts another piece
    preempt_at: float = 0.0  # when short work may next run between two of its segments
    opens: _Entry | None = None  # the recording whose pieces wait from its end

    def suspend(self, now: float, seconds: float) -> None:
        """Let short work run for some seconds before the next segment."""
        self.end += seconds
        self.preempt_at = now + seconds * (1 + 1 / SHARE)


@dataclass(eq=False)
class _Entry:
    job: Waiting
    served_at: float
    left: int
    is_split: bool
    is_deferred: bool

    @property
    def is_short(self) -> bool:
        """Return True for what may preempt long recordings: one that no worker has opened yet may, too."""
        return not (self.is_split or self.is_deferred)

    @property
    def preempts_at(self) -> float:
        return (self.job.ready or self.served_at) + PREEMPT_AFTER

    def __lt__(self, other: _Entry) -> bool:
        return (self.served_at, self.job.job_id) < (other.served_at, other.job.job_id)


def forecast(
    waiting: Sequence[Waiting], running: Sequence[Running], expected: Sequence[Waiting] = (), *, threads: int
) -> dict[UUID, float]:
    """Return the seconds until each waiting job starts: until its next piece is claimed.

    Args:
        expected: jobs that will probably arrive; `ready` holds when.
        threads: how many items all workers together run at a time, at least 1.
    """
    return _Simulation(waiting, running, expected, threads).run()


@dataclass(eq=False)
class _Queue:
    """The waiting jobs of all owners; one for short work and one for long."""

    running: Counter[str]
    by_owner: defaultdict[str, list[_Entry]] = field(default_factory=lambda: defaultdict(list))
    _heads: list[tuple[int, _Entry, str]] = field(default_factory=list)

    def add(self, entry: _Entry) -> None:
        insort(self.by_owner[entry.job.owner], entry)
        self.touch(entry.job.owner)

    def touch(self, owner: str) -> None:
        """Note that the owner's first job, or its number of running items, has changed."""
        if entries := self.by_owner.get(owner):
            heapq.heappush(self._heads, (self.running[owner], entries[0], owner))

    def first(self) -> tuple[int, _Entry] | None:
        """Return what to claim next, with the running items of its owner."""
        while self._heads:
            running, entry, owner = self._heads[0]
            entries = self.by_owner[owner]
            if entries and entries[0] is entry and running == self.running[owner]:
                return running, entry
            heapq.heappop(self._heads)
        return None

    def pop(self, entry: _Entry) -> None:
        self.by_owner[entry.job.owner].remove(entry)
        self.touch(entry.job.owner)


class _Simulation:
    def __init__(
        self, waiting: Sequence[Waiting], running: Sequence[Running], expected: Sequence[Waiting], threads: int
    ) -> None:
        self.unstarted = {job.job_id for job in waiting}
        self.time = 0.0
        self.starts: dict[UUID, float] = {}
        self.counts = Counter(item.owner for item in running)
        self.short, self.long = _Queue(self.counts), _Queue(self.counts)
        self.held: defaultdict[str, list[_Entry]] = defaultdict(list)  # long, behind others of their owner
        self.delayed: list[tuple[float, int, _Entry]] = []
        self.split: dict[UUID, _Entry] = {}  # long recordings with pieces that wait
        self.numbers = count()
        self.ends: list[tuple[float, int, _Piece]] = []
        self.longs: list[_Piece] = []
        self.free = max(0, threads - len(running))
        extra = max(0, len(running) - threads)  # these run between the segments of others
        short, long = ([item for item in running if item.is_long is is_long] for is_long in (False, True))
        for number, item in enumerate(short):
            self._begin(_Piece(item.owner, item.job_id, item.left, is_long=False, takes_thread=number >= extra))
        for item in long:
            self._begin(_Piece(item.owner, item.job_id, item.left, is_long=True))
        for piece, item in zip(self.longs, short[:extra], strict=False):
            piece.suspend(self.time, item.left)
        for job in (*waiting, *expected):
            entry = _Entry(job, job.served_at, job.pieces, job.is_split, job.is_deferred)
            if job.ready > 0:
                heapq.heappush(self.delayed, (job.ready, next(self.numbers), entry))
            else:
                self._wait(entry)

    def run(self) -> dict[UUID, float]:
        while self.unstarted:
            while self.free and (entry := self._first()) is not None:
                if not self._must_defer(entry):
                    self.free -= 1
                    self._start(entry, takes_thread=True)
            self._preempt()
            times = list(self._next_times())
            if not times or not self._is_anything_waiting():
                break
            self.time = max(self.time, min(times))
            self._end_pieces()
            while self.delayed and self.delayed[0][0] <= self.time:
                self._wait(heapq.heappop(self.delayed)[2])
        return self.starts

    def _is_anything_waiting(self) -> bool:
        has_long = self.long.first() is not None
        return bool(has_long or self.short.first() is not None or self.delayed or any(self.held.values()))

    def _next_times(self) -> Iterator[float]:
        if self.ends:
            yield self.ends[0][0]
        if self.delayed:
            yield self.delayed[0][0]
        if self.longs and (found := self.short.first()) is not None:
            preempt_at = min(piece.preempt_at for piece in self.longs)
            yield max(preempt_at, found[1].preempts_at, self.time + 1e-3)

    def _wait(self, entry: _Entry) -> None:
        owner = entry.job.owner
        if entry.is_short:
            self.short.add(entry)
        elif entry.is_split:
            self.split[entry.job.job_id] = entry
            self.long.add(entry)
        elif self._has_pieces_waiting(owner):
            self.held[owner].append(entry)
        else:
            self.long.add(entry)

    def _has_pieces_waiting(self, owner: str) -> bool:
        return any(other.job.owner == owner for other in self.split.values())

    def _first(self) -> _Entry | None:
        """Return the job whose piece is claimed next; put long recordings aside that must wait for others."""
        while True:
            long, short = self.long.first(), self.short.first()
            if long is None or (short is not None and short < long):
                return short[1] if short else None
            entry = long[1]
            if entry.is_split or not self._has_pieces_waiting(entry.job.owner):
                return entry
            self.long.pop(entry)
            self.held[entry.job.owner].append(entry)

    def _preempt(self) -> None:
        """Let short work run between the segments of long recordings."""
        while (found := self.short.first()) is not None:
            able = [piece for piece in self.longs if piece.preempt_at <= self.time]
            if not able or found[1].preempts_at > self.time:
                return
            piece = min(able, key=lambda piece: piece.preempt_at)
            if self._must_defer(found[1], is_preempting=True):
                continue
            seconds = found[1].job.seconds
            self._start(found[1], takes_thread=False)
            piece.suspend(self.time, seconds)

    def _must_defer(self, entry: _Entry, *, is_preempting: bool = False) -> bool:
        """Defer a recording that turns out to be long; return False if its work begins."""
        job = entry.job
        if not (entry.is_short and job.is_long and (is_preempting or self._has_pieces_waiting(job.owner))):
            return False
        self.short.pop(entry)
        entry.is_deferred = True
        self._wait(entry)
        return True

    def _start(self, entry: _Entry, *, takes_thread: bool) -> None:
        job = entry.job
        if job.job_id in self.unstarted:
            self.unstarted.discard(job.job_id)
            self.starts[job.job_id] = self.time
        self.counts[job.owner] += 1
        if job.is_long and not entry.is_split:
            (self.short if entry.is_short else self.long).pop(entry)
            self._touch(job.owner)
            end = self.time + job.opening
            self._begin(_Piece(job.owner, job.job_id, end, is_long=False, opens=entry))
            return
        entry.left -= 1
        if entry.left == 0:
            (self.short if entry.is_short else self.long).pop(entry)
            if self.split.pop(job.job_id, None) is not None:
                self._release(job.owner)
        self._touch(job.owner)
        self._begin(_Piece(job.owner, job.job_id, self.time + job.seconds, job.is_long, takes_thread))

    def _release(self, owner: str) -> None:
        for held in self.held.pop(owner, []):
            self.long.add(held)

    def _begin(self, piece: _Piece) -> None:
        heapq.heappush(self.ends, (piece.end, next(self.numbers), piece))
        if piece.is_long:
            piece.preempt_at = self.time + CHECK_AFTER
            self.longs.append(piece)

    def _end_pieces(self) -> None:
        while self.ends and self.ends[0][0] <= self.time:
            _, _, piece = heapq.heappop(self.ends)
            if piece.end > self.time:  # it was preempted
                heapq.heappush(self.ends, (piece.end, next(self.numbers), piece))
                continue
            self.free += piece.takes_thread
            self.counts[piece.owner] -= 1
            if piece.opens is not None:
                piece.opens.is_split, piece.opens.served_at = True, self.time
                self._wait(piece.opens)
            if piece.is_long:
                self.longs.remove(piece)
                if (rest := self.split.get(piece.job_id)) is not None:
                    self.long.pop(rest)
                    rest.served_at = self.time
                    self.long.add(rest)
            self._touch(piece.owner)

    def _touch(self, owner: str) -> None:
        self.short.touch(owner)
        self.long.touch(owner)
