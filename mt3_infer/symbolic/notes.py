"""Notes: what every network's output ends as, and what every writer starts from.

`NoteDecoder` is the one state machine from tokens to notes. Times inside it are whole steps of 10 ms, so that
an event on a segment's edge falls on the same side every time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import groupby

from mt3_infer.symbolic.vocabulary import (
    MT3_CODEC,
    MT3_VELOCITY_BINS,
    STEPS_PER_SECOND,
    Codec,
    Event,
    EventType,
    until_end,
)


@dataclass(frozen=True, slots=True)
class Note:
    """One note.

    Times are in seconds from the start of the recording; pitch, velocity and program are MIDI numbers
    (0-127). For a drum note the pitch is the General MIDI drum key and the program means nothing.
    The confidence is the probability that the note is right, from 0 to 1; None if it was not estimated.
    """

    onset: float
    offset: float
    pitch: int
    velocity: int
    program: int = 0
    is_drum: bool = False
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Pedal:
    """A pedal that is held, in seconds; `controller` is its MIDI number: 64 is sustain, 67 is soft."""

    onset: float
    offset: float
    controller: int = 64


def sort_notes(notes: Iterable[Note]) -> list[Note]:
    """Sort notes in the order in which they are stored and written: onset, then track, then pitch."""
    return sorted(notes, key=lambda n: (n.onset, n.is_drum, n.program, n.pitch, n.offset))


def by_instrument(notes: Iterable[Note]) -> list[tuple[tuple[bool, int], list[Note]]]:
    """Return the notes of each instrument: programs in order, then the drums, in the order of the notes."""

    def instrument(note: Note) -> tuple[bool, int]:
        return note.is_drum, 0 if note.is_drum else note.program

    return [(key, list(group)) for key, group in groupby(sorted(notes, key=instrument), key=instrument)]


SAME_ONSET = 0.05
"""Seconds within which two notes of one pitch begin together: the tolerance of onsets in MIREX's evaluation."""


def play_alone(notes: Iterable[Note], program: int) -> list[Note]:
    """Give all notes to one instrument; leave out the drums."""
    return change_programs((note for note in notes if not note.is_drum), lambda _: program)


def change_programs(notes: Iterable[Note], new: Callable[[int], int]) -> list[Note]:
    """Give notes to other programs, of which each sounds a pitch once at a time; drums stay.

    Of notes of one program and pitch that begin together, which several instruments shared, one is left, as long
    as the longest; any other ends where the next one begins.
    """
    sounding: dict[tuple[int, int], Note] = {}
    changed: list[Note] = []
    for note in sort_notes(notes):
        if note.is_drum:
            changed.append(note)
            continue
        key = (new(note.program), note.pitch)
        before = sounding.get(key)
        if before is not None and note.onset - before.onset <= SAME_ONSET:
            longest, loudest = max(before.offset, note.offset), max(before.velocity, note.velocity)
            sounding[key] = replace(before, offset=longest, velocity=loudest)
            continue
        if before is not None:
            changed.append(replace(before, offset=min(before.offset, note.onset)))
        sounding[key] = replace(note, program=key[0])
    return sort_notes([*changed, *sounding.values()])


SHORTEST = 1
"""Steps that a note lasts at least, and a drum note always."""

VELOCITY_AT_FIRST = 100
"""The velocity of notes before any velocity event."""

Key = tuple[int, int]
"""Program and pitch: what distinguishes one sounding note from another."""


@dataclass(frozen=True, slots=True)
class _Sounding:
    onset: int
    velocity: int


