"""Quantization: onsets in seconds → places on the cheapest grid of each beat.

Source: the recipe of per-beat grids is that of Cemgil, Desain and Kappen ("Rhythm Quantization for Transcription",
Computer Music Journal 2000) in its simplest form: squared error over the variance, plus the price of a grid.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from mt3_infer.score.meter import TICKS, Timeline
from mt3_infer.score.placed import Placed
from mt3_infer.symbolic.notes import Note

STRUM = 0.035
"""Seconds within which onsets are one chord."""

PRICES = {1: 0.0, 2: 0.6, 4: 2.2, 3: 3.0, 6: 6.0, 8: 6.5}
"""The cost of a division of a beat where a beat divides in two; a beat takes the cheapest grid in all."""

COMPOUND_PRICES = {1: 0.0, 3: 0.4, 6: 2.4, 2: 4.0, 4: 6.0, 12: 7.0}
"""The same where a beat divides in three."""

JITTER = 0.018
"""Seconds by which players and networks miss an onset, as a standard deviation."""

JITTER_OF_BEAT = 0.03
"""The same as a fraction of the beat: rubato inside a beat, and beats that are themselves misplaced."""

COLLISION = 6.0
"""The price of two onsets that a grid puts in one place, though they are no strum."""

HABIT = 1.2
"""How strongly a grid that the piece uses often is preferred."""

LONGEST_GRACE = 0.13
"""Seconds from a grace note to the note that it adorns, at most."""


def quantize(
    notes: Sequence[Note], onsets: np.ndarray, ends: np.ndarray, timeline: Timeline, *, straight: bool = False
) -> tuple[list[Placed], Grids]:
    """Return the notes with their places, and the grid of each beat.

    Args:
        notes: sorted by onset.
        onsets, ends: their positions in ticks.
        timeline: which the positions refer to.
        straight: beats that divide in three are not to be had, as in swing that is written straight.
    """
    graces = find_graces(notes, onsets)
    clusters = _strums(notes, onsets, graces)
    grids = Grids(clusters, timeline, straight=straight)
    starts = np.zeros(len(notes), dtype=int)
    for position, members in clusters:
        starts[members] = grids.snap(position)
    placed = [
        Placed(note, i, int(starts[i]), max(float(ends[i] - onsets[i]), 1.0)) for i, note in enumerate(notes)
    ]
    for i, main in graces.items():
        placed[i].start, placed[i].grace = placed[main].start, True
    return placed, grids


Cluster = tuple[float, list[int]]


class Grids:
    """The division of each beat: 1, 2, 4, 3, 6 or 8 places, and 12 in compound meters."""

    def __init__(self, clusters: list[Cluster], timeline: Timeline, *, straight: bool = False) -> None:
        prices = COMPOUND_PRICES if timeline.meter.compound else PRICES
        if straight:
            prices = {
                division: price for division, price in prices.items() if division % 3 or timeline.meter.compound
            }
        self.meter = timeline.meter
        self._chosen: dict[int, int] = {}
        if clusters:
            self._choose(np.array([position for position, _ in clusters]), timeline, prices)

    def __getitem__(self, beat: int) -> int:
        return self._chosen.get(beat, 1)

    def snap(self, position: float) -> int:
        """Return the place nearest to a position, in ticks."""
        beat = int(position // TICKS)
        return _snapped(position, beat, self[beat])

    def ends(self, start: int, stop: int) -> list[int]:
        """Return the places after `start` up to `stop` at which a note may end, in ticks."""
        places: list[int] = []
        for beat in range(start // TICKS, -(-stop // TICKS)):
            step = TICKS // max(self[beat], 3 if self.meter.compound else 2)
            places += range(beat * TICKS + step, (beat + 1) * TICKS + 1, step)
        return [place for place in places if start < place <= stop]

    def _choose(self, positions: np.ndarray, timeline: Timeline, prices: dict[int, float]) -> None:
        beats = np.floor(positions / TICKS).astype(int)
        numbers, firsts = np.unique(beats, return_index=True)
        seconds = timeline.beat_seconds(numbers)
        costs = np.zeros((len(numbers), len(prices)))
        for row, (beat, inside) in enumerate(zip(numbers, np.split(positions, firsts[1:]), strict=True)):
            costs[row] = _costs(inside / TICKS - beat, float(seconds[row]), list(prices))
        price = np.array(list(prices.values()))
        for _ in range(3):  # the habit of the piece settles at once
            chosen = np.argmin(costs + price, axis=1)
            share = (np.bincount(chosen, minlength=len(prices)) + 0.5) / (len(numbers) + 0.5 * len(prices))
            price = np.array(list(prices.values())) - HABIT * np.log(share)
            price -= price.min()
        divisions = list(prices)
        self._chosen = {int(beat): divisions[best] for beat, best in zip(numbers, chosen, strict=True)}


def _costs(inside: np.ndarray, seconds: float, divisions: list[int]) -> list[float]:
    """Return what each division costs for onsets at fractions of a beat, without its price."""
    variance = JITTER**2 + (JITTER_OF_BEAT * seconds) ** 2
    costs = []
    for division in divisions:
        places = np.round(inside * division)
        errors = (inside - places / division) * seconds
        clashes = len(places) - len(np.unique(places))
        costs.append(float(np.sum(errors**2) / (2 * variance)) + COLLISION * clashes)
    return costs


def _snapped(position: float, beat: int, division: int) -> int:
    step = TICKS // division
    return beat * TICKS + int(np.floor((position - beat * TICKS) / step + 0.5)) * step


def _strums(notes: Sequence[Note], onsets: np.ndarray, graces: dict[int, int]) -> list[Cluster]:
    """Return the mean position and the notes of each group of onsets that sound as one."""
    groups: list[list[int]] = []
    for i, note in enumerate(notes):
        if i in graces:
            continue
        if groups and note.onset - notes[groups[-1][0]].onset <= STRUM:
            groups[-1].append(i)
        else:
            groups.append([i])
    return [(float(np.mean(onsets[group])), group) for group in groups]


def find_graces(notes: Sequence[Note], onsets: np.ndarray) -> dict[int, int]:
    """Return the grace notes, each with the note that it adorns, by their indices.

    A grace note is short, a step away from a much longer note right after it, and no part of a run.
    """
    lines: dict[tuple[bool, int], list[int]] = defaultdict(list)
    for i, note in enumerate(notes):
        if not note.is_drum:
            lines[note.is_drum, note.program].append(i)
    graces: dict[int, int] = {}
    for line in lines.values():
        for at, i in enumerate(line):
            main = _adorned(notes, onsets, line, at)
            if main is not None:
                graces[i] = main
    return {i: main for i, main in graces.items() if main not in graces}


def _adorned(notes: Sequence[Note], onsets: np.ndarray, line: list[int], at: int) -> int | None:
    grace = notes[line[at]]
    for later in line[at + 1 : at + 12]:
        main = notes[later]
        gap = main.onset - grace.onset
        if gap > LONGEST_GRACE:
            return None
        if (
            gap <= STRUM
            or not 1 <= abs(main.pitch - grace.pitch) <= 4
            or onsets[later] - onsets[line[at]] > 0.2 * TICKS
        ):
            continue
        short = grace.offset - grace.onset <= 1.6 * gap
        alone = all(
            not STRUM < grace.onset - notes[before].onset < 1.7 * gap or abs(notes[before].pitch - grace.pitch) > 9
            for before in line[max(at - 12, 0) : at]
        )
        if short and alone and main.offset - main.onset > 2 * gap:
            return later
    return None
