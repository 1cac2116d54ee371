"""The content of a piano roll: rows, tracks with colors, opacity, and the lines of beats and bars.

A row is a pitch. Drums lie below the pitches, each drum in a row of its own, since their keys are no pitches.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from mt3_infer.errors import InvalidOptionError
from mt3_infer.symbolic.grid import BeatGrid
from mt3_infer.symbolic.instruments import drum_name, program_name
from mt3_infer.symbolic.notes import Note, by_instrument

# As on the web page, whose style sheet has them too.
COLORS = ("#0f7a68", "#d9622b", "#3563c9", "#b5308f", "#a67700", "#6a4bc4", "#16819f", "#6f8417")
DRUMS_COLOR = "#59646b"

BLACK_KEYS = frozenset((1, 3, 6, 8, 10))
LEAST_PITCHES = 12  # an octave, however few pitches the notes have
STEPS = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)  # seconds between marks of an axis


@dataclass(frozen=True)
class Track:
    """The notes of one instrument."""

    name: str
    color: str
    notes: Sequence[Note]


@dataclass(frozen=True)
class BarLine:
    """The beginning of a bar; the number is 1 for the first complete bar of the recording."""

    seconds: float
    number: int


@dataclass(frozen=True)
class PianoRoll:
    """A part of a transcription, as it is drawn.

    Attributes:
        tracks: of the instruments that play in it, in the order of their programs; the drums are last.
        start, end: of the part, in seconds.
        lowest, highest: pitches of the lowest and the highest row that is no drum's.
        drum_keys: of the drums that play, ascending.
        beats: in seconds.
        bars: of the same.
    """

    tracks: tuple[Track, ...]
    start: float
    end: float
    lowest: int
    highest: int
    drum_keys: tuple[int, ...]
    beats: tuple[float, ...]
    bars: tuple[BarLine, ...]

    @property
    def rows(self) -> int:
        """The number of rows; an empty one lies between drums and pitches."""
        return self._row(self.highest) + 1

    def row(self, note: Note) -> int:
        """Return the row of a note; 0 is at the bottom."""
        return self._drum_rows[note.pitch] if note.is_drum else self._row(note.pitch)

    @property
    def octaves(self) -> list[tuple[int, str]]:
        """Rows of each C with their names, C4 for the middle one."""
        first = -(-self.lowest // 12) * 12
        return [(self._row(pitch), f"C{pitch // 12 - 1}") for pitch in range(first, self.highest + 1, 12)]

    @property
    def drums(self) -> list[tuple[int, str]]:
        """Rows of each drum with their names."""
        return [(row, drum_name(key)) for key, row in self._drum_rows.items()]

    @property
    def shaded_rows(self) -> list[int]:
        """The rows of black keys."""
        pitches = range(self.lowest, self.highest + 1)
        return [self._row(pitch) for pitch in pitches if pitch % 12 in BLACK_KEYS]

    @property
    def has_confidence(self) -> bool:
        """True if the confidence of any note is known."""
        return any(note.confidence is not None for track in self.tracks for note in track.notes)

    @cached_property
    def _drum_rows(self) -> dict[int, int]:
        return {key: row for row, key in enumerate(self.drum_keys)}

    def _row(self, pitch: int) -> int:
        first = len(self.drum_keys) + 1 if self.drum_keys else 0
        return first + pitch - self.lowest


def tracks_of(notes: Iterable[Note]) -> list[Track]:
    """Return a track for each instrument."""
    return [
        Track(program_name(program, is_drum), DRUMS_COLOR if is_drum else COLORS[number % len(COLORS)], group)
        for number, ((is_drum, program), group) in enumerate(by_instrument(notes))
    ]


def lay_out(tracks: Iterable[Track], grid: BeatGrid, start: float, end: float) -> PianoRoll:
    """Return the piano roll of the part from `start` to `end`, in seconds.

    Raises:
        InvalidOptionError: they are no such part.
    """
    if not (math.isfinite(start) and math.isfinite(end) and 0 <= start < end):
        raise InvalidOptionError(
            f"There is nothing to draw from {start:g} s to {end:g} s: pass a start of at least 0 and a later end."
        )

    def is_shown(note: Note) -> bool:
        # Notes may come from a file of anybody's, and each pitch in between is a row.
        return note.onset < end and note.offset > start and 0 <= note.pitch <= 127

    parts = [replace(track, notes=[note for note in track.notes if is_shown(note)]) for track in tracks]
    notes = [note for part in parts for note in part.notes]
    lowest, highest = _pitch_range([note.pitch for note in notes if not note.is_drum])
    return PianoRoll(
        tracks=tuple(part for part in parts if part.notes),
        start=start,
        end=end,
        lowest=lowest,
        highest=highest,
        drum_keys=tuple(sorted({note.pitch for note in notes if note.is_drum})),
        beats=tuple(beat for beat in grid.beats if start <= beat < end),
        bars=tuple(
            BarLine(seconds, number)
            for number, seconds in enumerate(grid.downbeats, start=1)
            if start <= seconds < end
        ),
    )


def _pitch_range(pitches: Sequence[int]) -> tuple[int, int]:
    """Return the lowest and the highest pitch to draw: a semitone more on either side, and at least an octave."""
    lowest, highest = (min(pitches) - 1, max(pitches) + 1) if pitches else (60, 60)
    missing = max(0, LEAST_PITCHES - (highest - lowest + 1))
    return lowest - missing // 2, highest + missing - missing // 2


def opacity(note: Note) -> float:
    """Return how solid a note is drawn: the less certain it is, the paler."""
    return 1.0 if note.confidence is None else 0.25 + 0.75 * min(1.0, max(0.0, note.confidence))


def step_between_marks(seconds_per_mark: float) -> int:
    """Return the distance of marks on an axis of time, which need as much room; in seconds."""
    return next((step for step in STEPS if step >= seconds_per_mark), STEPS[-1])


def every(lines: Sequence[BarLine], seconds_per_mark: float) -> list[BarLine]:
    """Return as many bar lines, regularly counted, as have at least `seconds_per_mark` of room each on average.

    1, 5, 9… if there is room for each fourth.
    """
    if len(lines) < 2:
        return list(lines)
    average = (lines[-1].seconds - lines[0].seconds) / (len(lines) - 1)
    step = 1
    while step * average < seconds_per_mark and step < len(lines):
        step *= 2
    return [line for line in lines if (line.number - 1) % step == 0]


def clock(seconds: float) -> str:
    """Return a time as minutes and seconds, 1:05, or with hours, 1:01:05."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
