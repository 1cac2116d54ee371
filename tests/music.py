"""Music with known beats, for tests of the grid and of MIDI."""

from __future__ import annotations

from itertools import pairwise

from mt3_infer import Note

CHORDS = ((0, 4, 7), (9, 0, 4), (5, 9, 0), (7, 11, 2))


def times(count: int, bpm: float, *, start: float = 0.5, sway: float = 0.03) -> list[float]:
    """Return times of beats whose tempo sways by a fraction, over sixteen beats."""
    result, now = [], start
    for index in range(count):
        result.append(now)
        now += 60 / bpm * (1 + sway * (1 - abs(index % 16 - 8) / 4))
    return result


def accompaniment(beats: list[float], size: int, parts: int = 2, *, transpose: int = 0) -> list[Note]:
    """Return a bass on each first beat, chords on the others, and a melody in `parts` to the beat."""
    notes = []
    for index, (beat, following) in enumerate(pairwise(beats)):
        length = following - beat
        chord = CHORDS[index // size % len(CHORDS)]
        if index % size == 0:
            notes.append(Note(beat, beat + length * 0.9, 36 + transpose + chord[0], 100))
        else:
            notes += [Note(beat, beat + length * 0.5, 55 + transpose + tone, 100) for tone in chord]
        for part in range(parts):
            onset = beat + part * length / parts
            long = part == 0 and index % size == 0
            pitch = 72 + transpose + chord[(index + part) % 3]
            notes.append(Note(onset, onset + length / (1.1 if long else parts * 1.1), pitch, 100))
    return notes
