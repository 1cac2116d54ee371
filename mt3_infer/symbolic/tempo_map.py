"""Seconds → ticks of a MIDI file, and the tempo and time signature events that make ticks mean beats and bars.

Every beat of a grid is a whole number of ticks, and has a tempo of its own. A tempo is a whole number of
microseconds per quarter; each is chosen so that the next beat falls where it should by the tempi before it, so
that rounding does not add up over hours: a beat is off by a microsecond or two at most.

Before the first beat come lead-in beats from the start of the file on. They and a pick-up form a first bar that
may be shorter, so that every downbeat is at a bar line.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise

from mt3_infer.symbolic.grid import BeatGrid, beats_in_bar, quarters_in_beat

TICKS_PER_QUARTER = 480  # at least, in music short enough; see `_resolution`
MAX_TICKS = 10_000_000  # that pretty_midi reads
SECONDS_PER_QUARTER = 0.5  # 120 beats a minute, the tempo of a file that names none; ours names it too
COARSEST = 0.0015  # seconds that a tick lasts at most, where MAX_TICKS allows it
MAX_TICKS_PER_QUARTER = 30_720  # a multiple of 480 that fits the header's 15 bits
MAX_TEMPO = 2**24 - 1  # microseconds per quarter
SPARE_TICKS = 3  # for rounding, for a note that is given a tick, and because ticks count from 0


@dataclass(frozen=True)
class TimeSignature:
    """A time signature event; bars from this tick on have it."""

    tick: int
    numerator: int
    denominator: int


@dataclass(frozen=True)
class TempoMap:
    """Tempi by tick, and where they are in seconds.

    Attributes:
        ticks_per_quarter: resolution of the file.
        ticks: at which a tempo begins, ascending from 0.
        tempi: in microseconds per quarter.
        times: of these ticks as a player computes them, in seconds.
        time_signatures: those that change, by tick.
    """

    ticks_per_quarter: int
    ticks: list[int]
    tempi: list[int]
    times: list[float]
    time_signatures: list[TimeSignature]

    def tick(self, seconds: float) -> int:
        """Return the tick that is nearest to a time."""
        index = max(0, bisect_right(self.times, seconds) - 1)
        quarters = (seconds - self.times[index]) * 1e6 / self.tempi[index]
        return max(0, self.ticks[index] + round(quarters * self.ticks_per_quarter))


def fixed_tempo(end: float) -> TempoMap:
    """Return 120 beats a minute for music that ends at `end` seconds."""
    quarters = max(1.0, end / SECONDS_PER_QUARTER)
    resolution = max(1, min(TICKS_PER_QUARTER, int((MAX_TICKS - SPARE_TICKS) / quarters)))
    return TempoMap(resolution, [0], [round(SECONDS_PER_QUARTER * 1e6)], [0.0], [])


def follow_grid(grid: BeatGrid, end: float) -> TempoMap | None:
    """Return tempi that follow a grid, for music that ends at `end` seconds.

    None if no file can: the grid has fewer than two beats, no meter, or a gap longer than the slowest tempo.
    """
    beats = list(grid.beats)
    if len(beats) < 2 or not grid.meter:
        return None
    unit = quarters_in_beat(grid.meter)
    lead_in = _lead_in(beats)
    times = [*lead_in, *beats]
    if lead_in == [] and beats[0] > 0:
        times[0] = 0.0  # less than half a millisecond
    slowest = max(after - before for before, after in pairwise(times)) / unit
    if slowest * 1e6 >= MAX_TEMPO - 1:
        return None
    tail = max(0.0, end - times[-1]) / (times[-1] - times[-2])
    resolution = _resolution((len(times) + tail) * unit, slowest)
    if resolution < 2:
        return None
    per_beat = int(resolution * unit)
    tempi, at = _tempi(times, unit)
    downbeats = set(grid.downbeats)
    ones = [index for index, beat in enumerate(beats, start=len(lead_in)) if beat in downbeats]
    signatures = _time_signatures(ones, grid.meter, per_beat)
    return TempoMap(resolution, [index * per_beat for index in range(len(tempi))], tempi, at, signatures)


def _lead_in(beats: list[float]) -> list[float]:
    """Return beats from 0 s to the first one, at about its tempo."""
    if beats[0] < 0.0005:
        return []
    count = max(1, round(beats[0] / (beats[1] - beats[0])))
    return [beats[0] * index / count for index in range(count)]


def _resolution(quarters: float, slowest: float) -> int:
    """Return ticks per quarter: fine enough for the slowest one, few enough for `MAX_TICKS`, and even."""
    wanted = TICKS_PER_QUARTER * -(-int(slowest / COARSEST + 1) // TICKS_PER_QUARTER)
    most = int((MAX_TICKS - SPARE_TICKS) / quarters)
    return min(max(TICKS_PER_QUARTER, wanted), MAX_TICKS_PER_QUARTER, most) // 2 * 2


def _tempi(times: list[float], unit: float) -> tuple[list[int], list[float]]:
    """Return the tempo of each beat but the last, and when each begins with these tempi."""
    tempi, at, now = [], [], 0.0
    for following in times[1:]:
        tempo = max(1, min(MAX_TEMPO, round((following - now) / unit * 1e6)))
        tempi.append(tempo)
        at.append(now)
        now += tempo * unit / 1e6
    return tempi, at


def _time_signatures(ones: list[int], meter: str, per_beat: int) -> list[TimeSignature]:
    """Return the signatures of bars that begin at some beats; the others follow from the meter."""
    size = beats_in_bar(meter)
    numerator, denominator = (int(part) for part in meter.split("/"))
    per_count = numerator // size
    starts = [*ones[:1], *ones[1:]] or [0]
    bars = [(0, starts[0] % size)] if starts[0] % size else []
    bars += [(beat, size) for beat in range(starts[0] % size, starts[0], size)]
    for begin, following in pairwise(starts):
        while following - begin >= 2 * size:
            bars.append((begin, size))
            begin += size
        bars.append((begin, following - begin))
    bars.append((starts[-1], size))
    signatures: list[TimeSignature] = []
    current = 0
    for beat, count in bars:
        if count != current:
            signatures.append(TimeSignature(beat * per_beat, count * per_count, denominator))
            current = count
    return signatures
