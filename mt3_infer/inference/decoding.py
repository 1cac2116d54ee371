"""Greedy generation with a key/value cache: encoded segments in, token ids out.

A fixed set of slots, one sequence each. A slot whose sequence has ended is given to the next segment at once;
where none is waiting the last sequence moves into its place, so that no work is spent on finished ones. The tokens
of a sequence do not depend on the others beside it.

Which steps there are is a stepper's business: `HostStepper` looks at each token, the one of `cuda_graphs` at none
for a while. Nothing here knows notes, files or callers: a sequence carries a request id of the caller's choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from mt3_infer.inference.cuda_graphs import BlockStepper
from mt3_infer.inference.engine import Request
from mt3_infer.inference.kv_cache import KVCache, Limits
from mt3_infer.symbolic.vocabulary import END, PAD

if TYPE_CHECKING:
    from mt3_infer.models.t5 import Decoder

IdT = TypeVar("IdT")
SegmentT = TypeVar("SegmentT")


class Stepper(Protocol):
    """Adds tokens to the sequences in the first slots."""

    cache: KVCache

    def start(self, slot: int, logit_bias: Tensor | None) -> None:
        """Begin a sequence in a slot."""

    def move(self, source: int, target: int, length: int) -> None:
        """Take a sequence of that many tokens from a slot to another one."""

    def step(self, sequences: Sequence[list[int]]) -> list[bool]:
        """Add to the sequences, which fill the first slots; return for each whether it has ended."""

    def clear(self) -> None:
        """Free memory that is not needed while there are no sequences."""


class HostStepper:
    """One token for each sequence, which the host looks at before the next one."""

    def __init__(self, decoder: Decoder, limits: Limits, *, device: torch.device, dtype: torch.dtype) -> None:
        self.cache = KVCache(decoder.config, limits, device=device, dtype=dtype)
        self._decoder = decoder
        self._limits = limits
        self._device = device
        self._logit_bias: Tensor | None = None  # shape (S, V), once a sequence has one

    def start(self, slot: int, logit_bias: Tensor | None) -> None:
        """See `Stepper`."""
        if logit_bias is not None and self._logit_bias is None:
            self._logit_bias = torch.zeros(self._limits.slots, len(logit_bias), device=self._device)
        if self._logit_bias is not None:
            self._logit_bias[slot] = 0 if logit_bias is None else logit_bias

    def move(self, source: int, target: int, length: int) -> None:
        """See `Stepper`."""
        self.cache.move(source, target, length)
        if self._logit_bias is not None:
            self._logit_bias[target] = self._logit_bias[source]

    def step(self, sequences: Sequence[list[int]]) -> list[bool]:
        """See `Stepper`."""
        count, positions = len(sequences), [len(token_ids) for token_ids in sequences]
        newest = [token_ids[-1] if token_ids else PAD for token_ids in sequences]
        self.cache.fit(max(positions) + 1)
        logits = self._decoder(
            torch.tensor(newest, device=self._device),
            torch.tensor(positions, device=self._device),
            *self.cache.rows(count),
            self.cache.length,
        )
        if self._logit_bias is not None:
            logits += self._logit_bias[:count]
        ended = []
        for token_ids, token_id in zip(sequences, logits.argmax(dim=1).tolist(), strict=True):
            token_ids.append(token_id)
            has_end = token_id == END and len(token_ids) > self._limits.first_end
            ended.append(has_end or len(token_ids) == self._limits.max_tokens)
        return ended

    def clear(self) -> None:
        """See `Stepper`."""
        self._logit_bias = None
        self.cache.clear()


@dataclass
class _Sequence(Generic[IdT]):
    request_id: IdT
    token_ids: list[int] = field(default_factory=list)


class SlotDecoder(Generic[IdT]):
    """Generates for as many segments at once as there are slots. Not for several threads."""

    def __init__(self, decoder: Decoder, stepper: Stepper, slots: int) -> None:
        """See `make_decoder`."""
        self.slots = slots
        self.stepper = stepper
        self._decoder = decoder
        # Slots up to the first one that is free behind all others; None where a sequence has ended.
        self._sequences: list[_Sequence[IdT] | None] = []

    @property
    def active(self) -> int:
        """Sequences under way."""
        return sum(sequence is not None for sequence in self._sequences)

    @property
    def free(self) -> int:
        """Slots that could take a segment."""
        return self.slots - self.active

    @torch.inference_mode()
    def add_requests(
        self, encoded: Tensor, ids: Sequence[IdT], logit_biases: Sequence[Tensor | None] | None = None
    ) -> None:
        """Assign each segment a slot.

        Args:
            encoded: B segments, shape (B, T, D).
            ids: to know their results by.
            logit_biases: per segment what is added to the logits, shape (V,): 0, or -inf for forbidden tokens.
        """
        assert len(ids) <= self.free
        keys_values = self._decoder.segment_keys_values(encoded)  # (layers, 2, B, H, T, K)
        for index, (request_id, bias) in enumerate(zip(ids, logit_biases or [None] * len(ids), strict=True)):
            slot = self._take_slot(_Sequence(request_id))
            self.stepper.cache.put(slot, keys_values[:, :, index])
            self.stepper.start(slot, bias)

    @torch.inference_mode()
    def step(self) -> list[tuple[IdT, list[int]]]:
        """Add to every sequence.

        Returns:
            Request ids and token ids of those that ended with it: after the end token, which is among the token
            ids, or because they are as long as is allowed.
        """
        self._compact()
        sequences = [sequence for sequence in self._sequences if sequence is not None]
        if not sequences:
            return []
        results = []
        ended = self.stepper.step([sequence.token_ids for sequence in sequences])
        for slot, (sequence, has_ended) in enumerate(zip(sequences, ended, strict=True)):
            if has_ended:
                results.append((sequence.request_id, sequence.token_ids))
                self._sequences[slot] = None
        return results

    def abort(self, unwanted: Callable[[IdT], bool]) -> list[IdT]:
        """Abort sequences by their request ids; return those."""
        aborted = []
        for slot, sequence in enumerate(self._sequences):
            if sequence is not None and unwanted(sequence.request_id):
                aborted.append(sequence.request_id)
                self._sequences[slot] = None
        return aborted

    def _take_slot(self, sequence: _Sequence[IdT]) -> int:
        for slot, taken in enumerate(self._sequences):
            if taken is None:
                self._sequences[slot] = sequence
                return slot
        self._sequences.append(sequence)
        return len(self._sequences) - 1

    def _compact(self) -> None:
        """Close the gaps, so that the sequences under way lie in the first slots."""
        while None in self._sequences:
            last = len(self._sequences) - 1
            moved = self._sequences.pop()
            if moved is None:
                continue
            gap = self._sequences.index(None)
            self._sequences[gap] = moved
            self.stepper.move(last, gap, len(moved.token_ids))
        if not self._sequences:
            self.stepper.clear()


def make_decoder(
    decoder: Decoder,
    limits: Limits,
    *,
    device: torch.device,
    dtype: torch.dtype,
    in_blocks: bool | None = None,
) -> SlotDecoder[IdT]:
    """Make a slot decoder for a device.

    Args:
        dtype: of the keys and values.
        in_blocks: whether the host looks at tokens only after a block of steps; by the device where None.
    """
    in_blocks = device.type != "cpu" if in_blocks is None else in_blocks
    stepper: Stepper = (BlockStepper if in_blocks else HostStepper)(decoder, limits, device=device, dtype=dtype)
    return SlotDecoder(decoder, stepper, limits.slots)


class EncoderDecoder(Generic[SegmentT, IdT]):
    """A network of both kinds as the engine drives one: it encodes what it takes in, then decodes in slots."""

    def __init__(
        self,
        encode: Callable[[Sequence[Request[SegmentT, list[int]]]], Tensor],
        decoder: SlotDecoder[IdT],
    ) -> None:
        """Args: encode: makes of B requests what the decoder looks at, shape (B, T, D)."""
        self._encode = encode
        self._decoder = decoder
        self.slots = decoder.slots
        self.step = decoder.step
        self.abort = decoder.abort

    @property
    def active(self) -> int:
        """Sequences under way."""
        return self._decoder.active

    @property
    def free(self) -> int:
        """Slots that could take a segment."""
        return self._decoder.free

    @torch.inference_mode()
    def add_requests(self, requests: Sequence[Request[SegmentT, list[int]]], ids: Sequence[IdT]) -> None:
        """Encode segments and assign each a slot."""
        self._decoder.add_requests(self._encode(requests), ids, [request.logit_bias for request in requests])


class MultiChannelDecoder(Generic[SegmentT, IdT]):
    """The same for a network that gives several sequences for each segment, one for each of its channels.

    Each channel has a slot of its own, which is free again when it has ended; the segment's result is there when
    all of its channels have.
    """

    def __init__(
        self,
        encode: Callable[[Sequence[SegmentT]], Tensor],
        decoder: SlotDecoder[tuple[IdT, int]],
        *,
        channels: int,
    ) -> None:
        """Args: encode: makes of B segments what the decoder looks at, shape (B × C, T, D), segment by segment."""
        assert decoder.slots >= channels, "There is no room for a single segment."
        self.slots = decoder.slots // channels
        self._encode = encode
        self._decoder = decoder
        self._channels = channels
        self._done: dict[IdT, dict[int, list[int]]] = {}

    @property
    def active(self) -> int:
        """Segments under way."""
        return len(self._done)

    @property
    def free(self) -> int:
        """Segments that it could take."""
        return self._decoder.free // self._channels

    @torch.inference_mode()
    def add_requests(self, requests: Sequence[Request[SegmentT, list[list[int]]]], ids: Sequence[IdT]) -> None:
        """Encode segments and assign each of their channels a slot."""
        places = [(request_id, channel) for request_id in ids for channel in range(self._channels)]
        self._decoder.add_requests(self._encode([request.segment for request in requests]), places)
        self._done |= {request_id: {} for request_id in ids}

    def step(self) -> list[tuple[IdT, list[list[int]]]]:
        """Add to every sequence; return the token ids, by channel, of the segments that ended with it."""
        results = []
        for (request_id, channel), token_ids in self._decoder.step():
            done = self._done[request_id]
            done[channel] = token_ids
            if len(done) == self._channels:
                del self._done[request_id]
                results.append((request_id, [done[channel] for channel in range(self._channels)]))
        return results

    def abort(self, unwanted: Callable[[IdT], bool]) -> list[IdT]:
        """Abort segments by their request ids; return those."""
        aborted = [request_id for request_id in self._done if unwanted(request_id)]
        self._decoder.abort(lambda place: unwanted(place[0]))
        for request_id in aborted:
            del self._done[request_id]
        return aborted
