"""Compose music by a seeded rule for `fit_grid.py`: chords, a bass, an accompaniment, drums and a melody.

`arrangements.py` accompanies tunes for listening. These need not please, but be of many kinds: which beats have a
bass, a chord or a drum differs from piece to piece, as it does in what people play.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from performing import Manner
from scores import BASS, DRUMS, INNER, MELODY, Bar, Part, Score, Written

METERS = (((4, 4), 9), ((3, 4), 4), ((6, 8), 5), ((2, 4), 3), ((12, 8), 1))  # meter, how often
TEMPI = {False: (108, 0.26), True: (70, 0.24)}  # simple, compound: beats a minute and their spread
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
PROGRESSIONS = (
    (0, 4, 5, 3),
    (0, 3, 4, 0),
    (0, 5, 1, 4),
    (0, 5, 3, 4),
    (0, 3),
    (0, 4),
    (5, 3, 0, 4),
    (0, 0, 3, 4),
    (0, 6, 5, 4),
)
BASSES = ("bar", "bar", "half", "beat", "parts", "syncopated", "none")
CHORDS = ("held", "halves", "beats", "parts", "off", "after", "after", "broken", "broken", "none")
CELLS = {  # rhythms of a melody, in quarters
    False: ((1,), (0.5, 0.5), (0.25,) * 4, (0.75, 0.25), (0.5, 0.25, 0.25), (1.5, 0.5), (2,), (0.5, 1, 0.5)),
    True: ((1.5,), (0.5,) * 3, (1, 0.5), (0.5, 1), (0.75, 0.25, 0.5), (3,)),
}
BROKEN = ((0, 1, 2), (0, 2, 1), (0, 1, 2, 1), (0, 2, 1, 2), (0, 1, 2, 3, 2, 1))
KICK, SNARE, HAT = 36, 38, 42
KICKS = ((0, 2), (0, 2, 2.5), (0, 0.75, 2.5), (0, 1.5, 2), (0, 1, 2, 3), (0, 2.5), (0,))
SNARES = ((1, 3), (1, 3), (1, 3), (2,), (1, 3, 3.75))
STROKES = {  # of less usual drums: on which beats of a bar, and how many parts of a beat after them
    KICK: (("all", 0), ("all", 0), ("first", 0), ("even", 0)),
    SNARE: (("all", 1), ("all", 1), ("odd", 0), ("later", 0), ("all", 0), ("none", 0)),
}


@dataclass(frozen=True)
class Groove:
    """How a piece is accompanied, drawn once for it."""

    random: np.random.Generator
    num: int
    den: int
    tonic: int
    scale: tuple[int, ...]
    is_unusual: bool = False

    @property
    def compound(self) -> bool:
        """Return True if beats have three parts."""
        return self.den == 8

    @property
    def beat_q(self) -> float:
        """Return the quarters of a beat."""
        return 1.5 if self.compound else 1.0

    @property
    def bar_q(self) -> float:
        """Return the quarters of a bar."""
        return 4 * self.num / self.den

    def pick(self, options: tuple[Any, ...]) -> Any:
        """Return one of the options."""
        return options[int(self.random.integers(len(options)))]

    def chord(self, degree: int) -> list[int]:
        """Return the pitches of a triad in close position around middle C, and below it those of no other."""
        return sorted(48 + (self.tonic + self.scale[(degree + step) % 7]) % 12 for step in (0, 2, 4))

    def root(self, degree: int) -> int:
        """Return the pitch of a bass."""
        return 36 + (self.tonic + self.scale[degree % 7]) % 12


def compose(random: np.random.Generator, seconds: float, *, unusual: bool = False) -> tuple[Score, str, Manner]:
    """Return a piece, its mode, and how it is played; an unusual one often has drums or basses on every beat."""
    meters, often = zip(*METERS, strict=True)
    num, den = meters[int(random.choice(len(meters), p=None if unusual else np.array(often) / sum(often)))]
    mode = "minor" if random.random() < 0.4 else "major"
    groove = Groove(random, num, den, int(random.integers(12)), SCALES[mode], unusual)
    middle, spread = TEMPI[groove.compound]
    tempo = middle * float(np.exp(random.normal(0, spread)))
    count = max(6, int(seconds * tempo / 60 * groove.beat_q / groove.bar_q))
    has_drums = random.random() < (0.7 if unusual else 0.35)
    parts = [Part(0, MELODY), Part(33, BASS), Part(24, INNER), Part(0, DRUMS)]
    voices = [_chords(groove, count), _drums(groove, count) if has_drums else iter(())]
    if random.random() < 0.8:
        voices.append(_melody(groove, count))
    notes = {note for voice in voices for note in voice}
    shift = 0.0
    bars = [Bar(index * groove.bar_q, num, den, groove.bar_q) for index in range(count)]
    if random.random() < 0.25:  # a pick-up
        shift = 0.5 if groove.compound else float(random.choice([0.5, 1.0]))
        notes = {Written(note.q + shift, note.part, note.pitch, note.dur_q) for note in notes}
        notes.add(Written(0.0, 0, groove.root(4) + 36, shift * 0.9))
        bars = [Bar(0.0, num, den, shift), *(Bar(bar.q + shift, num, den, bar.length_q) for bar in bars)]
    sharps = ((groove.tonic + (3 if mode == "minor" else 0)) * 7 + 5) % 12 - 5
    swing = not groove.compound and random.random() < 0.15
    rubato = 0.02 if has_drums else float(random.choice([0.02, 0.06, 0.1, 0.15]))
    return Score(parts, sorted(notes), bars, sharps, groove.beat_q), mode, Manner(tempo, rubato, swing=swing)


def _chords(groove: Groove, count: int) -> Iterator[Written]:
    """Yield the bass and the chords of all bars."""
    progression = groove.pick(PROGRESSIONS)
    bass, chords, broken = groove.pick(BASSES), groove.pick(CHORDS), groove.pick(BROKEN)
    if groove.is_unusual and groove.random.random() < 0.35:
        bass, chords = "beat", "off"
    if bass == "none" and chords in ("none", "off", "after"):
        bass = "bar"  # nothing else would show where bars begin
    bars_a_chord = int(groove.random.choice([1, 1, 1, 2]))
    halves = groove.bar_q / groove.beat_q % 2 == 0 and groove.random.random() < 0.15
    for index in range(count):
        spans = [(0.0, groove.bar_q, index // bars_a_chord)]
        if halves:
            spans = [(0.0, groove.bar_q / 2, 2 * index), (groove.bar_q / 2, groove.bar_q / 2, 2 * index + 1)]
        for start, length, number in spans:
            degree = progression[number % len(progression)]
            q = index * groove.bar_q + start
            for at, lasts in _bass_rhythm(bass, length, groove.beat_q):
                fifth = bass in ("half", "beat") and at > 0
                yield Written(q + at, 1, groove.root(degree) + (7 if fifth else 0), lasts)
            yield from _chord_rhythm(chords, broken, q, length, groove.chord(degree), groove.beat_q)


def _bass_rhythm(kind: str, length: float, beat: float) -> list[tuple[float, float]]:
    """Return onsets and durations within a chord."""
    part = 0.5
    match kind:
        case "bar":
            return [(0.0, length * 0.95 if length < 3 else beat * 0.95)]
        case "half":
            step = length / 2 if length / beat >= 2 and length / beat % 2 == 0 else length
        case "beat":
            step = beat
        case "parts":
            step = part
        case "syncopated":
            onsets = (0, 1, 1.5, 2.5, 3) if beat == 1.5 else (0, 0.75, 1.5, 2.5, 3)
            return [(at, 0.5) for at in onsets if at < length]
        case _:
            return []
    return [(index * step, step * 0.95) for index in range(round(length / step))]


def _chord_rhythm(
    kind: str, broken: tuple[int, ...], q: float, length: float, chord: list[int], beat: float
) -> Iterator[Written]:
    """Yield the chords or broken chords of one harmony."""
    beats = round(length / beat)
    part = 0.5
    match kind:
        case "held":
            onsets, lasts = [0.0], length
        case "halves":
            onsets, lasts = [index * beat for index in range(0, beats, 2)], min(2 * beat, length)
        case "beats":
            onsets, lasts = [index * beat for index in range(beats)], beat * 0.9
        case "parts":
            onsets, lasts = [index * part for index in range(round(length / part))], part * 0.9
        case "off":
            onsets, lasts = [index * beat + (beat - part) for index in range(beats)], part * 0.8
        case "after":  # on each beat that the bass leaves free
            onsets, lasts = [index * beat for index in range(1, beats)], beat * 0.5
        case "broken":
            pitches = [*chord, chord[0] + 12]
            for index in range(round(length / part)):
                yield Written(q + index * part, 2, pitches[broken[index % len(broken)]], part)
            return
        case _:
            return
    for at in onsets:
        for pitch in chord:
            yield Written(q + at, 2, pitch, lasts)


def _drums(groove: Groove, count: int) -> Iterator[Written]:
    """Yield the drums of all bars."""
    beats = round(groove.bar_q / groove.beat_q)
    strokes = _unusual_strokes(groove, beats) if groove.is_unusual else _strokes(groove, beats)
    step = 0.5 if groove.compound else float(groove.random.choice([0.5, 0.5, 1, 0.25]))
    for index in range(count):
        q = index * groove.bar_q
        for drum, onsets in strokes.items():
            for at in onsets:
                yield Written(q + round(at * groove.beat_q * 2) / 2 if groove.compound else q + at, 3, drum, 0.1)
        for number in range(round(groove.bar_q / step)):
            yield Written(q + number * step, 3, HAT, 0.1)


def _strokes(groove: Groove, beats: int) -> dict[int, tuple[float, ...]]:
    """Return where in a bar kick and snare are struck, in beats."""
    kicks, snares = groove.pick(KICKS), groove.pick(SNARES)
    return {KICK: kicks, SNARE: snares} if beats == 4 else {KICK: (0,), SNARE: tuple(range(1, beats))}


def _unusual_strokes(groove: Groove, beats: int) -> dict[int, tuple[float, ...]]:
    """Return the same for drums as in marches, polkas and dances: on every beat, or after it."""
    part = 2 / 3 if groove.compound else 0.5
    on = {
        "all": range(beats),
        "first": range(1),
        "even": range(0, beats, 2),
        "odd": range(1, beats, 2),
        "later": range(1, beats),
        "none": range(0),
    }
    picked = {drum: groove.pick(options) for drum, options in STROKES.items()}
    return {drum: tuple(beat + part * late for beat in on[which]) for drum, (which, late) in picked.items()}


def _melody(groove: Groove, count: int) -> Iterator[Written]:
    """Yield a melody that repeats the rhythms of four bars, more or less."""
    random = groove.random
    rhythms = [_bar_of_melody(groove) for _ in range(4)]
    density, syncopated = float(random.choice([0.6, 0.8, 0.95])), random.random() < 0.3
    degree = 0
    for index in range(count):
        for at, lasts in rhythms[index % 4 if random.random() < 0.85 else int(random.integers(4))]:
            degree = int(np.clip(degree + random.choice([-3, -2, -1, -1, 0, 1, 1, 2, 3]), -5, 10))
            if random.random() > density:
                continue
            early = min(at, 0.5) if syncopated and random.random() < 0.3 else 0.0
            pitch = 60 + groove.tonic + 12 * (degree // 7) + groove.scale[degree % 7]
            yield Written(index * groove.bar_q + at - early, 0, pitch, lasts)


def _bar_of_melody(groove: Groove) -> list[tuple[float, float]]:
    """Return onsets and durations that fill a bar."""
    result, q = [], 0.0
    while q < groove.bar_q - 1e-6:
        cell = groove.pick(CELLS[groove.compound])
        if q + sum(cell) > groove.bar_q + 1e-6:
            cell = (min(groove.beat_q, groove.bar_q - q),)
        for lasts in cell:
            result.append((q, float(lasts)))
            q += lasts
    return result
