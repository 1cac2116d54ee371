"""Arrange: from a transcription to the contents of a score, stage by stage."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from mt3_infer.exports.options import ScoreOptions
from mt3_infer.score import hands, spelling, swing, voices
from mt3_infer.score.meter import TICKS, Bar, Meter, Timeline
from mt3_infer.score.parts import Part, instrument_of, place_in_score
from mt3_infer.score.percussion import drum
from mt3_infer.score.placed import Chord, Placed
from mt3_infer.score.quantize import Grids, quantize
from mt3_infer.symbolic.grid import BeatGrid
from mt3_infer.symbolic.instruments import program_name
from mt3_infer.symbolic.notes import Note


@dataclass(slots=True)
class Staff:
    """One staff: the voices that are written on it."""

    voices: tuple[list[Chord], list[Chord]]


@dataclass(slots=True)
class ScorePart:
    """A part with its staves."""

    part: Part
    staves: list[Staff]


@dataclass(slots=True)
class Score:
    """Everything that a score shows.

    Attributes:
        parts: from the top of the page down.
        bars: the same for all parts.
        meter: what a beat is; a bar may have more or fewer beats than it says.
        key: that sounds.
        beats_per_minute: 0 if unknown.
        swing: eighths are to be swung.
        placed: every note of the transcription that is written, in order of time.
        times: when each bar begins and ends, in seconds.
    """

    parts: list[ScorePart]
    bars: list[Bar]
    meter: Meter
    key: spelling.Key
    beats_per_minute: float
    swing: bool
    placed: list[Placed]
    times: list[tuple[float, float]]


def arrange(notes: list[Note], grid: BeatGrid, options: ScoreOptions) -> Score:
    """Return the score of notes on a grid of beats.

    Raises:
        InvalidOptionError: the notes span more than a day.
    """
    notes = sorted(notes, key=lambda note: (note.onset, note.is_drum, note.program, note.pitch))
    first = notes[0].onset if notes else 0.0
    timeline = Timeline(grid, first, max((note.offset for note in notes), default=first))
    onsets = timeline.ticks([note.onset for note in notes])
    ends = timeline.ticks([note.offset for note in notes])
    swung = options.swing == "on" or (options.swing == "auto" and swing.swings(onsets))
    if swung:
        timeline.meter = Meter(timeline.meter.beats)  # what was taken for 12/8 is a swung 4/4
        onsets, ends = swing.straightened(onsets), swing.straightened(ends)
    placed, grids = quantize(notes, onsets, ends, timeline, straight=swung)
    key = spelling.Key.parse(grid.key)
    pitched = [one for one in placed if not one.note.is_drum]
    key = spelling.best_enharmonic(key, [one.pitch for one in pitched])
    spelling.spell(pitched, key)
    parts = [_score_part(part, grids) for part in _parts(placed)]
    bars = _bars(timeline, grids, parts)
    starts, ends_of_bars = (timeline.seconds(ticks) for ticks in ([b.start for b in bars], [b.end for b in bars]))
    times = list(zip(starts, ends_of_bars, strict=True))
    return Score(parts, bars, timeline.meter, key, _tempo(grid, timeline), swung, placed, times)


def _tempo(grid: BeatGrid, timeline: Timeline) -> float:
    if len(grid.beats) < 2:
        return 0.0
    return grid.tempo_bpm if grid.tempo_bpm > 0 else 60 / float(np.median(np.diff(timeline.beats)))


def _parts(placed: list[Placed]) -> list[Part]:
    groups: dict[tuple[int, bool], list[Placed]] = defaultdict(list)
    for one in placed:
        groups[0 if one.note.is_drum else one.note.program, one.note.is_drum].append(one)
    parts = []
    for program, is_drum in sorted(groups, key=lambda group: place_in_score(*group)):
        name = program_name(program, is_drum)
        parts.append(Part(name, instrument_of(program, name, is_drum), program, is_drum, groups[program, is_drum]))
    return parts


def _score_part(part: Part, grids: Grids) -> ScorePart:
    if part.is_drum:
        return ScorePart(part, [Staff(_drum_voices(part.placed))])
    if part.instrument.staves == 1:
        return ScorePart(part, [Staff(voices.divide(part.placed, grids))])
    hands.deal(part.placed)
    staves = [Staff(voices.divide([one for one in part.placed if one.staff == staff], grids)) for staff in (0, 1)]
    return ScorePart(part, staves)


def _drum_voices(placed: list[Placed]) -> voices.Voices:
    """Return what hands play and what feet play; each stroke lasts until the next or to the end of the beat."""
    first, second = (_strokes([one for one in placed if drum(one.pitch).foot == foot]) for foot in (False, True))
    return first, second


def _strokes(placed: list[Placed]) -> list[Chord]:
    groups: dict[int, dict[tuple[str, int, str], Placed]] = defaultdict(dict)
    for one in placed:
        kind = drum(one.pitch)
        groups[one.start].setdefault((kind.step, kind.octave, kind.head), one)
    chords: list[Chord] = []
    for start in sorted(groups):
        if chords:
            chords[-1].end = min(chords[-1].end, start)
        chords.append(Chord(start, (start // TICKS + 1) * TICKS, list(groups[start].values())))
    return chords


def _bars(timeline: Timeline, grids: Grids, parts: list[ScorePart]) -> list[Bar]:
    chords = [chord for part in parts for staff in part.staves for voice in staff.voices for chord in voice]
    first = min((chord.start for chord in chords), default=0)
    bars = timeline.bars(first, max((chord.end for chord in chords), default=TICKS))
    return _with_pickup(bars, first, grids)


def _with_pickup(bars: list[Bar], first: int, grids: Grids) -> list[Bar]:
    """Return the bars with the first one shortened to an upbeat if the music begins in its second half."""
    bar = bars[0]
    beat = first // TICKS * TICKS
    half = TICKS // (3 if grids.meter.compound else 2)
    binary = grids.meter.compound or grids[beat // TICKS] % 3
    start = beat + (first - beat) // half * half if binary else beat
    if len(bars) < 2 or 2 * (bar.end - start) > bar.end - bar.start:
        return bars
    return [Bar(start, bar.end, bar.beats, pickup=True), *bars[1:]]
