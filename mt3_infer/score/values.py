"""Note values: what a voice plays in a bar, cut into notes and rests that can be written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mt3_infer.score.meter import TICKS, Bar, Meter
from mt3_infer.score.placed import Chord

TYPES = ("whole", "half", "quarter", "eighth", "16th", "32nd", "64th", "128th", "256th")


@dataclass(frozen=True, slots=True)
class Tuplet:
    """So many notes in the time of others, over one beat."""

    actual: int
    normal: int
    first: bool
    last: bool


@dataclass(frozen=True, slots=True)
class Value:
    """One written note, chord or rest.

    Attributes:
        start, end: in ticks.
        kind: the index of its type in `TYPES`.
        dots: 0 or 1.
        chord: None for a rest.
        tied_from, tied_to: it continues the value before, or goes on in the next.
        tuplet: that it belongs to.
        whole_bar: a rest that fills the bar, whatever its length.
    """

    start: int
    end: int
    kind: int
    dots: int
    chord: Chord | None
    tied_from: bool = False
    tied_to: bool = False
    tuplet: Tuplet | None = None
    whole_bar: bool = False


def simple(length: int, divisions: int) -> tuple[int, int] | None:
    """Return type and dots of a length in ticks, if one note can be written for it."""
    for kind in range(len(TYPES)):
        plain = 4 * divisions >> kind
        if plain << kind != 4 * divisions:
            return None
        if length == plain:
            return kind, 0
        if 2 * length == 3 * plain:
            return kind, 1
    return None


def bar_values(chords: list[Chord], bar: Bar, meter: Meter) -> list[Value]:
    """Return the notes and rests of one voice in one bar; their lengths sum to the bar's."""
    inside = [chord for chord in chords if chord.start < bar.end and chord.end > bar.start]
    if not inside:
        return [Value(bar.start, bar.end, 0, 0, None, whole_bar=True)]
    writer = _BarWriter(bar, meter, inside)
    values: list[Value] = []
    at = bar.start
    for chord in inside:
        start, end = max(chord.start, bar.start), min(chord.end, bar.end)
        values += writer.rest(at, start)
        values += writer.note(start, end, chord)
        at = end
    values += writer.rest(at, bar.end)
    return values


class _BarWriter:
    """Cuts spans of one bar into values."""

    def __init__(self, bar: Bar, meter: Meter, chords: list[Chord]) -> None:
        self._bar = bar
        self._meter = meter
        places = {place for chord in chords for place in (chord.start, chord.end) if bar.start < place < bar.end}
        self._tuplets: dict[int, tuple[int, int]] = {}
        if not meter.compound:
            for beat in {place // TICKS for place in places if place % (TICKS // 8)}:
                fine = any(place % 16 for place in places if place // TICKS == beat)
                self._tuplets[beat] = (6, 4) if fine else (3, 2)

    def note(self, start: int, end: int, chord: Chord) -> Iterator[Value]:
        """Write a chord over a span, as one value or several tied ones."""
        for s, e in self._pieces(start, end, rest=False):
            yield self._value(s, e, chord, tied_from=s > chord.start, tied_to=e < chord.end)

    def rest(self, start: int, end: int) -> Iterator[Value]:
        """Write rests over a span."""
        for s, e in self._pieces(start, end, rest=True):
            yield self._value(s, e, None)

    def _value(
        self, start: int, end: int, chord: Chord | None, *, tied_from: bool = False, tied_to: bool = False
    ) -> Value:
        beat = start // TICKS
        ratio = self._tuplets.get(beat)
        tuplet = None
        if ratio:
            tuplet = Tuplet(*ratio, first=start % TICKS == 0, last=end % TICKS == 0)
        written = self._written(start, end)
        assert written is not None
        return Value(start, end, *written, chord, tied_from, tied_to, tuplet)

    def _written(self, start: int, end: int) -> tuple[int, int] | None:
        length = end - start
        return simple(length * 3 // 2 if start // TICKS in self._tuplets else length, self._meter.divisions)

    def _pieces(self, start: int, end: int, *, rest: bool) -> Iterator[tuple[int, int]]:
        """Cut a span where a reader needs to see the beat."""
        while start < end:
            cut = self._cut(start, end, rest=rest)
            if cut is None:
                yield start, end
                return
            yield from self._pieces(start, cut, rest=rest)
            start = cut

    def _cut(self, start: int, end: int, *, rest: bool) -> int | None:
        """Return where to cut a span, or None if it is written as one value."""
        if (
            end - start == self._bar.end - self._bar.start
            and self._written(start, end)
            and not self._tuplet_in(start, end)
        ):
            return None
        levels = [(self._level(place), place) for place in self._boundaries(start, end)]
        if not levels:
            return None
        strongest = min(level for level, _ in levels)
        if self._written(start, end) and self._readable(start, end, levels, rest=rest):
            return None
        on_beat = self._level(start) <= _BEAT
        cuts = [place for level, place in levels if level == strongest]
        return cuts[-1] if on_beat and not rest else cuts[0]

    def _tuplet_in(self, start: int, end: int) -> bool:
        return any(beat in self._tuplets for beat in range(start // TICKS, -(-end // TICKS)))

    def _boundaries(self, start: int, end: int) -> list[int]:
        places = set(range((start // TICKS + 1) * TICKS, end, TICKS))
        for beat in {start // TICKS, (end - 1) // TICKS}:
            steps = (8,) if beat in self._tuplets else (4, 6) if self._meter.compound else (6,)
            for step in steps:
                places |= {place for place in range(beat * TICKS, (beat + 1) * TICKS, step) if start < place < end}
        return sorted(places)

    def _readable(self, start: int, end: int, levels: list[tuple[int, int]], *, rest: bool) -> bool:
        crossed = min(level for level, _ in levels)
        beats = sum(level <= _BEAT for level, _ in levels)
        if beats and self._tuplet_in(start, end):
            return False
        first, last = self._level(start), self._level(end)
        if rest:
            return self._readable_rest(start, end, crossed, beats)
        if self._meter.compound:
            return first <= _BEAT >= last if beats else max(first, last) <= crossed + 1
        if beats > 1 and first > _BEAT:
            return False
        return max(first, last) <= crossed + 1

    def _readable_rest(self, start: int, end: int, crossed: int, beats: int) -> bool:
        """Allow half rests on the halves of a bar, whole beats, and inside a beat what divides it evenly."""
        if start % TICKS == 0 and end - start == TICKS:
            return True
        if beats:
            aligned = (start - self._bar.origin) % (end - start) == 0
            return not self._meter.compound and self._bar.beats % 2 == 0 and aligned and end - start == 2 * TICKS
        if self._meter.compound:
            return start % TICKS == 0 or end - start == TICKS // 3
        return crossed > _BEAT + 1 and max(self._level(start), self._level(end)) <= crossed

    def _level(self, place: int) -> int:
        """Return how strong a place in the bar is: 0 its edges, 1 its middle, 2 beats, then their divisions."""
        offset = place - self._bar.origin
        inside = place % TICKS
        if place in (self._bar.start, self._bar.end):
            return 0
        if inside == 0:
            halves = self._bar.beats % 2 == 0 and self._bar.beats > 2
            return 1 if halves and 2 * offset == self._bar.beats * TICKS else _BEAT
        if place // TICKS in self._tuplets or self._meter.compound:
            return next(
                level for level, step in ((3, 16), (4, 8), (4, 12), (5, 4), (5, 6), (6, 1)) if inside % step == 0
            )
        return next(level for level, step in ((3, 24), (4, 12), (5, 6), (6, 1)) if inside % step == 0)


_BEAT = 2
