"""Give written music the times and velocities of a performance, by a seeded rule, for `performances.py`.

A tempo curve (faster within a phrase, slower at its ends, a slow drift, a ritardando at the end), onsets up to
15 ms off, velocities from phrase, meter and role, notes shorter than written, and a pedal for each bar or beat.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scores import BASS, DRUMS, MELODY, Part, Score, Written

START = 0.25  # seconds before the first beat
JITTER, MOST_JITTER = 0.007, 0.015  # seconds: deviation of an onset, and its limit
GRACE = 0.07  # seconds that a grace note comes before its note
PHRASE = 4  # bars
STEP = 1 / 48  # quarters, of the tempo curve


@dataclass(frozen=True)
class Manner:
    """How a piece is played.

    Attributes:
        tempo: beats a minute.
        rubato: how far the tempo departs from it, as a fraction.
        pedal: None, or how often the sustain pedal changes: "beat", "bar".
        swing: off-beat eighths come at two thirds of the beat.
    """

    tempo: float
    rubato: float = 0.06
    pedal: str | None = None
    swing: bool = False


@dataclass(frozen=True)
class Played:
    """A note of a performance: what was written, and times in seconds; `offset` is when the key is released."""

    written: Written
    onset: float
    offset: float
    velocity: int


@dataclass(frozen=True)
class Performance:
    """A score with its times: `quarters` and `times` (seconds) are the tempo curve."""

    score: Score
    notes: list[Played]
    pedal: list[tuple[float, float]]
    quarters: NDArray[np.float64]
    times: NDArray[np.float64]

    def time(self, q: float) -> float:
        """Return when a position in quarters comes, in seconds."""
        return float(np.interp(q, self.quarters, self.times))


def seeded(name: str, seed: int) -> np.random.Generator:
    """Return the random numbers of a clip: the same for a name and a seed on every machine."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "big"))


def perform(score: Score, manner: Manner, random: np.random.Generator) -> Performance:
    """Play a score."""
    quarters, times = _tempo_curve(score, manner, random)
    bare = Performance(score, [], [], quarters, times)
    loudness = random.normal(0, 4, size=64).cumsum().clip(-8, 8)  # a drift, one value a bar
    notes = [_played(note, bare, manner, loudness, random) for note in score.notes]
    notes = sorted(_without_overlaps(notes), key=lambda note: (note.onset, note.written.part, note.written.pitch))
    return Performance(score, notes, _pedal(bare, manner, random), quarters, times)


def _tempo_curve(
    score: Score, manner: Manner, random: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return positions in quarters and their times in seconds."""
    length = score.length_q
    quarters = np.arange(round(length / STEP) + 1) * STEP
    bar = 4 * score.bars[-1].num / score.bars[-1].den
    phase = (quarters % (PHRASE * bar)) / (PHRASE * bar)
    knots = np.arange(len(score.bars) + 1) * bar
    drift = np.interp(quarters, knots, random.normal(0, 0.3, size=len(knots)))
    speed = 1 + manner.rubato * (np.sin(np.pi * phase) - 0.6 + drift)
    closing = np.clip((quarters - (length - 2 * score.beat_q)) / (2 * score.beat_q), 0, 1)
    speed *= 1 - closing * min(0.3, 3 * manner.rubato)
    seconds = 60 / manner.tempo / score.beat_q * STEP / speed
    return quarters, START + np.concatenate([[0.0], np.cumsum(seconds[:-1])])


def _played(
    note: Written, bare: Performance, manner: Manner, loudness: NDArray[np.float64], random: np.random.Generator
) -> Played:
    """Return one note of the performance."""
    part = bare.score.parts[note.part]
    q = _swung(note.q, bare.score.beat_q) if manner.swing else note.q
    jitter = float(np.clip(random.normal(0, JITTER), -MOST_JITTER, MOST_JITTER))
    onset = max(0.0, bare.time(q) + jitter - (GRACE if note.grace else 0.0))
    gate = 0.5 if note.staccato else part.gate * (1 + random.normal(0, 0.03))
    held = GRACE if note.grace else (bare.time(q + note.dur_q) - bare.time(q)) * min(gate, 1.02)
    velocity = _velocity(note, part, bare.score, loudness) + random.normal(0, 4)
    return Played(note, round(onset, 4), round(onset + max(held, 0.05), 4), int(np.clip(round(velocity), 25, 118)))


def _swung(q: float, beat: float) -> float:
    """Return a position with the off-beat eighth at two thirds of its beat."""
    whole, rest = divmod(q, beat)
    rest /= beat
    return float((whole + (rest * 4 / 3 if rest < 0.5 else 2 / 3 + (rest - 0.5) * 2 / 3)) * beat)


def _velocity(note: Written, part: Part, score: Score, loudness: NDArray[np.float64]) -> float:
    """Return how loud a note is meant, as a MIDI velocity."""
    index = max(i for i, bar in enumerate(score.bars) if bar.q <= note.q + 1e-6)
    bar = score.bars[index]
    place = (note.q - bar.q + 4 * bar.num / bar.den - bar.length_q) / score.beat_q
    accent = 8 if place < 1e-6 else 3 if abs(place - round(place)) < 1e-6 else -4
    phrase = 10 * np.sin(np.pi * ((index % PHRASE) + 0.5) / PHRASE)
    role = {MELODY: 10, BASS: 2, DRUMS: 12}.get(part.role, 0)
    return float(60 + accent + phrase + role + loudness[index % len(loudness)] - (12 if note.grace else 0))


def _without_overlaps(notes: list[Played]) -> list[Played]:
    """Return the notes with each key released before it is struck again; a doubling in one part is dropped."""
    kept: list[Played] = []
    last: dict[tuple[int, int], int] = {}
    for note in sorted(notes, key=lambda note: (note.onset, -note.written.dur_q)):
        key = (note.written.part, note.written.pitch)
        before = last.get(key)
        if before is not None:
            previous = kept[before]
            if note.onset - previous.onset < 0.04:
                continue
            if previous.offset > note.onset - 0.012:
                release = max(previous.onset + 0.02, note.onset - 0.012)
                kept[before] = Played(previous.written, previous.onset, round(release, 4), previous.velocity)
        last[key] = len(kept)
        kept.append(note)
    return kept


def _pedal(bare: Performance, manner: Manner, random: np.random.Generator) -> list[tuple[float, float]]:
    """Return when the sustain pedal goes down and up: down after a change of harmony, up at the next."""
    if manner.pedal is None:
        return []
    score = bare.score
    places = [bar.q for bar in score.bars] if manner.pedal == "bar" else [q for q, _ in score.beats()]
    changes = [bare.time(q) for q in [*places, score.length_q]]
    return [
        (round(down + 0.08 + random.uniform(-0.02, 0.02), 4), round(up + random.uniform(0.0, 0.04), 4))
        for down, up in itertools.pairwise(changes)
    ]
