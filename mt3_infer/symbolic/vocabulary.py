"""Token id ↔ event: the language that MT3 and YourMT3 write their notes in.

Ids are given to the event types one range after the other, behind the special ids 0 (padding, also the
start), 1 (end of sequence) and 2 (unknown). Pure Python, so that option names can be checked without torch.

Source: Gardner et al., MT3 (ICLR 2022), section 3.2, and the vocabulary published with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from mt3_infer.symbolic.instruments import Selection

PAD = 0
"""Also what the decoder is started with."""
END = 1
UNKNOWN = 2
SPECIAL_TOKENS = 3


STEPS_PER_SECOND = 100
"""Times in the token language are whole steps of 10 ms."""


class EventType(StrEnum):
    """The kinds of tokens."""

    SHIFT = "shift"
    PITCH = "pitch"
    VELOCITY = "velocity"
    TIE = "tie"
    PROGRAM = "program"
    DRUM = "drum"


@dataclass(frozen=True, slots=True)
class Event:
    """One token's meaning.

    The value of a shift is in steps of 10 ms, that of a velocity a bin (0 is note-off); others are MIDI
    numbers.
    """

    type: EventType
    value: int


@dataclass(frozen=True)
class EventRange:
    """The values that events of one type take, both ends included."""

    type: EventType
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1


class Codec:
    """Event ranges laid out one after the other."""

    def __init__(self, ranges: Iterable[EventRange]) -> None:
        self.ranges = tuple(ranges)
        self._events = [Event(r.type, value) for r in self.ranges for value in range(r.first, r.last + 1)]
        self._ids = {event: index + SPECIAL_TOKENS for index, event in enumerate(self._events)}

    def __len__(self) -> int:
        """Count the token ids that mean something, special ones included: 1391 in MT3, 596 in YourMT3."""
        return SPECIAL_TOKENS + len(self._events)

    def decode(self, token_id: int) -> Event | None:
        """Return the event of a token id; None for special, reserved and padding ids."""
        index = token_id - SPECIAL_TOKENS
        return self._events[index] if 0 <= index < len(self._events) else None

    def encode(self, event: Event) -> int:
        """Return the token id of an event.

        Raises:
            ValueError: there is no such event.
        """
        try:
            return self._ids[event]
        except KeyError:
            raise ValueError(f"The vocabulary has no {event.type} {event.value}.") from None

    def token_ids(self, event_type: EventType) -> range:
        """Return all token ids of an event type."""
        start = SPECIAL_TOKENS
        for r in self.ranges:
            if r.type == event_type:
                return range(start, start + len(r))
            start += len(r)
        raise ValueError(f"The vocabulary has no events of type {event_type}.")


MT3_VELOCITY_BINS = 1
"""The multi-instrument network's output has only whether a note sounds."""

MT3_CODEC = Codec(
    (
        EventRange(EventType.SHIFT, 0, 1000),
        EventRange(EventType.PITCH, 0, 127),
        EventRange(EventType.VELOCITY, 0, MT3_VELOCITY_BINS),
        EventRange(EventType.TIE, 0, 0),
        EventRange(EventType.PROGRAM, 0, 127),
        EventRange(EventType.DRUM, 0, 127),
    )
)

YOURMT3_CODEC = Codec(
    (
        EventRange(EventType.SHIFT, 0, 205),  # a segment, 2.048 s, and a step
        EventRange(EventType.PITCH, 0, 127),
        EventRange(EventType.VELOCITY, 0, 1),
        EventRange(EventType.TIE, 0, 0),
        EventRange(EventType.PROGRAM, 0, 127),
        EventRange(EventType.DRUM, 0, 127),
    )
)


def until_end(token_ids: Iterable[int]) -> list[int]:
    """Return the token ids before the end of sequence; all of them where there is none."""
    kept = []
    for token_id in token_ids:
        if token_id == END:
            break
        kept.append(token_id)
    return kept


def allowed_token_ids(codec: Codec, selection: Selection) -> list[int]:
    """Return the token ids that are left when only some instruments may play, the end among them.

    Of the programs, those of whole families are left: networks were trained with a few programs of each.
    """
    types = {EventType.SHIFT, EventType.VELOCITY, EventType.TIE}
    types |= {EventType.PITCH} if selection.programs else set()
    types |= {EventType.DRUM} if selection.drums else set()
    allowed = {END} | {token_id for event_type in types for token_id in codec.token_ids(event_type)}
    allowed |= {codec.encode(Event(EventType.PROGRAM, program)) for program in selection.family_programs}
    return sorted(allowed)
