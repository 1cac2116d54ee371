"""One network serving several callers at once: features in, token ids out.

Each caller hands over the segments of one recording and gets their tokens back in order. The segments of all
callers share the decoder's slots. Between callers the next free slot goes round; what one of them does, fails
at, or gives up leaves the others as they are.

A caller makes its features on its own thread while the network works on an earlier segment, and never runs
further ahead than `ahead` segments: memory stays the same however long the recording is.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mt3_infer.decoding import SlotDecoder
from mt3_infer.models.t5 import T5


@dataclass(eq=False)
class _Caller:
    """A recording under way.

    Attributes:
        waiting: segments, by index, that no slot has been found for yet.
        results: token ids by segment, or why there are none, until they are called for.
    """

    penalty: Tensor | None
    waiting: deque[tuple[int, Tensor]] = field(default_factory=deque)
    results: dict[int, list[int] | Exception] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Ticket:
    caller: _Caller
    index: int


class Engine:
    """Runs a network for any number of threads.

    Its own thread lives as long as there are callers; nothing needs to be closed.
    """

    def __init__(
        self,
        network: T5,
        *,
        frames: int,
        slots: int,
        encode_at_once: int,
        max_tokens: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """Make room for the slots.

        Args:
            network: prepared for the device, see `mt3_infer.models.linear.prepare`.
            frames: that every segment has.
            slots: segments decoded at once.
            encode_at_once: segments encoded at once.
            max_tokens: that a segment can have.
            device, dtype: where the network runs, and the type of the decoder's keys and values.
        """
        self.slots = slots
        self.ahead = 2 * slots
        self._network = network
        self._frames = frames
        self._encode_at_once = min(encode_at_once, slots)
        self._device = device
        self._decoder: SlotDecoder[_Ticket] = SlotDecoder(
            network.decoder, slots=slots, frames=frames, max_tokens=max_tokens, device=device, dtype=dtype
        )
        self._callers: deque[_Caller] = deque()  # the next one to be served first
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def generate(self, features: Iterable[Tensor], *, penalty: Tensor | None = None) -> Generator[list[int]]:
        """Token ids of a recording's segments, in order.

        Features are taken on the calling thread, as there is room for them; what taking them raises reaches
        the caller. Closing the generator gives up what is left.

        Args:
            features: of each segment, shape (T, F).
            penalty: added to the logits, shape (V,): 0, or -inf for forbidden tokens.
        """
        caller = _Caller(None if penalty is None else penalty.to(self._device))
        source = iter(features)
        submitted = delivered = 0
        more = True
        self._enter(caller)
        try:
            while more or delivered < submitted:
                if more and submitted - delivered < self.ahead:
                    segment = next(source, None)
                    if segment is None:
                        more = False
                    else:
                        self._submit(caller, submitted, segment)
                        submitted += 1
                else:
                    yield self._take(caller, delivered)
                    delivered += 1
        finally:
            self._leave(caller)

    def _enter(self, caller: _Caller) -> None:
        with self._changed:
            self._callers.append(caller)
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="mt3-engine", daemon=True)
                self._thread.start()

    def _leave(self, caller: _Caller) -> None:
        with self._changed:
            self._callers.remove(caller)
            self._changed.notify_all()

    def _submit(self, caller: _Caller, index: int, features: Tensor) -> None:
        expected = (self._frames, self._network.config.n_features)
        if features.shape != expected:
            raise ValueError(f"A segment's features have shape {expected}, not {tuple(features.shape)}.")
        with self._changed:
            caller.waiting.append((index, features))
            self._changed.notify_all()

    def _take(self, caller: _Caller, index: int) -> list[int]:
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

    def _next_batch(self) -> list[tuple[_Ticket, Tensor]]:
        """Segments to encode now, one of each caller in turn; none while too few slots are free."""
        waiting = sum(len(caller.waiting) for caller in self._callers)
        size = min(self._encode_at_once, waiting)
        if self._decoder.free < size:
            return []
        batch: list[tuple[_Ticket, Tensor]] = []
        while len(batch) < size:
            caller = self._callers[0]
            self._callers.rotate(-1)
            if caller.waiting:
                index, features = caller.waiting.popleft()
                batch.append((_Ticket(caller, index), features))
        return batch

    def _encode(self, batch: list[tuple[_Ticket, Tensor]]) -> None:
        """Encode segments and give them their slots. If that fails each is tried alone."""
        tickets = [ticket for ticket, _ in batch]
        try:
            with torch.inference_mode():
                features = torch.stack([features for _, features in batch]).to(self._device)
                encoded = self._network.encoder(features)
                keys_values = self._network.decoder.segment_keys_values(encoded)
                self._decoder.admit(keys_values, tickets, [ticket.caller.penalty for ticket in tickets])
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

    def _deliver(self, results: Iterable[tuple[_Ticket, list[int] | Exception]]) -> None:
        with self._changed:
            for ticket, result in results:
                ticket.caller.results[ticket.index] = result
            self._changed.notify_all()
