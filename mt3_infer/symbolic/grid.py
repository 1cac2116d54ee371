"""The metrical grid of a recording: its beats and bars, tempo, meter and key, and corrections of it."""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import median
from typing import Literal

from pydantic import Field, model_validator

from mt3_infer.options import Options

RATIOS = {"half": 0.5, "double": 2.0, "3:2": 1.5, "2:3": 2 / 3}
"""Beats after a correction of the level, for each beat before it."""
MAX_BEATS = 200_000  # that a tempo may ask for: eight hours at the fastest
LATEST = 7 * 24 * 3600.0  # seconds

MODES = ("major", "minor")
TONICS = {
    "major": ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B"),
    "minor": ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "G#", "A", "Bb", "B"),
}
"""Spelled so that the signature has at most six sharps or flats."""
KEYS = frozenset(f"{tonic} {mode}" for mode in MODES for tonic in TONICS[mode])


@dataclass(frozen=True)
class BeatGrid:
    """Beats and bars, as found in the notes of a recording.

    Attributes:
        beats: in seconds, ascending. A beat is what the meter counts: a quarter in 3/4, a dotted quarter in 6/8.
        downbeats: the beats that begin a bar, in seconds.
        meter: the time signature, as "3/4"; empty if there are too few notes to determine one.
        tempo_bpm: the median tempo, in beats per minute; 0 if there are fewer than two beats.
        key: as "G major" or "Bb minor"; empty if there are too few notes to determine one.
        confidence: 0 to 1 for each of "beats", "downbeats", "meter", "tempo_bpm" and "key".
    """

    beats: tuple[float, ...] = ()
    downbeats: tuple[float, ...] = ()
    meter: str = ""
    tempo_bpm: float = 0.0
    key: str = ""
    confidence: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ValueError if times do not ascend from 0, or meter or key is none."""
        for times in (self.beats, self.downbeats):
            if times and not (times[0] >= 0 and times[-1] < math.inf):
                raise ValueError("Beats lie at 0 s or later.")
            if not all(before < after for before, after in pairwise(times)):
                raise ValueError("Beats ascend.")
        if self.meter and not is_meter(self.meter):
            raise ValueError(f"{self.meter!r} is no time signature, such as 3/4.")
        if self.key and self.key not in KEYS:
            raise ValueError(f"{self.key!r} is no key, such as G major.")


def beats_in_bar(meter: str) -> int:
    """Return how many beats a meter counts: 3 in 3/4, 2 in 6/8."""
    number, unit = (int(part) for part in meter.split("/"))
    return number // 3 if _is_compound(number, unit) else number


def quarters_in_beat(meter: str) -> float:
    """Return the length of a meter's beat: 1 in 3/4, 1.5 in 6/8."""
    number, unit = (int(part) for part in meter.split("/"))
    return (3 if _is_compound(number, unit) else 1) * 4 / unit


def _is_compound(number: int, unit: int) -> bool:
    return unit >= 8 and number > 3 and number % 3 == 0


def tempo_of(beats: Sequence[float]) -> float:
    """Return the median tempo of beats in seconds, in beats per minute; 0 for fewer than two."""
    if len(beats) < 2:
        return 0.0
    return round(60 / median(after - before for before, after in pairwise(beats)), 3)


class BeatAxis:
    """Converts between seconds and beats, counted from the first one; beyond the ends the tempo goes on."""

    def __init__(self, beats: Sequence[float]) -> None:
        """Raise ValueError if there are fewer than two beats, or they do not ascend."""
        if len(beats) < 2 or any(after <= before for before, after in pairwise(beats)):
            raise ValueError("A grid has at least two beats, in ascending order.")
        self._beats = beats

    def seconds(self, beat: float) -> float:
        """Return the time of a beat, which may lie between two of them."""
        index = min(max(math.floor(beat), 0), len(self._beats) - 2)
        before, after = self._beats[index], self._beats[index + 1]
        return before + (beat - index) * (after - before)

    def beat(self, seconds: float) -> float:
        """Return where a time lies: 1.5 is halfway between the second beat and the third."""
        index = min(max(bisect_left(self._beats, seconds) - 1, 0), len(self._beats) - 2)
        before, after = self._beats[index], self._beats[index + 1]
        return index + (seconds - before) / (after - before)


