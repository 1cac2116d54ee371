"""Bars: a grid of beats in seconds becomes time signatures, and positions counted in ticks.

A position is counted in ticks from the first beat of the grid, `TICKS` to a beat of any length, so that halves,
quarters, eighths, thirds and sixths of a beat are whole numbers.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from mt3_infer.errors import InvalidOptionError

if TYPE_CHECKING:
    from mt3_infer.symbolic.grid import BeatGrid

TICKS = 48
"""Ticks in a beat."""

SHORTEST_BEAT = 0.1
"""Seconds. Beats that follow sooner are ignored: 600 to the minute is no tempo."""

BEAT_WITHOUT_GRID = 0.5
"""Seconds between the beats of a recording whose beats are unknown."""

LONGEST_SCORE = 24 * 3600.0
"""Seconds between the first note and the last that a score is written for."""


@dataclass(frozen=True, slots=True)
class Meter:
    """A time signature, by its beats.

    Attributes:
        beats: in a bar.
        unit: the lower number of the time signature.
        group: written units in a beat: 3 in compound meters such as 6/8, else 1.
    """

    beats: int = 4
    unit: int = 4
    group: int = 1

    @classmethod
    def parse(cls, text: str) -> Meter:
        """Return the meter of "3/4"; 4/4 if the text is empty or no usual time signature."""
        found = re.fullmatch(r"(\d{1,2})/(2|4|8)", text.strip())
        if found is None or not 1 <= int(found[1]) <= 24:
            return cls()
        count, unit = int(found[1]), int(found[2])
        compound = unit == 8 and count % 3 == 0 and count > 3
        return cls(count // 3, unit, 3) if compound else cls(count, unit)

    @property
    def compound(self) -> bool:
        """Return True if a beat divides in three."""
        return self.group == 3

    @property
    def divisions(self) -> int:
        """Return the ticks of a quarter note."""
        return TICKS * self.unit // (4 * self.group)

    def signature(self, beats: int) -> tuple[int, int]:
        """Return the time signature of a bar of so many beats."""
        return beats * self.group, self.unit


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar.

    Attributes:
        start, end: in ticks.
        beats: that its time signature counts.
        pickup: it lacks its beginning: an upbeat before the first whole bar.
    """

    start: int
    end: int
    beats: int
    pickup: bool = False

    @property
    def origin(self) -> int:
        """Return the tick at which the bar would begin if it were whole."""
        return self.end - self.beats * TICKS


class Timeline:
    """The beats of a recording, extended to all of its notes.

    Beats before the first and after the last follow at the tempo of the ends; without any they come every half
    second from the first note on.

    Args:
        grid: as found or corrected; anything in it that is out of order is ignored.
        first, last: onset of the first note and end of the last, in seconds.

    Raises:
        InvalidOptionError: the notes span more than a day.
    """

    def __init__(self, grid: BeatGrid, first: float, last: float) -> None:
        if last - first > LONGEST_SCORE:
            raise InvalidOptionError(
                "These notes span more than a day: no score is written of so long a recording."
            )
        self.meter = Meter.parse(grid.meter)
        beats = _plausible(grid.beats)
        if len(beats) < 2:
            interval = 60 / grid.tempo_bpm if 20 <= grid.tempo_bpm <= 400 else BEAT_WITHOUT_GRID
            start = beats[0] if beats else first
            beats = [start, start + interval]
        self._zero, self.beats = _extended(beats, first, last)
        self.downbeats = _indices(grid.downbeats, beats) or [0]

    def ticks(self, seconds: Sequence[float]) -> np.ndarray:
        """Return positions in ticks, as floating-point numbers."""
        count = np.arange(len(self.beats)) - self._zero
        ticks: np.ndarray = np.interp(np.asarray(seconds, dtype=float), self.beats, count * float(TICKS))
        return ticks

    def seconds(self, ticks: Sequence[int]) -> list[float]:
        """Return the times of positions in ticks."""
        count = (np.arange(len(self.beats)) - self._zero) * float(TICKS)
        times: list[float] = np.interp(np.asarray(ticks, dtype=float), count, self.beats).tolist()
        return times

    def beat_seconds(self, beats: np.ndarray) -> np.ndarray:
        """Return how long each beat lasts, in seconds, by the number of the beat."""
        gaps = np.diff(self.beats)
        return np.asarray(gaps[np.clip(beats + self._zero, 0, len(gaps) - 1)])

    def bars(self, first: int, last: int) -> list[Bar]:
        """Return the bars from that of tick `first` to the one that holds what ends at tick `last`."""
        starts = self._bar_starts(first // TICKS, -(-last // TICKS))
        at = max(bisect_right(starts, first // TICKS) - 1, 0)
        bars = []
        for begin, end in zip(starts[at:], starts[at + 1 :], strict=False):
            bars.append(Bar(begin * TICKS, end * TICKS, end - begin))
            if end * TICKS >= last:
                break
        return bars

    def _bar_starts(self, first: int, last: int) -> list[int]:
        """Return the beats that begin bars, from at or before `first` to at or after `last`."""
        size = self.meter.beats
        starts: list[int] = []
        known = self.downbeats
        lead = max(0, math.ceil((known[0] - first) / size))
        starts += [known[0] - size * k for k in range(lead, 0, -1)]
        for begin, end in pairwise(known):
            starts += range(begin, end, size if end - begin > size + 1 else end - begin)
        after = max(1, math.ceil((last - known[-1]) / size) + 1)
        return starts + [known[-1] + size * k for k in range(after + 1)]


def _plausible(beats: Iterable[float]) -> list[float]:
    kept: list[float] = []
    for beat in sorted(beat for beat in beats if math.isfinite(beat)):
        if not kept or beat - kept[-1] >= SHORTEST_BEAT:
            kept.append(float(beat))
    return kept


def _extended(beats: list[float], first: float, last: float) -> tuple[int, np.ndarray]:
    """Return how many beats were put before the first, and all beats."""
    gaps = np.diff(beats)
    before, after = (float(np.clip(np.median(part), 0.2, 4.0)) for part in (gaps[:8], gaps[-8:]))
    lead = max(0, math.ceil((beats[0] - first) / before)) + 1
    tail = max(0, math.ceil((last - beats[-1]) / after)) + 1
    return lead, np.concatenate(
        [
            beats[0] - before * np.arange(lead, 0, -1),
            np.array(beats),
            beats[-1] + after * np.arange(1, tail + 1),
        ]
    )


def _indices(downbeats: Iterable[float], beats: list[float]) -> list[int]:
    found = set()
    for downbeat in downbeats:
        if math.isfinite(downbeat) and beats[0] - SHORTEST_BEAT <= downbeat <= beats[-1] + SHORTEST_BEAT:
            at = bisect_right(beats, downbeat)
            found.add(
                min((at - 1, at), key=lambda i: abs(beats[i] - downbeat) if 0 <= i < len(beats) else math.inf)
            )
    return sorted(found)
