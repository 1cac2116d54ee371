"""Fill each bar of a part: the values of its voices, and the clefs of its staves."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass

from mt3_infer.score.arrange import Score, ScorePart
from mt3_infer.score.meter import TICKS, Bar, Meter
from mt3_infer.score.parts import Clef, Transposition, clefs_of_bars
from mt3_infer.score.placed import Chord
from mt3_infer.score.values import Value, bar_values


@dataclass(frozen=True, slots=True)
class Line:
    """One voice of one bar.

    Attributes:
        values: its notes and rests.
        beams: for each value, the beam group that it belongs to.
        staff, voice: counted from 1; voices count through the staves of a part.
        stem: "up" or "down" where two voices share the staff, else empty.
        hides_rests: its rests are not shown.
    """

    values: list[Value]
    beams: list[int]
    staff: int
    voice: int
    stem: str
    hides_rests: bool


class Contents:
    """The bars of a part."""

    def __init__(self, score: Score, score_part: ScorePart, transposition: Transposition) -> None:
        self._score = score
        self._part = score_part
        self.clefs: list[list[Clef]] = [
            self._clefs(staff, transposition.semitones) for staff in range(len(score_part.staves))
        ]

    def bar(self, at: int) -> list[Line]:
        """Return the voices of a bar, staff by staff; the second voice of a staff only where it has notes."""
        bar, lines = self._score.bars[at], []
        for number, staff in enumerate(self._part.staves):
            first, second = (_within(chords, bar) for chords in staff.voices)
            for voice, chords in enumerate((first, second)):
                if voice == 1 and not chords:
                    continue
                values = bar_values(chords, bar, self._score.meter)
                stem = ("up", "down")[voice] if second else ""
                beams = [_beam_group(value.start, bar, self._score.meter) for value in values]
                lines.append(Line(values, beams, number + 1, 4 * number + voice + 1, stem, voice == 1))
        return lines

    def _clefs(self, staff: int, semitones: int) -> list[Clef]:
        part = self._part.part
        pitches: list[list[int]] = [[] for _ in self._score.bars]
        starts = [bar.start for bar in self._score.bars]
        for one in part.placed:
            if one.staff == staff:
                pitches[max(bisect_right(starts, one.start) - 1, 0)].append(one.pitch + semitones)
        clefs = part.instrument.clefs
        return clefs_of_bars(pitches, clefs[::-1] if staff else clefs, changes=part.instrument.staves > 1)


def _within(chords: list[Chord], bar: Bar) -> list[Chord]:
    first = bisect_right(chords, bar.start, key=lambda chord: chord.end)
    return chords[first : bisect_left(chords, bar.end, key=lambda chord: chord.start)]


def _beam_group(place: int, bar: Bar, meter: Meter) -> int:
    """Return the group of a place: its beat, or two beats where a beat is an eighth (three at the end)."""
    beat = (place - bar.origin) // TICKS
    if meter.unit != 8 or meter.compound:
        return beat
    if bar.beats == 3:
        return 0
    return min(beat // 2, bar.beats // 2 - 1) if bar.beats > 1 else 0
