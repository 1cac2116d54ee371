"""Voices: the notes of a staff become one or two lines of chords, each filled to the next."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable

from mt3_infer.score.meter import TICKS, Meter
from mt3_infer.score.placed import Chord, Placed
from mt3_infer.score.quantize import Grids

LONG = 0.9
"""Quarters that a note lasts at least to have a voice of its own."""

OUTLASTS = 1.9
"""How many times longer than the gap to the next onset it is at least."""

FILLS = 0.55
"""The share of the gap to the next onset from which on a note is written as lasting until then."""

ARTICULATION = 0.87
"""The share of its written value for which a note usually sounds."""

Voices = tuple[list[Chord], list[Chord]]


def divide(placed: Iterable[Placed], grids: Grids) -> Voices:
    """Return the two voices of a staff; the second is empty where one is enough.

    A note gets a voice of its own if it is long and others begin while it sounds. Below them it is in the
    second voice; above them it stays in the first and they move to the second.
    """
    chords = _chords(placed)
    starts = [chord.start for chord in chords]
    first: list[Chord] = []
    second: list[Chord] = []
    busy = min(starts, default=0)  # the second voice is taken until then
    lowered = busy  # until then, what begins is below a long note
    for at, chord in enumerate(chords):
        if chord.start < lowered:
            second.append(chord)
            continue
        following = starts[at + 1] if at + 1 < len(starts) else None
        long, rest = _long_notes(chord, following, grids.meter)
        if not long or chord.start < busy:
            first.append(chord)
            continue
        end = _sounding_end(long, grids, limit=chord.start + 8 * TICKS)
        inner = [note for c in chords[at + 1 : bisect_left(starts, end)] for note in c.notes] + rest
        own = Chord(chord.start, end, long)
        others = [Chord(chord.start, end, rest, chord.graces)] if rest else []
        own.graces = [] if rest else chord.graces
        if min(note.pitch for note in long) > max((note.pitch for note in inner), default=128):
            first.append(own)
            second += others
            lowered = busy = end
        elif rest or max(note.pitch for note in long) <= min(note.pitch for note in inner):
            second.append(own)
            first += others
            busy = end
        else:
            first.append(chord)
    return _filled(first, grids), _filled(second, grids)


def _chords(placed: Iterable[Placed]) -> list[Chord]:
    """Return the notes by where they begin, each pitch once, with the grace notes before them."""
    groups: dict[int, dict[int, Placed]] = defaultdict(dict)
    graces: dict[int, list[Placed]] = defaultdict(list)
    for one in placed:
        if one.grace:
            graces[one.start].append(one)
        elif (twin := groups[one.start].get(one.pitch)) is None or twin.length < one.length:
            groups[one.start][one.pitch] = one
    return [
        Chord(start, start, sorted(groups[start].values(), key=lambda one: one.pitch), graces.get(start, [])[-4:])
        for start in sorted(groups)
    ]


def _long_notes(chord: Chord, following: int | None, meter: Meter) -> tuple[list[Placed], list[Placed]]:
    """Return the notes of a chord that outlast the next onset by far, and the others."""
    if following is None:
        return [], chord.notes
    least = max(LONG * meter.divisions, OUTLASTS * (following - chord.start))
    long = [one for one in chord.notes if one.length >= least]
    return long, [one for one in chord.notes if one.length < least]


def _sounding_end(notes: list[Placed], grids: Grids, *, limit: int) -> int:
    """Return the place at which notes end by their sound alone."""
    start = notes[0].start
    length = sorted(one.length for one in notes)[len(notes) // 2] / ARTICULATION
    places = grids.ends(start, min(limit, start + int(2 * length) + TICKS))
    return min(places, key=lambda place: abs(place - start - length) * _awkwardness(place))


def _awkwardness(place: int) -> float:
    """Return a weight for places at which notes rarely end: off the beat, and more so off its half."""
    if place % TICKS == 0:
        return 1.0
    return 1.2 if place % (TICKS // 2) == 0 or place % (TICKS // 3) == 0 else 1.5


def _filled(chords: list[Chord], grids: Grids) -> list[Chord]:
    """Give each chord its end: the next chord's start, or earlier if it stops sounding long before that."""
    for at, chord in enumerate(chords):
        until = chords[at + 1].start if at + 1 < len(chords) else None
        length = sorted(one.length for one in chord.notes)[len(chord.notes) // 2]
        if until is not None and length >= FILLS * (until - chord.start):
            chord.end = until
            continue
        chord.end = _sounding_end(chord.notes, grids, limit=chord.start + 64 * TICKS if until is None else until)
        if until is not None and until - chord.end < _shortest_rest(grids, chord.end):
            chord.end = until
    return chords


def _shortest_rest(grids: Grids, place: int) -> int:
    """Return the ticks of the shortest rest that is written: half a beat, a third in compound meters."""
    return TICKS // (3 if grids.meter.compound else 2) if grids[place // TICKS] % 3 or grids.meter.compound else 16


def between(chords: list[Chord], start: int, end: int) -> list[Chord]:
    """Return the chords of a voice that sound between two ticks."""
    first = bisect_right(chords, start, key=lambda chord: chord.end)
    return chords[first : bisect_left(chords, end, key=lambda chord: chord.start)]
