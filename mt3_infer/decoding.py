"""Greedy generation with a key/value cache: encoded segments in, token ids out.

A fixed set of slots, one sequence each. A slot whose sequence has ended is given to the next segment at once;
where none is waiting the last sequence moves into its place, so that no work is spent on finished ones. What
a sequence says does not depend on the others beside it.

It knows nothing of notes, files or callers: a sequence carries a ticket of the caller's choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor

from mt3_infer.models.t5 import Decoder
from mt3_infer.vocabulary import END, PAD

Ticket = TypeVar("Ticket")
SegmentT = TypeVar("SegmentT")

FIRST_CAPACITY = 32
"""Tokens that the cache has room for at first; it grows by as many when a sequence needs more.

All of it is read at each step, and what is too much is masked: on a CPU the products over a part of a cache take
twice as long for each token as over the whole.
"""


@dataclass
class SlotSequence(Generic[Ticket]):
    """What is said so far for one segment."""

    ticket: Ticket
    token_ids: list[int] = field(default_factory=list)


class SlotDecoder(Generic[Ticket]):
    """Generates for up to `slots` segments at once. Not for several threads."""

    def __init__(
        self,
        decoder: Decoder,
        *,
        slots: int,
        frames: int,
        max_tokens: int,
        device: torch.device,
        dtype: torch.dtype,
        first_end: int = 0,
    ) -> None:
        """Make room.

        Args:
            frames: that every encoded segment has.
            max_tokens: after which a sequence ends by itself.
            dtype: of the keys and values.
            first_end: first position at which an end token ends a sequence; earlier ones are tokens like others.
        """
        assert max_tokens <= decoder.config.max_length, "There are no positions for that many tokens."
        self.slots = slots
        self._decoder = decoder
        self._max_tokens = max_tokens
        self._first_end = first_end
        self._device = device
        self.cache_dtype = dtype
        self._segments = self._rooms_for(frames)
        self._tokens = self._rooms_for(min(FIRST_CAPACITY, max_tokens))
        self._penalty: Tensor | None = None
        # Slots up to the first one that is free behind all others; None where a sequence has ended.
        self._sequences: list[SlotSequence[Ticket] | None] = []

    @property
    def active(self) -> int:
        """Sequences under way."""
        return sum(sequence is not None for sequence in self._sequences)

    @property
    def free(self) -> int:
        """Slots that could take a segment."""
        return self.slots - self.active

    @torch.inference_mode()
    def admit(self, encoded: Tensor, tickets: Sequence[Ticket], penalties: Sequence[Tensor | None]) -> None:
        """Give segments a slot each.

        Args:
            encoded: B segments, shape (B, T, D).
            tickets: to know their results by.
            penalties: per segment what is added to the logits, shape (V,): 0, or -inf for forbidden tokens.
        """
        assert len(tickets) <= self.free
        keys_values = self._decoder.segment_keys_values(encoded)  # (layers, 2, B, H, T, K)
        for index, (ticket, penalty) in enumerate(zip(tickets, penalties, strict=True)):
            slot = self._take_slot(SlotSequence(ticket))
            for kept, fresh in zip(self._segments, keys_values, strict=True):
                kept[:, slot] = fresh[:, index]
            self._penalise(slot, penalty)

    @torch.inference_mode()
    def step(self) -> list[tuple[Ticket, list[int]]]:
        """Add a token to every sequence.

        Returns:
            Tickets and token ids of those that ended with it: after the end token, which is among the ids, or
            because they are as long as is allowed.
        """
        self._compact()
        sequences = [sequence for sequence in self._sequences if sequence is not None]
        if not sequences:
            return []
        count = len(sequences)
        positions = [len(sequence.token_ids) for sequence in sequences]
        newest = [sequence.token_ids[-1] if sequence.token_ids else PAD for sequence in sequences]
        span = max(positions) + 1
        self._fit(span)
        logits = self._decoder(
            torch.tensor(newest, device=self._device),
            torch.tensor(positions, device=self._device),
            [layer[:, :count] for layer in self._tokens],
            [layer[:, :count] for layer in self._segments],
            self._capacity,
        )
        if self._penalty is not None:
            logits += self._penalty[:count]
        ended = []
        for slot, (sequence, token_id) in enumerate(zip(sequences, logits.argmax(dim=1).tolist(), strict=True)):
            sequence.token_ids.append(token_id)
            length = len(sequence.token_ids)
            if (token_id == END and length > self._first_end) or length == self._max_tokens:
                ended.append((sequence.ticket, sequence.token_ids))
                self._sequences[slot] = None
        return ended

    def drop(self, unwanted: Callable[[Ticket], bool]) -> list[Ticket]:
        """Give up sequences by their tickets; returns those."""
        dropped = []
        for slot, sequence in enumerate(self._sequences):
            if sequence is not None and unwanted(sequence.ticket):
                dropped.append(sequence.ticket)
                self._sequences[slot] = None
        return dropped

    def _take_slot(self, sequence: SlotSequence[Ticket]) -> int:
        for slot, taken in enumerate(self._sequences):
            if taken is None:
                self._sequences[slot] = sequence
                return slot
        self._sequences.append(sequence)
        return len(self._sequences) - 1

    def _penalise(self, slot: int, penalty: Tensor | None) -> None:
        if penalty is not None and self._penalty is None:
            self._penalty = torch.zeros(self.slots, len(penalty), device=self._device)
        if self._penalty is not None:
            self._penalty[slot] = 0 if penalty is None else penalty

    def _compact(self) -> None:
        """Close the gaps, so that the sequences under way lie in the first slots."""
        while None in self._sequences:
            last = len(self._sequences) - 1
            moved = self._sequences.pop()
            if moved is None:
                continue
            gap = self._sequences.index(None)
            self._sequences[gap] = moved
            self._moved(last, gap, len(moved.token_ids))
        if not self._sequences:
            self._rest()

    def _rest(self) -> None:
        """Nothing is under way: give back what only long sequences needed."""
        self._penalty = None
        if self._capacity > FIRST_CAPACITY:
            self._tokens = self._rooms_for(FIRST_CAPACITY)

    def _moved(self, source: int, target: int, length: int) -> None:
        """Take what a slot holds to another one."""
        for segment, tokens in zip(self._segments, self._tokens, strict=True):
            segment[:, target] = segment[:, source]
            tokens[:, target, :, :length] = tokens[:, source, :, :length]
        if self._penalty is not None:
            self._penalty[target] = self._penalty[source]

    def _fit(self, span: int) -> None:
        """Make room in the cache for sequences of `span` tokens, or give back room when most of it is unused.

        Layer by layer, or it would be held twice.
        """
        capacity = self._capacity
        wanted = min(-(-span // FIRST_CAPACITY) * FIRST_CAPACITY, self._max_tokens)
        if wanted > capacity or 2 * wanted < capacity:
            common = min(wanted, capacity)
            for layer, kept in enumerate(self._tokens):
                fitted = self._room_for(wanted)
                fitted[:, :, :, :common] = kept[:, :, :, :common]
                self._tokens[layer] = fitted

    @property
    def _capacity(self) -> int:
        return self._tokens[0].shape[3]

    def _rooms_for(self, length: int) -> list[Tensor]:
        """One for each layer."""
        return [self._room_for(length) for _ in range(self._decoder.config.num_decoder_layers)]

    def _room_for(self, length: int) -> Tensor:
        """Keys and values of a length for every slot, in one layer, shape (2, S, H, length, K)."""
        config = self._decoder.config
        shape = (2, self.slots, config.num_heads, length, config.d_kv)
        return torch.zeros(shape, dtype=self.cache_dtype, device=self._device)


class EncoderDecoder(Generic[SegmentT, Ticket]):
    """A network of both kinds as `mt3_infer.engine` drives one: it encodes what it admits, then decodes in slots.

    A segment comes with its penalty: what is added to the logits, shape (V,), 0 or -inf for forbidden tokens.
    """

    def __init__(self, encode: Callable[[Sequence[SegmentT]], Tensor], decoder: SlotDecoder[Ticket]) -> None:
        """Args: encode: makes of B segments what the decoder looks at, shape (B, T, D)."""
        self._encode = encode
        self._decoder = decoder
        self.slots = decoder.slots
        self.step = decoder.step
        self.drop = decoder.drop

    @property
    def active(self) -> int:
        """Sequences under way."""
        return self._decoder.active

    @property
    def free(self) -> int:
        """Slots that could take a segment."""
        return self._decoder.free

    @torch.inference_mode()
    def admit(self, segments: Sequence[tuple[SegmentT, Tensor | None]], tickets: Sequence[Ticket]) -> None:
        """Encode segments and give them a slot each."""
        encoded = self._encode([segment for segment, _ in segments])
        self._decoder.admit(encoded, tickets, [penalty for _, penalty in segments])


class ChannelDecoder(Generic[SegmentT, Ticket]):
    """The same for a network that says several sequences for each segment, one for each of its channels.

    Each channel has a slot of its own, which is free again when it has ended; the segment's result is there when
    all of its channels have.
    """

    def __init__(
        self,
        encode: Callable[[Sequence[SegmentT]], Tensor],
        decoder: SlotDecoder[tuple[Ticket, int]],
        *,
        channels: int,
    ) -> None:
        """Args: encode: makes of B segments what the decoder looks at, shape (B × C, T, D), segment by segment."""
        assert decoder.slots >= channels, "There is no room for a single segment."
        self.slots = decoder.slots // channels
        self._encode = encode
        self._decoder = decoder
        self._channels = channels
        self._said: dict[Ticket, dict[int, list[int]]] = {}

    @property
    def active(self) -> int:
        """Segments under way."""
        return len(self._said)

    @property
    def free(self) -> int:
        """Segments that it could take."""
        return self._decoder.free // self._channels

    @torch.inference_mode()
    def admit(self, segments: Sequence[SegmentT], tickets: Sequence[Ticket]) -> None:
        """Encode segments and give their channels a slot each."""
        places = [(ticket, channel) for ticket in tickets for channel in range(self._channels)]
        self._decoder.admit(self._encode(segments), places, [None] * len(places))
        self._said |= {ticket: {} for ticket in tickets}

    def step(self) -> list[tuple[Ticket, list[list[int]]]]:
        """Add to every sequence; give the token ids, channel by channel, of the segments that ended with it."""
        done = []
        for (ticket, channel), token_ids in self._decoder.step():
            said = self._said[ticket]
            said[channel] = token_ids
            if len(said) == self._channels:
                del self._said[ticket]
                done.append((ticket, [said[channel] for channel in range(self._channels)]))
        return done

    def drop(self, unwanted: Callable[[Ticket], bool]) -> list[Ticket]:
        """Give up segments by their tickets."""
        dropped = [ticket for ticket in self._said if unwanted(ticket)]
        self._decoder.drop(lambda place: unwanted(place[0]))
        for ticket in dropped:
            del self._said[ticket]
        return dropped
