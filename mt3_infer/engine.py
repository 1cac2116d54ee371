"""One network serving several callers at once: segments in, results out.

Each caller hands over the segments of one recording and gets what the network makes of them back in order. The
segments of all callers share the network's slots. Between callers the next free slot goes round; what one of
them does, fails at, or gives up leaves the others as they are.

A caller decodes its audio on its own thread while the network works on earlier segments, and never runs
further ahead than `ahead` of them: memory stays the same however long the recording is. All arithmetic is done
on the engine's thread: two threads with a pool of workers each get in each other's way on the same cores.

Where a segment needs the result of the one before it, a caller says how (`chain`), and has one segment under way
at a time; the slots are then filled by as many recordings.
"""

from __future__ import annotations

import atexit
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakSet

SegmentT = TypeVar("SegmentT")
ResultT = TypeVar("ResultT")
SegmentIn = TypeVar("SegmentIn", contravariant=True)
ResultOut = TypeVar("ResultOut", covariant=True)

_engines: WeakSet[Engine[Any, Any]] = WeakSet()


@dataclass(eq=False)
class _Caller(Generic[SegmentT, ResultT]):
    """A recording under way.

    Attributes:
        waiting: segments, by index, that no slot has been found for yet.
        results: results by segment, or why there are none, until they are called for.
        chain: what makes of a segment and the result of the one before it what the network is given; None where
            segments do not depend on each other.
        before: the latest result, where they do.
        blocked: whether the next segment must wait for that of one under way, or will never have one.
    """

    waiting: deque[tuple[int, SegmentT]] = field(default_factory=deque)
    results: dict[int, ResultT | Exception] = field(default_factory=dict)
    chain: Callable[[SegmentT, ResultT], SegmentT] | None = None
    before: ResultT | None = None
    blocked: bool = False

    @property
    def ready(self) -> int:
        """Segments that could be admitted now."""
        return len(self.waiting) if self.chain is None else int(bool(self.waiting) and not self.blocked)

    def take(self) -> tuple[int, SegmentT]:
        """Hand out the next segment, with its index."""
        index, segment = self.waiting.popleft()
        if self.chain is not None:
            self.blocked = True
            if self.before is not None:
                segment = self.chain(segment, self.before)
        return index, segment

    def deliver(self, index: int, result: ResultT | Exception) -> None:
        """Take in a result. After an error the segments of a chain stay where they are."""
        self.results[index] = result
        if not isinstance(result, Exception):
            self.before, self.blocked = result, False


@dataclass(frozen=True, eq=False)
class Ticket:
    """Whose segment a slot works on."""

    caller: _Caller[Any, Any]
    index: int


class Slots(Protocol[SegmentIn, ResultOut]):
    """A network with room for some segments at a time. All of it is called from one thread."""

    @property
    def slots(self) -> int:
        """Segments that there is room for."""

    @property
    def active(self) -> int:
        """Segments under way."""

    @property
    def free(self) -> int:
        """Segments that it could take."""

    def admit(self, segments: Sequence[SegmentIn], tickets: Sequence[Ticket]) -> None:
        """Take segments in. If it raises, `drop` can still be called for their tickets."""

    def step(self) -> Sequence[tuple[Ticket, ResultOut]]:
        """Go on with all that are under way, and give the results of those that ended with it."""

    def drop(self, unwanted: Callable[[Ticket], bool]) -> list[Ticket]:
        """Give up segments by their tickets; returns those."""


