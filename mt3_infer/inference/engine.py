"""Continuous batching: one network serves several callers at once, requests in, results out.

Each caller hands over requests for the segments of one recording and gets the network's results back in order. The
requests of all callers share the network's slots. Between callers the next free slot goes round; what one of
them does, fails at, or gives up leaves the others as they are.

A caller decodes its audio on its own thread while the network works on earlier segments, and never runs
further ahead than `ahead` of them: memory stays the same however long the recording is. All arithmetic is done
on the engine's thread: two threads with a pool of workers each get in each other's way on the same cores.

Where a segment needs the result of the one before it (`in_order`), a caller has one request under way at a time;
the slots are then filled by as many recordings.
"""

from __future__ import annotations

import atexit
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar
from weakref import WeakSet

if TYPE_CHECKING:
    from torch import Tensor

SegmentT = TypeVar("SegmentT")
ResultT = TypeVar("ResultT")

_engines: WeakSet[Engine[Any, Any]] = WeakSet()
_exiting = threading.Event()  # the interpreter is shutting down


@dataclass(frozen=True, eq=False)
class Request(Generic[SegmentT, ResultT]):
    """One segment to run inference on.

    Attributes:
        segment: what it infers from; of the network's own type.
        logit_bias: added to the logits of each token, shape (V,): 0, or -inf for forbidden tokens.
        previous: the result of the segment before, for networks that need it; None at the start of a recording.
    """

    segment: SegmentT
    logit_bias: Tensor | None = None
    previous: ResultT | None = None


@dataclass(eq=False)
class _Caller(Generic[SegmentT, ResultT]):
    """A recording under way.

    Attributes:
        in_order: whether a request needs the result of the one before it.
        waiting: requests, by index, that no slot has been found for yet.
        results: results by request, or why there are none, until they are called for.
        previous: the latest result, where they need it.
        blocked: whether the next request must wait for the result of one under way, or will never have one.
    """

    in_order: bool
    waiting: deque[tuple[int, Request[SegmentT, ResultT]]] = field(default_factory=deque)
    results: dict[int, ResultT | Exception] = field(default_factory=dict)
    previous: ResultT | None = None
    blocked: bool = False

    @property
    def ready(self) -> int:
        """Requests that the network could take in now."""
        return int(bool(self.waiting) and not self.blocked) if self.in_order else len(self.waiting)

    def take(self) -> tuple[int, Request[SegmentT, ResultT]]:
        """Return the next request, with its index."""
        index, request = self.waiting.popleft()
        if self.in_order:
            self.blocked = True
            if self.previous is not None:
                request = replace(request, previous=self.previous)
        return index, request

    def deliver(self, index: int, result: ResultT | Exception) -> None:
        """Take in a result. After an error later requests that need it stay where they are."""
        self.results[index] = result
        if self.in_order and not isinstance(result, Exception):
            self.previous, self.blocked = result, False


@dataclass(frozen=True, eq=False)
class RequestId:
    """Whose request a slot works on."""

    caller: _Caller[Any, Any]
    index: int


class Slots(Protocol[SegmentT, ResultT]):
    """A network with room for some requests at a time. All of it is called from one thread."""

    @property
    def slots(self) -> int:
        """Requests that there is room for."""

    @property
    def active(self) -> int:
        """Requests under way."""

    @property
    def free(self) -> int:
        """Requests that it could take."""

    def add_requests(self, requests: Sequence[Request[SegmentT, ResultT]], ids: Sequence[RequestId]) -> None:
        """Take requests in. If it raises, `abort` can still be called for their ids."""

    def step(self) -> Sequence[tuple[RequestId, ResultT]]:
        """Advance all that are under way, and return the results of those that ended with it."""

    def abort(self, unwanted: Callable[[RequestId], bool]) -> list[RequestId]:
        """Abort requests by their ids; return those."""


class SingleStep(Generic[SegmentT, ResultT]):
    """A network without decoding steps, as `Slots`: a request's result is there as soon as it is added.

    Args:
        infer: returns the results of some segments, in order.
    """

    def __init__(self, infer: Callable[[Sequence[SegmentT]], Sequence[ResultT]], *, slots: int) -> None:
        self.slots = slots
        self._infer = infer
        self._done: list[tuple[RequestId, ResultT]] = []

    @property
    def active(self) -> int:
        """See `Slots`."""
        return len(self._done)

    @property
    def free(self) -> int:
        """See `Slots`."""
        return self.slots - self.active

    def add_requests(self, requests: Sequence[Request[SegmentT, ResultT]], ids: Sequence[RequestId]) -> None:
        """See `Slots`; all of them are one batch."""
        results = self._infer([request.segment for request in requests])
        self._done.extend(zip(ids, results, strict=True))

    def step(self) -> list[tuple[RequestId, ResultT]]:
        """See `Slots`."""
        done, self._done = self._done, []
        return done

    def abort(self, unwanted: Callable[[RequestId], bool]) -> list[RequestId]:
        """See `Slots`."""
        aborted = [request_id for request_id, _ in self._done if unwanted(request_id)]
        self._done = [(request_id, result) for request_id, result in self._done if request_id not in aborted]
        return aborted


@dataclass(frozen=True)
class Occupancy:
    """How full the batches of a network were: `slot_steps / steps` of `slots` segments, on average."""

    slots: int
    steps: int
    slot_steps: int


def occupancy_of(network: object) -> Occupancy | None:
    """Return the occupancy of the engine of a network, since that was loaded; None if it has no engine."""
    engines = [value for value in vars(network).values() if isinstance(value, Engine)]
    return engines[0].occupancy if engines else None


