"""Tokens of YourMT3's channels → notes.

Its rules are not those of MT3 (`mt3_infer.symbolic.notes.NoteDecoder`): a shift counts from the segment's start
and does not add up, a tie only keeps a note from being ended, a segment without a tie event has no notes, and
notes are made of all events of a recording at once, in the order of their times.

Source: Chang et al., YourMT3+ (2024), and the decoding published with its weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter

from mt3_infer.models.yourmt3.config import FIRST_END, GRID
from mt3_infer.network import NetworkOutput
from mt3_infer.symbolic.notes import Key, Note
from mt3_infer.symbolic.vocabulary import END, STEPS_PER_SECOND, YOURMT3_CODEC, EventType

SHORTEST = 0.01
"""Seconds that a note lasts at least, and a drum note always."""

LONGEST = 10.0
"""Seconds; what lasts longer was never ended, and is cut to the shortest."""

VELOCITY = 100
"""The velocity of every note: the network's output has only whether one sounds."""


@dataclass(frozen=True, slots=True)
class NoteEvent:
    """A note begins or, with `is_onset` false, ends. Drums only begin; their program means nothing."""

    time: float  # seconds
    is_drum: bool
    pitch: int
    is_onset: bool
    program: int


@dataclass
class SegmentEvents:
    """The decoded tokens of one segment.

    Attributes:
        ties: notes that go on sounding from the segment before.
        sounding: notes that sound at its end. One that was struck twice is in it twice.
        invalid_tokens: those that are out of place.
    """

    events: list[NoteEvent] = field(default_factory=list)
    ties: list[Key] = field(default_factory=list)
    sounding: list[Key] = field(default_factory=list)
    invalid_tokens: int = 0


def read_segment(token_ids: Sequence[int], start: float) -> SegmentEvents:
    """Read the tokens of one segment of a channel.

    Args:
        start: of the segment, in seconds.
    """
    found = SegmentEvents()
    program, body = _read_ties(token_ids, found)
    if body is None:
        return SegmentEvents(invalid_tokens=found.invalid_tokens + 1)
    first_step = round(STEPS_PER_SECOND * start)
    step, velocity = first_step, None
    for token_id in token_ids[body:]:
        if token_id == END:
            break
        event = YOURMT3_CODEC.decode(token_id)
        if event is None:
            continue
        time = step / STEPS_PER_SECOND
        match event.type:
            case EventType.SHIFT if event.value:
                step = first_step + event.value
            case EventType.PROGRAM:
                program = event.value
            case EventType.VELOCITY:
                velocity = event.value
            case EventType.DRUM:
                found.events.append(NoteEvent(time, True, event.value, True, 0))
            case EventType.PITCH if program is not None and velocity:
                found.events.append(NoteEvent(time, False, event.value, True, program))
                found.sounding.append((program, event.value))
            case EventType.PITCH if velocity == 0 and (program, event.value) in found.sounding:
                assert program is not None
                found.events.append(NoteEvent(time, False, event.value, False, program))
                found.sounding.remove((program, event.value))
            case _:
                found.invalid_tokens += 1
    return found


def _read_ties(token_ids: Sequence[int], found: SegmentEvents) -> tuple[int | None, int | None]:
    """Read up to the tie event. Returns the program in force and where the body begins: None without the event."""
    program: int | None = None
    for place, token_id in enumerate(token_ids):
        event = YOURMT3_CODEC.decode(token_id)
        match event.type if event is not None else None:
            case EventType.TIE:
                return program, place + 1
            case EventType.SHIFT:
                break
            case EventType.PROGRAM if event is not None:
                program = event.value
            case EventType.PITCH if event is not None:
                if program is None:
                    found.invalid_tokens += 1
                else:
                    found.ties.append((program, event.value))
                    found.sounding.append((program, event.value))
    return program, None


class ChannelDecoder:
    """Segments of one channel, one after the other → notes.

    Attributes:
        invalid_tokens: out of place.
        unmatched_offsets: ends of notes that do not sound. Some are no fault: a note that was struck again, a tie
            from a segment that was not understood.
    """

    def __init__(self) -> None:
        self.invalid_tokens = 0
        self.unmatched_offsets = 0
        self._events: list[NoteEvent] = []
        self._sounding: list[Key] = []

    def feed(self, token_ids: Sequence[int], start: float) -> None:
        """Take in the next segment; its start in seconds."""
        segment = read_segment(token_ids, start)
        for program, pitch in self._sounding:
            if (program, pitch) not in segment.ties:
                self._events.append(NoteEvent(start, False, pitch, False, program))
        self._events += segment.events
        self._sounding = segment.sounding
        self.invalid_tokens += segment.invalid_tokens

    def finish(self) -> list[Note]:
        """Return the notes of the channel, sorted."""
        notes: list[Note] = []
        open_notes: dict[Key, float] = {}
        # At the same time notes end before others begin.
        for event in sorted(self._events, key=attrgetter("time", "is_drum", "pitch", "is_onset", "program")):
            key = (event.program, event.pitch)
            if event.is_drum:
                notes.append(_note(event.time, event.time + SHORTEST, key, is_drum=True))
                continue
            if key in open_notes:
                notes.append(_note(open_notes.pop(key), event.time, key))
            elif not event.is_onset:
                self.unmatched_offsets += 1
            if event.is_onset:
                open_notes[key] = event.time
        notes += [_note(onset, onset + SHORTEST, key) for key, onset in open_notes.items()]
        notes = [_cut(note, SHORTEST) if note.offset - note.onset > LONGEST else note for note in notes]
        return trim_overlaps(_lengthened(sorted(notes, key=_order)))


