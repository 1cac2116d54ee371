"""Voices: the notes of a staff become one or two lines of chords, each filled to the next."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise

from mt3_infer.score.meter import TICKS, Meter
from mt3_infer.score.placed import Chord, Placed
from mt3_infer.score.quantize import Grids
from mt3_infer.score.values import simple

LONG = 0.9
"""Quarters that a note lasts at least to have a voice of its own."""

OUTLASTS = 1.9
"""How many times longer than the gap to the next onset it is at least."""

INNER = 0.7
"""A note is above or below those that begin during this part of its length."""

ARTICULATIONS = (0.7, 0.97)
"""The share of its written value for which a note sounds: bounds for what a part's notes show."""

SPREAD = 0.12
"""How much this share varies in a part, as the standard deviation of its logarithm."""

FILLS = 0.74
"""The least share of its usual part of the gap to the next onset that a note sounds if written to fill it."""

Voices = tuple[list[Chord], list[Chord]]


def divide(placed: Iterable[Placed], grids: Grids) -> Voices:
    """Return the two voices of a staff; the second is empty where one is enough.

    A note gets a voice of its own if it is long and others begin while it sounds. Below them it is in the
    second voice; above them it stays in the first and they move to the second.
    """
    chords = _chords(placed)
    share = _articulation(chords)
    starts = [chord.start for chord in chords]
    first: list[Chord] = []
    second: list[Chord] = []
    lowered = min(starts, default=0)  # until then, what begins is below a long note
    for at, chord in enumerate(chords):
        following = starts[at + 1] if at + 1 < len(starts) else None
        long = _long_notes(chord, following, grids.meter)
        if chord.start < lowered:
            second.append(chord)
            continue
        end = _sounding_end(long, share, grids, limit=chord.start + 8 * TICKS) if long else chord.start
        inner_end = chord.start + INNER * _length(long) if long else 0  # what comes later may replace it
        inner = [note.pitch for c in chords[at + 1 : bisect_left(starts, inner_end)] for note in c.notes]
        low = [one for one in long if one.pitch <= min(inner)] if inner else []
        rest = [one for one in chord.notes if one not in low]
        if low and (rest or not first or first[-1].start < chord.start):
            second.append(Chord(chord.start, end, low, [] if rest else chord.graces))
            if rest:
                first.append(Chord(chord.start, end, rest, chord.graces))
            continue
        others = [one for one in chord.notes if one not in long]
        if inner and long and min(one.pitch for one in long) > max([*inner, *(one.pitch for one in others)]):
            first.append(Chord(chord.start, end, long, chord.graces))
            second += [Chord(chord.start, end, others)] if others else []
            lowered = end
        else:
            first.append(chord)
    return _filled(first, share, grids), _filled(second, share, grids)


def _articulation(chords: list[Chord]) -> float:
    """Return the share of the gap to the next onset for which the notes of a staff usually sound."""
    shares = sorted(
        share
        for chord, following in pairwise(chords)
        if 0.4 < (share := _length(chord.notes) / (following.start - chord.start)) < 1.05
    )
    least, most = ARTICULATIONS
    return min(max(shares[len(shares) // 2], least), most) if len(shares) > 8 else 0.9


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


def _long_notes(chord: Chord, following: int | None, meter: Meter) -> list[Placed]:
    """Return the notes of a chord that outlast the next onset by far."""
    if following is None:
        return []
    least = max(LONG * meter.divisions, OUTLASTS * (following - chord.start))
    return [one for one in chord.notes if one.length >= least]


def _length(notes: list[Placed]) -> float:
    return sorted(one.length for one in notes)[len(notes) // 2]


def _sounding_end(notes: list[Placed], share: float, grids: Grids, *, limit: int) -> int:
    """Return the place at which notes end by their sound alone."""
    start, length = notes[0].start, _length(notes)
    places = grids.ends(start, min(limit, start + int(2 * length) + TICKS))

    def cost(place: int) -> float:
        articulation = abs(math.log(length / (place - start) / share)) / SPREAD
        plain = simple(place - start, grids.meter.divisions) is not None
        return articulation + _awkwardness(place) + (0 if plain else 0.5)

    return min(places, key=cost)


def _awkwardness(place: int) -> float:
    """Return the price of a place at which notes rarely end: off the beat, and more so off its half."""
    if place % TICKS == 0:
        return 0.0
    return 0.4 if place % (TICKS // 2) == 0 or place % (TICKS // 3) == 0 else 1.0


def _filled(chords: list[Chord], share: float, grids: Grids) -> list[Chord]:
    """Give each chord its end: the next chord's start, or earlier if it stops sounding long before that."""
    for at, chord in enumerate(chords):
        until = chords[at + 1].start if at + 1 < len(chords) else None
        if until is not None and _length(chord.notes) >= FILLS * share * (until - chord.start):
            chord.end = until
            continue
        chord.end = _sounding_end(
            chord.notes, share, grids, limit=chord.start + 64 * TICKS if until is None else until
        )
        if until is not None and until - chord.end < _shortest_rest(grids, chord.end):
            chord.end = until
    return chords


def _shortest_rest(grids: Grids, place: int) -> int:
    """Return the ticks of the shortest rest that is written: half a beat, a third in compound meters."""
    return TICKS // (3 if grids.meter.compound else 2) if grids[place // TICKS] % 3 or grids.meter.compound else 16