class Engine(Generic[SegmentT, ResultT]):
    """Runs a network for any number of threads.

    Its own thread lives as long as there are callers; nothing needs to be closed. A thread that still computes in
    native code when the interpreter ends would abort the process. So the last caller to leave waits for the step
    that is under way, and what is left of callers at exit is stopped there.
    """

    def __init__(self, network: Slots[SegmentT, ResultT], *, add_at_once: int) -> None:
        """Nothing runs yet.

        Args:
            network: its slots are those that the callers share.
            add_at_once: requests that it is given at once, if so many wait.
        """
        self.ahead = 2 * network.slots
        self._network = network
        self._add_at_once = min(add_at_once, network.slots)
        self._callers: deque[_Caller[SegmentT, ResultT]] = deque()  # the next one to be served first
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._steps = self._slot_steps = 0
        _engines.add(self)

    @property
    def occupancy(self) -> Occupancy:
        """Return the number of steps so far, and of slots that they advanced."""
        return Occupancy(self._network.slots, self._steps, self._slot_steps)

    def generate(
        self, requests: Iterable[Request[SegmentT, ResultT]], *, in_order: bool = False
    ) -> Generator[ResultT]:
        """Yield the results of a recording's requests, in order.

        Requests are taken on the calling thread, as there is room for them; what taking them raises reaches
        the caller. Closing the generator aborts the rest.

        Args:
            in_order: whether each request but the first is given the result of the one before it.
        """
        source = iter(requests)
        more = True
        with self.session(in_order=in_order) as session:
            while more or session.pending:
                if more and session.pending < self.ahead:
                    try:
                        request = next(source)
                    except StopIteration:
                        more = False
                    else:
                        session.submit(request)
                else:
                    yield session.take()

    @contextmanager
    def session(self, *, in_order: bool = False) -> Iterator[Session[SegmentT, ResultT]]:
        """Enter the requests of one recording one by one; what is under way at the end is aborted.

        Args:
            in_order: see `generate`.
        """
        caller: _Caller[SegmentT, ResultT] = _Caller(in_order)
        self._enter(caller)
        try:
            yield Session(self, caller)
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
            if self._stopped or _exiting.is_set():
                if threading.current_thread().daemon:
                    self._changed.wait_for(lambda: False)  # it ends with the process
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

    def _submit(self, caller: _Caller[SegmentT, ResultT], index: int, request: Request[SegmentT, ResultT]) -> None:
        with self._changed:
            caller.waiting.append((index, request))
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
                self._network.abort(lambda request_id: request_id.caller not in self._callers)
                if self._stopped or not self._callers:
                    self._thread = None
                    self._changed.notify_all()
                    return
                batch = self._next_batch()
            if batch:
                self._add(batch)
            else:
                self._step()

    def _idle(self) -> bool:
        """Return True if there are callers, but nothing to do for them."""
        return bool(self._callers) and not any(caller.ready for caller in self._callers)

    def _next_batch(self) -> list[tuple[RequestId, Request[SegmentT, ResultT]]]:
        """Return requests to add now, one of each caller in turn; none while too few slots are free."""
        waiting = sum(caller.ready for caller in self._callers)
        size = min(self._add_at_once, waiting)
        if self._network.free < size:
            return []
        batch: list[tuple[RequestId, Request[SegmentT, ResultT]]] = []
        while len(batch) < size:
            caller = self._callers[0]
            self._callers.rotate(-1)
            if caller.ready:
                index, request = caller.take()
                batch.append((RequestId(caller, index), request))
        return batch

    def _add(self, batch: list[tuple[RequestId, Request[SegmentT, ResultT]]]) -> None:
        """Assign slots to requests. If that fails, each is tried alone."""
        ids = [request_id for request_id, _ in batch]
        try:
            self._network.add_requests([request for _, request in batch], ids)
        except Exception as error:  # whatever it is, it belongs to these requests' callers
            self._network.abort(lambda request_id: request_id in ids)
            if len(batch) > 1:
                for one in batch:
                    self._add([one])
            else:
                self._deliver([(ids[0], error)])

    def _step(self) -> None:
        """Take one step of all slots. If that fails every request under way has failed."""
        self._steps += 1
        self._slot_steps += self._network.active
        try:
            self._deliver(self._network.step())
        except Exception as error:
            self._deliver([(request_id, error) for request_id in self._network.abort(lambda _: True)])

    def _deliver(self, results: Sequence[tuple[RequestId, ResultT | Exception]]) -> None:
        if not results:
            return
        with self._changed:
            for request_id, result in results:
                request_id.caller.deliver(request_id.index, result)
            self._changed.notify_all()


class Session(Generic[SegmentT, ResultT]):
    """A recording whose requests are submitted one by one; see `Engine.session`. For one thread.

    Attributes:
        pending: requests whose results have not been taken.
    """

    def __init__(self, engine: Engine[SegmentT, ResultT], caller: _Caller[SegmentT, ResultT]) -> None:
        self.pending = 0
        self._engine = engine
        self._caller = caller
        self._submitted = 0

    def submit(self, request: Request[SegmentT, ResultT]) -> None:
        """Hand over the next request."""
        self._engine._submit(self._caller, self._submitted, request)
        self._submitted += 1
        self.pending += 1

    def take(self) -> ResultT:
        """Wait for the next result, in the order of the requests. It is raised if it is an error."""
        self.pending -= 1
        return self._engine._take(self._caller, self._submitted - self.pending - 1)


@atexit.register
def _stop_engines() -> None:
    _exiting.set()  # for engines that are idle, and those that do not exist yet
    for engine in list(_engines):
        # It is not alive in a forked process. A second Ctrl-C must not leave it running.
        while engine._thread is not None and engine._thread.is_alive():
            with suppress(KeyboardInterrupt):
                engine.stop()