class NoteDecoder:
    """Tokens of a recording, segment after segment → notes.

    Velocity, program, time and sounding notes live on from one segment to the next. A segment opens with a
    tie section, in which it names the notes that go on sounding; the tie event closes it and ends all others.
    What cannot be true (an offset of a silent pitch, an event before the one ahead of it) is counted and
    skipped.

    Attributes:
        notes: those finished so far, in the order in which they ended.
        invalid_tokens: skipped, because they are no events or impossible ones.
        dropped_tokens: left away, because they lie beyond the start of the next segment.

    Source: Gardner et al., MT3 (ICLR 2022), section 3.2 and appendix, and the decoding published with it.
    """

    def __init__(
        self,
        codec: Codec = MT3_CODEC,
        *,
        velocity_bins: int = MT3_VELOCITY_BINS,
        program: int = 0,
    ) -> None:
        """Args: the program of pitches that come before any program event."""
        self.notes: list[Note] = []
        self.invalid_tokens = 0
        self.dropped_tokens = 0
        self._codec = codec
        self._velocity_bins = velocity_bins
        self._now = 0
        self._velocity = VELOCITY_AT_FIRST
        self._program = program
        self._sounding: dict[Key, _Sounding] = {}
        self._tied: set[Key] = set()
        self._in_tie_section = False

    def feed(self, token_ids: Iterable[int], *, start: int, limit: int | None) -> None:
        """Take in one segment.

        Args:
            token_ids: the network's output; from the first end token on nothing counts.
            start: of the segment, in steps.
            limit: start of the next segment, in steps; None in the last one.
        """
        self._tied.clear()
        self._in_tie_section = True
        shift, time = 0, start
        tokens = until_end(token_ids)
        for position, token_id in enumerate(tokens):
            event = self._codec.decode(token_id)
            if event is None:
                self.invalid_tokens += 1
            elif event.type is EventType.SHIFT:
                # Counted from the segment's start, not from the event before; shifts in a row add up.
                shift += event.value
                time = start + shift
                if limit is not None and time > limit:
                    self.dropped_tokens += len(tokens) - position
                    return
            else:
                shift = 0
                if not self._accept(event, time):
                    self.invalid_tokens += 1

    def finish(self) -> list[Note]:
        """End the notes that still sound, all at once, and return every note."""
        end = max([self._now, *(note.onset + SHORTEST for note in self._sounding.values())])
        for key in list(self._sounding):
            self._end(key, end)
        return self.notes

    def _accept(self, event: Event, time: int) -> bool:
        """Apply an event; False if it cannot be."""
        if time < self._now:
            return False
        self._now = time
        match event.type:
            case EventType.VELOCITY:
                self._velocity = 127 * event.value // self._velocity_bins
            case EventType.PROGRAM:
                self._program = event.value
            case EventType.PITCH:
                return self._pitch((self._program, event.value))
            case EventType.DRUM:
                return self._drum(event.value)
            case EventType.TIE:
                return self._tie()
        return True

    def _pitch(self, key: Key) -> bool:
        if self._in_tie_section:
            if key not in self._sounding or key in self._tied:
                return False
            self._tied.add(key)
        elif self._velocity == 0:
            if key not in self._sounding:
                return False
            self._end(key, self._now)
        else:
            if key in self._sounding:
                self._end(key, self._now)
            self._sounding[key] = _Sounding(self._now, self._velocity)
        return True

    def _drum(self, pitch: int) -> bool:
        if self._velocity == 0:
            return False
        self._emit(self._now, self._now + SHORTEST, pitch, self._velocity, program=0, is_drum=True)
        return True

    def _tie(self) -> bool:
        if not self._in_tie_section:
            return False
        for key in [key for key in self._sounding if key not in self._tied]:
            self._end(key, self._now)
        self._in_tie_section = False
        return True

    def _end(self, key: Key, time: int) -> None:
        note = self._sounding.pop(key)
        program, pitch = key
        self._emit(note.onset, time, pitch, note.velocity, program=program, is_drum=False)

    def _emit(self, onset: int, offset: int, pitch: int, velocity: int, *, program: int, is_drum: bool) -> None:
        self.notes.append(
            Note(
                onset=onset / STEPS_PER_SECOND,
                offset=max(offset, onset + SHORTEST) / STEPS_PER_SECOND,
                pitch=pitch,
                velocity=velocity,
                program=program,
                is_drum=is_drum,
            )
        )
