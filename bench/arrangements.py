"""Compose accompaniments by rule for `performances.py`: chords, bass, drums and guitar under a melody.

All of it is written here; only the melodies come from scores.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scores import BASS, DRUMS, INNER, MELODY, Bar, Part, Score, Written

KICK, SNARE, HAT, OPEN_HAT, RIDE, CRASH, STICK, TOM = 36, 38, 42, 46, 51, 49, 37, 45
# A pattern: for each drum the onsets in a bar, in beats.
DRUM_PATTERNS: dict[str, dict[int, tuple[float, ...]]] = {
    "rock": {KICK: (0, 2, 2.5), SNARE: (1, 3), HAT: (0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5)},
    "ballad": {KICK: (0, 2.5), STICK: (1, 3), HAT: (0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5)},
    "swing": {RIDE: (0, 1, 1.5, 2, 3, 3.5), 44: (1, 3), KICK: (0, 2)},
    "waltz": {KICK: (0,), HAT: (1, 2), STICK: (2,)},
    "jig": {KICK: (0, 4 / 3), SNARE: (1,), HAT: (0, 1 / 3, 2 / 3, 1, 4 / 3, 5 / 3)},
    "polka": {KICK: (0, 1), SNARE: (0.5, 1.5), HAT: (0, 0.5, 1, 1.5)},
}


def with_band(score: Score, pattern: str, chords: int, bass: int) -> Score:
    """Return a melody with chords, a bass and drums; `chords` and `bass` are programs."""
    first = len(score.parts)
    parts = [Part(chords, INNER, 0.85), Part(bass, BASS, 0.9), Part(0, DRUMS)]
    notes = list(score.notes)
    for bar, chord in zip(score.bars, harmony(score), strict=True):
        if bar.length_q < 4 * bar.num / bar.den:
            continue
        notes += _comping(bar, chord, first, score.beat_q, swung=pattern == "swing")
        notes += _bass_line(bar, chord, first + 1, score.beat_q, walking=pattern == "swing")
        notes += _drums(bar, pattern, first + 2, score.beat_q, fill=bar is score.bars[-1])
    return replace(score, parts=[*score.parts, *parts], notes=sorted(set(notes)))


def with_guitar(score: Score, program: int) -> Score:
    """Return a melody with broken chords below it, all on one guitar; strings ring on to the end of the bar."""
    parts = [Part(program, MELODY, 0.95)]
    notes = [replace(note, part=0) for note in score.notes]
    for bar, chord in zip(score.bars, harmony(score), strict=True):
        if bar.length_q < 4 * bar.num / bar.den:
            continue
        root = 40 + (chord[0] - 40) % 12
        upper = sorted({root + 12 + (pitch_class - root) % 12 for pitch_class in chord})
        step = score.beat_q / (3 if score.beat_q == 1.5 else 2)
        for index in range(round(bar.length_q / step)):
            pitch = root if index == 0 else upper[(index - 1) % 3]
            q = index * step
            notes.append(Written(bar.q + q, 0, pitch, bar.length_q - q if index == 0 else 2 * step))
    return replace(score, parts=parts, notes=sorted(set(notes)))


def with_left_hand(score: Score) -> Score:
    """Return a melody on a piano with a bass note and chords below it."""
    notes = list(score.notes)
    for bar, chord in zip(score.bars, harmony(score), strict=True):
        if bar.length_q == 4 * bar.num / bar.den:
            notes += _comping(bar, chord, 1, score.beat_q, swung=False)
            notes += _bass_line(bar, chord, 1, score.beat_q, walking=False)
    return replace(score, parts=[*score.parts, Part(score.parts[0].program, BASS, 0.85)], notes=sorted(set(notes)))


def harmony(score: Score) -> list[tuple[int, int, int]]:
    """Return a triad of the key for each bar, as pitch classes from the root up: the one the melody fits best."""
    tonic = 7 * score.key_sharps % 12
    scale = [(tonic + step) % 12 for step in (0, 2, 4, 5, 7, 9, 11)]
    triads = [(scale[i], scale[(i + 2) % 7], scale[(i + 4) % 7]) for i in range(6)]
    preference = np.array([0.3, -0.2, -0.4, 0.2, 0.2, 0.0])  # primary triads before the others
    chosen: list[tuple[int, int, int]] = []
    for bar in score.bars:
        weights = np.zeros(12)
        for note in score.notes:
            if bar.q <= note.q < bar.q + bar.length_q and not note.grace:
                weights[note.pitch % 12] += note.dur_q * (1.5 if note.q == bar.q else 1.0)
        fits = np.array([weights[list(triad)].sum() for triad in triads]) / max(weights.sum(), 1e-9)
        repeated = np.array([-0.05 if chosen and triad == chosen[-1] else 0.0 for triad in triads])
        chosen.append(triads[int(np.argmax(fits + 0.3 * preference + repeated))])
    return chosen


def _comping(bar: Bar, chord: tuple[int, int, int], part: int, beat: float, *, swung: bool) -> list[Written]:
    """Return a bar of chords between C3 and B3's octave: on the off-beats, or held in compound meters."""
    pitches = [52 + (pitch_class - 52) % 12 for pitch_class in chord]
    count = round(bar.length_q / beat)
    onsets = [1.5, 3.0] if swung and count == 4 else [b for b in range(count) if b % 2 or (count == 3 and b)]
    if beat == 1.5:
        onsets = [0.0, 1.0]
    return [Written(bar.q + onset * beat, part, pitch, 0.6 * beat) for onset in onsets for pitch in pitches]


def _bass_line(bar: Bar, chord: tuple[int, int, int], part: int, beat: float, *, walking: bool) -> list[Written]:
    """Return a bar of bass: root and fifth, or a note on each beat."""
    root, third, fifth = (33 + (pitch_class - 33) % 12 for pitch_class in chord)
    count = round(bar.length_q / beat)
    if walking:
        line = [(b, (root, third, fifth, third)[b % 4], 1.0) for b in range(count)]
    elif count == 3:
        line = [(0, root, 2.0)]
    else:
        half = count / 2
        line = [(0.0, root, half * 0.9), (half, fifth, half * 0.9)]
    return [Written(bar.q + onset * beat, part, pitch, length * beat) for onset, pitch, length in line]


def _drums(bar: Bar, pattern: str, part: int, beat: float, *, fill: bool) -> list[Written]:
    """Return a bar of drums; the last one ends with a fill."""
    count = round(bar.length_q / beat)
    strokes = [(onset, drum) for drum, onsets in DRUM_PATTERNS[pattern].items() for onset in onsets]
    strokes = [(onset, drum) for onset, drum in strokes if onset < count]
    if fill:
        strokes = [stroke for stroke in strokes if stroke[0] < count - 1]
        strokes += [(count - 1 + k / 4, SNARE if k % 2 else TOM) for k in range(4)]
    if bar.q == 0 or fill:
        strokes.append((0, CRASH))
    return [Written(round(bar.q + onset * beat, 6), part, drum, 0.2) for onset, drum in strokes]