class GridCorrection(Options):
    """Corrections of a grid that has the wrong level, meter or first beat. They apply to exports."""

    level: Literal["half", "double", "3:2", "2:3"] | None = Field(
        default=None,
        description="Correct the level: half or double as many beats, three for two (3:2), two for three (2:3).",
    )
    tempo_bpm: float | None = Field(
        default=None,
        ge=10,
        le=400,
        description="Beats per minute of music with a steady tempo. Replaces the beats that were found.",
    )
    meter: str | None = Field(
        default=None,
        pattern=r"^(?:[1-9]|1\d|2[0-4])/(?:2|4|8|16)$",
        description="Time signature, such as 3/4 or 6/8.",
    )
    one_at: float | None = Field(
        default=None, ge=0, le=LATEST, description="A time in seconds at which a bar begins."
    )
    first_beat: int | None = Field(
        default=None,
        ge=0,
        description="The index of a beat that begins a bar; 0 is the first beat of the recording.",
    )

    @model_validator(mode="after")
    def _one_way_to_place_bars(self) -> GridCorrection:
        if self.one_at is not None and self.first_beat is not None:
            raise ValueError("pass either one_at or first_beat, not both")
        return self

    def apply(self, grid: BeatGrid, duration: float) -> BeatGrid:
        """Return the corrected grid of a recording of `duration` seconds.

        Level, tempo, meter and first beat are applied in this order, and bars are counted anew from the beat that
        begins one. The time signature stays, except that 3/4 at 2:3 is 6/8 and 6/8 at 3:2 is 3/4: the same bars.
        """
        if all(getattr(self, name) is None for name in GridCorrection.model_fields):
            return grid
        level, meter = self._level_and_meter(grid)
        size = beats_in_bar(meter)
        beats, one = list(grid.beats), _first_downbeat(grid)
        if level is not None and len(beats) > 1:
            beats, one = _resampled(beats, one, RATIOS[level])
        if self.tempo_bpm is not None:
            anchor = self.one_at if self.one_at is not None else beats[one] if beats else 0.0
            beats, one = _steady(anchor, 60 / self.tempo_bpm, size, duration)
        if beats and self.one_at is not None:
            at = self.one_at
            one = min(range(len(beats)), key=lambda index: abs(beats[index] - at))
        elif beats and self.first_beat is not None:
            one = min(self.first_beat, len(beats) - 1)
        return replace(
            grid,
            beats=tuple(round(beat, 6) for beat in beats),
            downbeats=tuple(round(beat, 6) for index, beat in enumerate(beats) if (index - one) % size == 0),
            meter=meter if beats else grid.meter,
            tempo_bpm=tempo_of(beats),
            confidence=grid.confidence | self._certain(),
        )

    def _level_and_meter(self, grid: BeatGrid) -> tuple[str | None, str]:
        """Return the change of level and the meter, of which one follows from the other in 3/4 and 6/8."""
        meter = self.meter or grid.meter or "4/4"
        if self.level is None and self.tempo_bpm is None and {grid.meter, meter} == {"3/4", "6/8"}:
            return "2:3" if meter == "6/8" else "3:2", meter
        if self.meter is None and (grid.meter, self.level) in {("3/4", "2:3"), ("6/8", "3:2")}:
            return self.level, "6/8" if grid.meter == "3/4" else "3/4"
        return self.level, meter

    def _certain(self) -> dict[str, float]:
        """Return a confidence of 1 for what a user has set."""
        set_by = {
            "beats": self.level or self.tempo_bpm,
            "tempo_bpm": self.level or self.tempo_bpm,
            "meter": self.meter,
            "downbeats": self.one_at is not None or self.first_beat is not None,
        }
        return {name: 1.0 for name, value in set_by.items() if value}


def _first_downbeat(grid: BeatGrid) -> int:
    """Return the index of the first beat that begins a bar; 0 if none does."""
    return bisect_left(grid.beats, grid.downbeats[0]) if grid.downbeats else 0


def _resampled(beats: Sequence[float], one: int, ratio: float) -> tuple[list[float], int]:
    """Return `ratio` times as many beats, one of them at the beat that begins the first bar, and its index."""
    axis = BeatAxis(beats)
    before = math.floor(one * ratio + 1e-9)
    after = math.floor((len(beats) - 1 - one) * ratio + 1e-9)
    return [axis.seconds(one + step / ratio) for step in range(-before, after + 1)], before


def _steady(anchor: float, period: float, size: int, duration: float) -> tuple[list[float], int]:
    """Return beats at regular distances through a recording, one that begins a bar at the anchor, and its index.

    Args:
        size: beats in a bar.
    """
    anchor %= size * period  # bars are counted in both directions, so any that begins one will do
    before = math.floor(anchor / period + 1e-9)
    after = min(max(0, math.floor((duration - anchor) / period + 1e-9)), MAX_BEATS)
    return [anchor + step * period for step in range(-before, after + 1)], before


def is_meter(text: str) -> bool:
    """Return True for a time signature, as "3/4"."""
    return re.fullmatch(r"[1-9]\d?/(1|2|4|8|16|32)", text) is not None