class Engine(Generic[SegmentT, ResultT]):
    """Runs a network for any number of threads.

    Its own thread lives as long as there are callers; nothing needs to be closed. A thread that still computes in
    native code when the interpreter ends would abort the process. So the last caller to leave waits for the step
    that is under way, and what is left of callers at exit is stopped there.
    """

    def __init__(self, network: Slots[SegmentT, ResultT], *, admit_at_once: int) -> None:
        """Nothing runs yet.

        Args:
            network: its slots are those that the callers share.
            admit_at_once: segments that it is given at once, if so many wait.
        """
        self.ahead = 2 * network.slots
        self._network = network
        self._admit_at_once = min(admit_at_once, network.slots)
        self._callers: deque[_Caller[SegmentT, ResultT]] = deque()  # the next one to be served first
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopped = False
        _engines.add(self)

    def generate(
        self, segments: Iterable[SegmentT], *, chain: Callable[[SegmentT, ResultT], SegmentT] | None = None
    ) -> Generator[ResultT]:
        """Results of a recording's segments, in order.

        Segments are taken on the calling thread, as there is room for them; what taking them raises reaches
        the caller. Closing the generator gives up what is left.

        Args:
            chain: for segments that need the result of the one before: gives the network's own input, of a
                segment (not the first) and that result.
        """
        caller: _Caller[SegmentT, ResultT] = _Caller(chain=chain)
        source = iter(segments)
        submitted = delivered = 0
        more = True
        self._enter(caller)
        try:
            while more or delivered < submitted:
                if more and submitted - delivered < self.ahead:
                    try:
                        segment = next(source)
                    except StopIteration:
                        more = False
                    else:
                        self._submit(caller, submitted, segment)
                        submitted += 1
                else:
                    yield self._take(caller, delivered)
                    delivered += 1
        finally:
            self._leave(caller)

    def stop(self) -> None:
        """Wait for the step that is under way, and take no other one: the interpreter is shutting down.

        Callers that still wait are daemon threads, which end with the process.
        """
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _enter(self, caller: _Caller[SegmentT, ResultT]) -> None:
        with self._changed:
            if self._stopped:
                raise RuntimeError("Nothing can be transcribed any more: the interpreter is shutting down.")
            self._callers.append(caller)
            # Not alive either in a process that was forked from one with callers.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._serve, name="engine", daemon=True)
                self._thread.start()

    def _leave(self, caller: _Caller[SegmentT, ResultT]) -> None:
        with self._changed:
            self._callers.remove(caller)
            self._changed.notify_all()
            thread = self._thread
            # Not alive in a forked process; the engine's own thread comes here when it collects a generator.
            if thread is None or not thread.is_alive() or thread is threading.current_thread():
                return
            self._changed.wait_for(lambda: self._thread is not thread or self._callers)
            has_ended = self._thread is not thread
        if has_ended:
            thread.join()

    def _submit(self, caller: _Caller[SegmentT, ResultT], index: int, segment: SegmentT) -> None:
        with self._changed:
            caller.waiting.append((index, segment))
            self._changed.notify_all()

    def _take(self, caller: _Caller[SegmentT, ResultT], index: int) -> ResultT:
        with self._changed:
            self._changed.wait_for(lambda: index in caller.results)
            result = caller.results.pop(index)
        if isinstance(result, Exception):
            raise result
        return result

    # --- The engine's own thread
    # -----------------------------------------------------------------------------

    def _serve(self) -> None:
        """Keep the slots filled and go on until no caller is left."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._network.active or not self._idle())
                self._network.drop(lambda ticket: ticket.caller not in self._callers)
                if self._stopped or not self._callers:
                    self._thread = None
                    self._changed.notify_all()
                    return
                batch = self._next_batch()
            if batch:
                self._admit(batch)
            else:
                self._step()

    def _idle(self) -> bool:
        """Whether there are callers, but nothing to do for them."""
        return bool(self._callers) and not any(caller.ready for caller in self._callers)

    def _next_batch(self) -> list[tuple[Ticket, SegmentT]]:
        """Segments to admit now, one of each caller in turn; none while too few slots are free."""
        waiting = sum(caller.ready for caller in self._callers)
        size = min(self._admit_at_once, waiting)
        if self._network.free < size:
            return []
        batch: list[tuple[Ticket, SegmentT]] = []
        while len(batch) < size:
            caller = self._callers[0]
            self._callers.rotate(-1)
            if caller.ready:
                index, segment = caller.take()
                batch.append((Ticket(caller, index), segment))
        return batch

    def _admit(self, batch: list[tuple[Ticket, SegmentT]]) -> None:
        """Give segments their slots. If that fails each is tried alone."""
        tickets = [ticket for ticket, _ in batch]
        try:
            self._network.admit([segment for _, segment in batch], tickets)
        except Exception as error:  # whatever it is, it belongs to these segments' callers
            self._network.drop(lambda ticket: ticket in tickets)
            if len(batch) > 1:
                for one in batch:
                    self._admit([one])
            else:
                self._deliver([(tickets[0], error)])

    def _step(self) -> None:
        """One step of all slots. If that fails every segment under way has failed."""
        try:
            self._deliver(self._network.step())
        except Exception as error:
            self._deliver([(ticket, error) for ticket in self._network.drop(lambda _: True)])

    def _deliver(self, results: Sequence[tuple[Ticket, ResultT | Exception]]) -> None:
        if not results:
            return
        with self._changed:
            for ticket, result in results:
                ticket.caller.deliver(ticket.index, result)
            self._changed.notify_all()


@atexit.register
def _stop_engines() -> None:
    for engine in list(_engines):
        # It is not alive in a forked process. A second Ctrl-C must not leave it running.
        while engine._thread is not None and engine._thread.is_alive():
            with suppress(KeyboardInterrupt):
                engine.stop()
