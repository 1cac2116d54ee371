"""One network serving several callers at once: segments in, token ids out.

Each caller hands over the segments of one recording and gets their tokens back in order. The segments of all
callers share the decoder's slots. Between callers the next free slot goes round; what one of them does, fails
at, or gives up leaves the others as they are.

A caller decodes its audio on its own thread while the network works on earlier segments, and never runs
further ahead than `ahead` of them: memory stays the same however long the recording is. All arithmetic is done
on the engine's thread: two threads with a pool of workers each get in each other's way on the same cores.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor

from mt3_infer.decoding import SlotDecoder

SegmentT = TypeVar("SegmentT")


@dataclass(eq=False)
class _Caller(Generic[SegmentT]):
    """A recording under way.

    Attributes:
        waiting: segments, by index, that no slot has been found for yet.
        results: token ids by segment, or why there are none, until they are called for.
    """

    penalty: Tensor | None
    waiting: deque[tuple[int, SegmentT]] = field(default_factory=deque)
    results: dict[int, list[int] | Exception] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Ticket(Generic[SegmentT]):
    """Whose segment a slot works on."""

    caller: _Caller[SegmentT]
    index: int


class Engine(Generic[SegmentT]):
    """Runs a network for any number of threads.

    Its own thread lives as long as there are callers; nothing needs to be closed.
    """

    def __init__(
        self,
        encode: Callable[[Sequence[SegmentT]], Tensor],
        decoder: SlotDecoder[Ticket[SegmentT]],
        *,
        encode_at_once: int,
    ) -> None:
        """Nothing runs yet.

        Args:
            encode: makes of B segments what the decoder looks at, shape (B, T, D).
            decoder: its slots are those that the callers share.
            encode_at_once: segments encoded at once.
        """
        self.ahead = 2 * decoder.slots
        self._encode_segments = encode
        self._decoder = decoder
        self._encode_at_once = min(encode_at_once, decoder.slots)
        self._callers: deque[_Caller[SegmentT]] = deque()  # the next one to be served first
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def generate(self, segments: Iterable[SegmentT], *, penalty: Tensor | None = None) -> Generator[list[int]]:
        """Token ids of a recording's segments, in order.

        Segments are taken on the calling thread, as there is room for them; what taking them raises reaches
        the caller. Closing the generator gives up what is left.

        Args:
            segments: as `encode` takes them.
            penalty: added to the logits, shape (V,): 0, or -inf for forbidden tokens.
        """
        caller: _Caller[SegmentT] = _Caller(penalty)
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

    def _enter(self, caller: _Caller[SegmentT]) -> None:
        with self._changed:
            self._callers.append(caller)
            # Not alive either in a process that was forked from one with callers.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._serve, name="mt3-engine", daemon=True)
                self._thread.start()

    def _leave(self, caller: _Caller[SegmentT]) -> None:
        with self._changed:
            self._callers.remove(caller)
            self._changed.notify_all()

    def _submit(self, caller: _Caller[SegmentT], index: int, segment: SegmentT) -> None:
        with self._changed:
            caller.waiting.append((index, segment))
            self._changed.notify_all()

    def _take(self, caller: _Caller[SegmentT], index: int) -> list[int]:
        with self._changed:
            self._changed.wait_for(lambda: index in caller.results)
            result = caller.results.pop(index)
        if isinstance(result, Exception):
            raise result
        return result

    # --- The engine's own thread
    # -----------------------------------------------------------------------------

    def _serve(self) -> None:
        """Encode and decode until no caller is left."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._decoder.active or not self._idle())
                self._decoder.drop(lambda ticket: ticket.caller not in self._callers)
                if not self._callers:
                    self._thread = None
                    return
                batch = self._next_batch()
            if batch:
                self._encode(batch)
            else:
                self._decode()

    def _idle(self) -> bool:
        """Whether there are callers, but nothing to do for them."""
        return bool(self._callers) and not any(caller.waiting for caller in self._callers)

    def _next_batch(self) -> list[tuple[Ticket[SegmentT], SegmentT]]:
        """Segments to encode now, one of each caller in turn; none while too few slots are free."""
        waiting = sum(len(caller.waiting) for caller in self._callers)
        size = min(self._encode_at_once, waiting)
        if self._decoder.free < size:
            return []
        batch: list[tuple[Ticket[SegmentT], SegmentT]] = []
        while len(batch) < size:
            caller = self._callers[0]
            self._callers.rotate(-1)
            if caller.waiting:
                index, segment = caller.waiting.popleft()
                batch.append((Ticket(caller, index), segment))
        return batch

    def _encode(self, batch: list[tuple[Ticket[SegmentT], SegmentT]]) -> None:
        """Encode segments and give them their slots. If that fails each is tried alone."""
        tickets = [ticket for ticket, _ in batch]
        try:
            with torch.inference_mode():
                encoded = self._encode_segments([segment for _, segment in batch])
                self._decoder.admit(encoded, tickets, [ticket.caller.penalty for ticket in tickets])
        except Exception as error:  # whatever it is, it belongs to these segments' callers
            self._decoder.drop(lambda ticket: ticket in tickets)
            if len(batch) > 1:
                for one in batch:
                    self._encode([one])
            else:
                self._deliver([(tickets[0], error)])

    def _decode(self) -> None:
        """One step of all slots. If that fails every sequence under way has failed."""
        try:
            self._deliver(self._decoder.step())
        except Exception as error:
            self._deliver([(ticket, error) for ticket in self._decoder.drop(lambda _: True)])

    def _deliver(self, results: Sequence[tuple[Ticket[SegmentT], list[int] | Exception]]) -> None:
        if not results:
            return
        with self._changed:
            for ticket, result in results:
                ticket.caller.results[ticket.index] = result
            self._changed.notify_all()
