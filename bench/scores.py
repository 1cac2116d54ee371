"""Read written music for `performances.py`: excerpts of public-domain scores in music21's corpus.

Everything is counted in quarters from the start of the excerpt, as written; `performing.py` gives it times.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

MELODY, INNER, BASS, DRUMS = "melody", "inner", "bass", "drums"


@dataclass(frozen=True, order=True)
class Written:
    """A note as written: onset and duration in quarters, a MIDI pitch, the index of its part."""

    q: float
    part: int
    pitch: int
    dur_q: float
    grace: bool = False
    staccato: bool = False


@dataclass(frozen=True)
class Part:
    """A part: its General MIDI program, its role, and the share of a written duration that is held."""

    program: int
    role: str = INNER
    gate: float = 0.92
    shift: int = 0  # semitones, to bring a part into the range of the instrument that plays it

    @property
    def is_drums(self) -> bool:
        """Return True for the drum kit."""
        return self.role == DRUMS


@dataclass(frozen=True)
class Bar:
    """A bar: onset in quarters, meter, and length in quarters, shorter than the meter's for a pick-up."""

    q: float
    num: int
    den: int
    length_q: float


@dataclass(frozen=True)
class Score:
    """An excerpt: notes by onset, bars, and the key signature in sharps (flats are negative)."""

    parts: list[Part]
    notes: list[Written]
    bars: list[Bar]
    key_sharps: int
    beat_q: float = field(default=1.0)

    @property
    def length_q(self) -> float:
        """Return the end of the last bar, in quarters."""
        return self.bars[-1].q + self.bars[-1].length_q

    def beats(self) -> Iterator[tuple[float, int]]:
        """Yield each beat's onset in quarters and its number in the bar; those of a pick-up are the last ones."""
        for bar in self.bars:
            count = round(4 * bar.num / bar.den / self.beat_q)
            for number in range(1, count + 1):
                q = bar.q + bar.length_q - (count + 1 - number) * self.beat_q
                if q > bar.q - 1e-6:
                    yield q, number


def beat_length(num: int, den: int) -> float:
    """Return the quarters of what a meter counts: a dotted note in 6/8, 9/8 and 12/8, else the denominator's."""
    compound = den >= 8 and num % 3 == 0 and num > 3
    return 4 / den * (3 if compound else 1)


def read_score(source: str, number: int | None, first: int, bars: int, parts: list[Part | None]) -> Score:
    """Return an excerpt of a work in music21's corpus.

    Args:
        source: the work's name in the corpus.
        number: which piece of a collection.
        first: the index of the first measure, from 0; a pick-up is a measure.
        bars: how many bars, at most; the excerpt ends where the meter changes.
        parts: what plays each part of the score; None leaves a part out.
    """
    work = _parsed(source, number)
    measures = list(work.parts[0].getElementsByClass("Measure"))
    start = float(measures[first].offset)
    found = list(_bars(measures[first:], _in_force(work.parts[0], "TimeSignature"), bars))
    end = start + found[-1].q + found[-1].length_q
    playing = [
        (source_part, part) for source_part, part in zip(work.parts, parts, strict=True) if part is not None
    ]
    notes: set[Written] = set()
    for index, (source_part, part) in enumerate(playing):
        notes |= set(_notes(source_part, index, part.shift, start, end))
    keys = [key.sharps for offset, key in _in_force(work.parts[0], "KeySignature") if offset <= start + 1e-6]
    return Score(
        parts=[part for _, part in playing],
        notes=sorted(notes),
        bars=found,
        key_sharps=keys[-1] if keys else 0,
        beat_q=beat_length(found[0].num, found[0].den),
    )


def _parsed(source: str, number: int | None) -> Any:
    """Return a work at sounding pitch, each tied note as one."""
    from music21 import corpus

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        work = corpus.parse(source, number=number) if number else corpus.parse(source)
        return work.toSoundingPitch().stripTies(matchByPitch=True)


def _in_force(part: Any, kind: str) -> list[tuple[float, Any]]:
    """Return a part's signatures of one kind with their onsets in quarters, in order."""
    found = part.recurse().getElementsByClass(kind)
    return sorted(((float(each.getOffsetInHierarchy(part)), each) for each in found), key=lambda pair: pair[0])


def _bars(measures: list[Any], meters: list[tuple[float, Any]], most: int) -> Iterator[Bar]:
    """Yield bars while they are whole; a measure that is cut in two, as at a repeat, is one bar."""
    q, meter, pending = 0.0, None, 0.0
    for index, measure in enumerate(measures):
        signature = [each for offset, each in meters if offset <= measure.offset + 1e-6][-1]
        this = (signature.numerator, signature.denominator)
        meter = meter or this
        full = 4 * meter[0] / meter[1]
        following = measures[index + 1].offset if index + 1 < len(measures) else measure.offset + full
        length = float(following - measure.offset) + pending
        if this != meter or length > full + 1e-6 or most <= 0:
            return
        if length < full - 1e-6 and index > 0:
            pending = length
            continue
        yield Bar(q, *meter, length)
        q, pending, most = q + length, 0.0, most - 1


def _notes(part: Any, index: int, shift: int, start: float, end: float) -> Iterator[Written]:
    """Yield the notes of one part that begin in a span of quarters."""
    for element in part.recurse().notes:
        if "ChordSymbol" in element.classes:
            continue
        onset = float(element.getOffsetInHierarchy(part))
        if not start - 1e-6 <= onset < end - 1e-6:
            continue
        grace = element.duration.isGrace
        staccato = any("Staccato" in mark.classes for mark in element.articulations)
        length = min(float(Fraction(element.quarterLength)), end - onset)
        for pitch in element.pitches:
            yield Written(
                q=round(onset - start, 6),
                part=index,
                pitch=pitch.midi + shift,
                dur_q=0.125 if grace else round(length, 6),
                grace=grace,
                staccato=staccato,
            )
