"""Features of notes: numbers that distinguish loud notes from soft ones, and right ones from wrong ones."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mt3_infer.evidence import energy
from mt3_infer.evidence.posteriors import LEVELS, PITCHES
from mt3_infer.evidence.tracks import Track
from mt3_infer.symbolic.notes import Note

Values = NDArray[np.float64]

ATTACK = 0.2  # seconds after the onset within which a note is loudest
BEFORE = 0.06  # seconds before the onset at which it does not sound yet
ONSET_TOLERANCE = 0.05  # seconds
LONGEST = 2.0  # seconds of a note that are looked at
TOGETHER = 0.05  # seconds between the onsets of one chord

HARMONICS = ((0, 3.0), (12, 2.0), (19, 3.0), (24, 1.0))
"""Semitones above the pitch, and weights: the strength of a note shows in its overtones too."""

DRUM_BANDS = {"kick": (0, 1), "snare": (2, 3, 4), "tom": (1, 2), "cymbal": (5, 6)}
"""Of `energy.BANDS`, those in which a drum is loudest."""

_KICKS, _SNARES, _TOMS = (35, 36), (37, 38, 39, 40), (41, 43, 45, 47, 48, 50)

NOTE_FEATURES = (
    *("strength", "rise", "peak", "duration", "short", "pitch", "pitch_squared"),
    *("octave_below", "octave_above", "polyphony", "chord", "share", "repeated", "doubled"),
)
POSTERIOR_FEATURES = ("onset", "frames", "attack", "neighbors", "onset_below", "frames_below", "onset_above")
DRUM_FEATURES = ("rise", "share", "repeated")


@dataclass(frozen=True)
class Tracks:
    """The evidence of a recording, to be read at the times of notes."""

    energies: Track
    posteriors: Track | None


def drum_kind(pitch: int) -> str:
    """Return the row of `DRUM_BANDS` for a General MIDI drum key."""
    for kind, keys in (("kick", _KICKS), ("snare", _SNARES), ("tom", _TOMS)):
        if pitch in keys:
            return kind
    return "cymbal"


def strength(note: Note, energies: Track) -> float:
    """Return how loud a note begins, in decibels: a weighted mean over its harmonics, or the bands of a drum."""
    frames = energies.read(note.onset, note.onset + ATTACK).max(axis=0).astype(float)
    if note.is_drum:
        return float(max(frames[energy.PITCHES + band] for band in DRUM_BANDS[drum_kind(note.pitch)]))
    column = _column(note.pitch)
    present = [(column + above, weight) for above, weight in HARMONICS if column + above < energy.PITCHES]
    return float(sum(weight * frames[at] for at, weight in present) / sum(weight for _, weight in present))


def note_features(note: Note, tracks: Tracks) -> dict[str, float]:
    """Return what the recording says about a note; the posteriors of Basic Pitch only if there are any."""
    during = tracks.energies.read(note.onset, note.onset + ATTACK).max(axis=0).astype(float)
    before = tracks.energies.read(note.onset - BEFORE, note.onset - BEFORE / 2).mean(axis=0)
    if note.is_drum:
        rises = (during - before)[energy.PITCHES :]
        found = {
            "rise": float(max(rises[band] for band in DRUM_BANDS[drum_kind(note.pitch)])),
            "broad_rise": float(rises.mean()),
        }
        return {name: value / 20 for name, value in found.items()}
    column = _column(note.pitch)
    beside = [during[at] for at in (column - 1, column + 1) if 0 <= at < energy.PITCHES]
    duration = note.offset - note.onset
    found = {
        "rise": (during[column] - before[column]) / 20,
        "peak": (during[column] - max(beside)) / 20,
        "duration": math.log2(max(0.02, duration)),
        "short": max(0.0, 0.12 - duration) * 10,
        "pitch": (note.pitch - 60) / 24,
        "pitch_squared": ((note.pitch - 60) / 24) ** 2,
    }
    if tracks.posteriors is not None and not note.is_drum:
        found |= _posterior_features(note, tracks.posteriors)
    return found


def _posterior_features(note: Note, posteriors: Track) -> dict[str, float]:
    column = _column(note.pitch)
    near = posteriors.read(note.onset - ONSET_TOLERANCE, note.onset + ONSET_TOLERANCE)
    onsets = near[:, PITCHES:].max(axis=0) / LEVELS
    end = min(max(note.offset, note.onset + 0.1), note.onset + LONGEST)
    whole = posteriors.read(note.onset, end)[:, :PITCHES] / LEVELS
    frames = whole.mean(axis=0)
    attack = whole[:13].mean(axis=0)  # 150 ms

    def at(values: Values, semitones: int) -> float:
        index = column + semitones
        return float(values[index]) if 0 <= index < PITCHES else 0.0

    return {
        "onset": _log_odds(at(onsets, 0)),
        "frames": _log_odds(at(frames, 0)),
        "attack": _log_odds(at(attack, 0)),
        "neighbors": max(at(frames, -1), at(frames, 1)),
        "onset_below": max(at(onsets, -12), at(onsets, -19)),
        "frames_below": max(at(frames, -12), at(frames, -19)),
        "onset_above": at(onsets, 12),
    }


def context_features(notes: Sequence[Note]) -> Iterator[dict[str, float]]:
    """Yield what the other notes say about each note; `notes` are sorted by onset."""
    shares = Counter((note.program, note.is_drum, note.pitch if note.is_drum else 0) for note in notes)
    sounding: list[Note] = []
    chord: deque[Note] = deque()
    latest: dict[tuple[int, bool], float] = {}
    for at, note in enumerate(notes):
        sounding = [one for one in sounding if one.offset > note.onset and not one.is_drum]
        while chord and chord[0].onset < note.onset - TOGETHER:
            chord.popleft()
        ahead = _ahead(notes, at)
        others = [*sounding, *(one for one in ahead if not one.is_drum)]
        pitches = {one.pitch for one in others}
        since = note.onset - latest.get((note.pitch, note.is_drum), -10.0)
        share = shares[note.program, note.is_drum, note.pitch if note.is_drum else 0] / len(notes)
        yield {
            "octave_below": float(not pitches.isdisjoint({note.pitch - 12, note.pitch - 19, note.pitch - 24})),
            "octave_above": float(note.pitch + 12 in pitches),
            "polyphony": math.log2(1 + len(others)),
            "chord": math.log2(1 + len(chord) + len(ahead)),
            "share": math.log2(share),
            "repeated": max(0.0, 0.2 - since) * 5 if since > TOGETHER / 2 else 0.0,
            "doubled": float(note.pitch in pitches),
        }
        latest[note.pitch, note.is_drum] = note.onset
        sounding.append(note)
        chord.append(note)


def _ahead(notes: Sequence[Note], at: int) -> list[Note]:
    """Return the notes after this one that begin together with it."""
    ahead = []
    for note in notes[at + 1 : at + 65]:
        if note.onset > notes[at].onset + TOGETHER:
            break
        ahead.append(note)
    return ahead


def _column(pitch: int) -> int:
    return min(max(pitch - energy.LOWEST_PITCH, 0), energy.PITCHES - 1)


def _log_odds(probability: float) -> float:
    """Return the logit, from -4 to 4."""
    clipped = min(max(probability, 0.018), 0.982)
    return math.log(clipped / (1 - clipped))