def mix_channels(channels: Iterable[Sequence[Note]]) -> list[Note]:
    """Return the notes of all channels, sorted; of those with the same onset, pitch and program the longest."""
    notes = sorted((note for notes in channels for note in notes), key=lambda note: (*_order(note), note.offset))
    return _lengthened(trim_overlaps(notes))


def trim_overlaps(notes: list[Note]) -> list[Note]:
    """End each note where the next one of its pitch and program begins; drop notes of no length."""
    following: dict[tuple[bool, Key], float] = {}  # onset of the note after this one
    trimmed = []
    for note in sorted(notes, key=attrgetter("onset"))[::-1]:
        key = note.is_drum, (note.program, note.pitch)
        limit = following.get(key, note.offset)
        following[key] = note.onset
        if min(note.offset, limit) != note.onset:
            trimmed.append(replace(note, offset=limit) if note.offset > limit else note)
    trimmed.reverse()  # equal ones stay in the order of their onsets
    return sorted(trimmed, key=_order)


def _note(onset: float, offset: float, key: Key, *, is_drum: bool = False) -> Note:
    program, pitch = key
    return Note(onset, offset, pitch, VELOCITY, program, is_drum)


def _cut(note: Note, length: float) -> Note:
    return replace(note, offset=note.onset + length)


def _lengthened(notes: Iterable[Note]) -> list[Note]:
    return [
        _cut(note, SHORTEST) if note.offset < note.onset or (not note.is_drum and _is_short(note)) else note
        for note in notes
    ]


def _is_short(note: Note) -> bool:
    return note.offset - note.onset < SHORTEST


def _order(note: Note) -> tuple[float, bool, int, int]:
    return note.onset, note.is_drum, note.program, note.pitch


def _classes(*classes: tuple[int, Iterable[int]]) -> Mapping[int, int]:
    return {program: written for written, programs in classes for program in programs}


WRITTEN_PROGRAMS = _classes(
    (0, (0, 1, 3, 6, 7)),  # acoustic piano
    (2, (2, 4, 5)),  # electric piano
    (8, range(8, 16)),  # chromatic percussion
    (16, range(16, 24)),  # organ
    (24, range(24, 28)),  # clean guitar
    (30, range(28, 32)),  # distorted guitar
    (33, range(32, 40)),  # bass
    (48, range(40, 56)),  # strings
    (56, range(56, 64)),  # brass
    (64, range(64, 72)),  # reed
    (72, range(72, 80)),  # pipe
    (80, range(80, 88)),  # synth lead
    (88, range(88, 96)),  # synth pad
    (65, (100,)),  # a singing voice: an alto saxophone
    (53, (101,)),  # a choir: voice oohs
)
"""General MIDI's program for each of the network's; others stay as they are.

It was trained on classes of instruments, and 100 and 101 are voices to it. Nothing else is written as 65 or 53.
"""


def to_general_midi(notes: Iterable[Note]) -> list[Note]:
    """Return the same notes with General MIDI's programs."""
    return [
        note if note.is_drum else replace(note, program=WRITTEN_PROGRAMS.get(note.program, note.program))
        for note in notes
    ]


class YourMT3Collector:
    """Token ids of the segments of a recording → notes."""

    def __init__(self, channels: int) -> None:
        self._channels = [ChannelDecoder() for _ in range(channels)]
        self._segments = 0
        self._unfinished = 0

    def feed(self, result: list[list[int]]) -> None:
        """Take the next segment's token ids, channel by channel."""
        start = GRID.hop * self._segments / GRID.sample_rate
        for channel, token_ids in zip(self._channels, result, strict=True):
            channel.feed(token_ids, start)
            self._unfinished += END not in token_ids[FIRST_END:]
        self._segments += 1

    def finish(self, samples: int) -> NetworkOutput:
        """Return the notes of the recording."""
        mixed = mix_channels(channel.finish() for channel in self._channels)
        return NetworkOutput(
            notes=to_general_midi(mixed),
            counters={
                "invalid_tokens": sum(channel.invalid_tokens for channel in self._channels),
                "unmatched_offsets": sum(channel.unmatched_offsets for channel in self._channels),
                "unfinished_sequences": self._unfinished,
            },
        )
