"""Velocities from the recording: notes ranked by how loud they begin, those of the melody above others.

Source of the figures behind each choice: docs/decisions, "Velocities and confidence come from the recording".
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

from mt3_infer.evidence.features import Values
from mt3_infer.symbolic.notes import Note

LOWEST, HIGHEST = 20, 110
MIDDLE = (LOWEST + HIGHEST) / 2
FULL_RANGE = 12.0  # dB between soft and loud notes from which on all velocities are used
TREND_NOTES = 8  # notes from which on a trend over pitch is a trend
MOST_DEVIATIONS = 3.0  # by which a note counts as louder than the mean
HIGHEST_WEIGHT = 2.4
"""By how many standard deviations the highest note that sounds is taken to be louder.

Players bring out the melody, and in a dense recording the energy at a note is mostly that of others.
"""
TOGETHER = 0.05  # seconds between the onsets of one chord
STILL_SOUNDING = 0.03  # seconds after an onset: what ends before does not sound with it


def velocities(notes: Sequence[Note], strengths: Values) -> list[int]:
    """Return a velocity for each note, 20 to 110.

    Pitched notes and drums are ranked apart. Where all are about equally loud, so are the velocities.

    Args:
        notes: of one recording, sorted by onset.
        strengths: in decibels, shape (N,); see `features.strength`.
    """
    found = np.full(len(notes), MIDDLE)
    is_drum = np.array([note.is_drum for note in notes], bool)
    pitches = np.array([note.pitch for note in notes], float)
    pitched = [note for note in notes if not note.is_drum]
    loudness = _without_trend(strengths[~is_drum], pitches[~is_drum])
    found[~is_drum] = _by_rank(_with_melody(loudness, pitched), _width(loudness))
    loudness = _without_own_loudness(strengths[is_drum], pitches[is_drum])
    found[is_drum] = _by_rank(loudness, _width(loudness))
    return [int(velocity) for velocity in np.rint(found)]


def _without_trend(strengths: Values, pitches: Values) -> Values:
    """Remove the trend over pitch: instruments and rooms favor some registers, whatever the player does."""
    if len(strengths) < TREND_NOTES:
        return strengths
    centered = pitches - pitches.mean()
    variance = float((centered**2).mean())
    slope = float((centered * strengths).mean()) / variance if variance else 0.0
    rest: Values = strengths - slope * centered
    return rest


def _without_own_loudness(strengths: Values, pitches: Values) -> Values:
    """Compare each drum with itself only: a kick is louder than a hi-hat at the same velocity."""
    medians = {pitch: float(np.median(strengths[pitches == pitch])) for pitch in set(pitches.tolist())}
    rest: Values = strengths - np.array([medians[pitch] for pitch in pitches.tolist()])
    return rest


def _with_melody(loudness: Values, notes: Sequence[Note]) -> Values:
    """Return the loudness in standard deviations, more for the highest notes."""
    if not len(loudness):
        return loudness
    deviation = float(loudness.std()) or 1.0
    standardized = np.clip((loudness - loudness.mean()) / deviation, -MOST_DEVIATIONS, MOST_DEVIATIONS)
    raised: Values = standardized + HIGHEST_WEIGHT * _are_highest(notes)
    return raised


def _are_highest(notes: Sequence[Note]) -> Values:
    """Return 1 for each note above which none sounds as it begins, else 0."""
    highest = np.zeros(len(notes))
    sounding: list[tuple[int, float, float]] = []  # (-pitch, onset, offset)
    ahead = 0
    for at, note in enumerate(notes):
        while ahead < len(notes) and notes[ahead].onset <= note.onset + TOGETHER:
            heapq.heappush(sounding, (-notes[ahead].pitch, notes[ahead].onset, notes[ahead].offset))
            ahead += 1
        while sounding[0][1] < note.onset - TOGETHER and sounding[0][2] <= note.onset + STILL_SOUNDING:
            heapq.heappop(sounding)
        highest[at] = note.pitch >= -sounding[0][0]
    return highest


def _width(loudness: Values) -> float:
    """Return how many velocities are used: all of them, or fewer where notes are about equally loud."""
    if not len(loudness):
        return 0.0
    soft, loud = np.quantile(loudness, (0.1, 0.9))
    return (HIGHEST - LOWEST) * min(1.0, float(loud - soft) / FULL_RANGE)


def _by_rank(values: Values, width: float) -> Values:
    """Spread the values evenly around the middle; equal ones become equal."""
    if not len(values):
        return values
    ordered = np.sort(values)
    below = np.searchsorted(ordered, values, "left")
    rank = (below + np.searchsorted(ordered, values, "right")) / 2 / len(values)  # 0 to 1
    spread: Values = MIDDLE + width * (rank - 0.5)
    return spread
