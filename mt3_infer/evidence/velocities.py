"""Velocities from the recording: notes ranked by how loud they begin.

Source of the figures behind each choice: docs/decisions, "Velocities and confidence come from the recording".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mt3_infer.evidence.features import Values
from mt3_infer.symbolic.notes import Note

LOWEST, HIGHEST = 20, 110
MIDDLE = (LOWEST + HIGHEST) / 2
FULL_RANGE = 12.0  # dB between soft and loud notes from which on all velocities are used
TREND_NOTES = 8  # notes from which on a trend over pitch is a trend


def velocities(notes: Sequence[Note], strengths: Values) -> list[int]:
    """Return a velocity for each note, 20 to 110.

    Pitched notes and drums are ranked apart. Where all are about equally loud, so are the velocities.

    Args:
        notes: of one recording.
        strengths: in decibels, shape (N,); see `features.strength`.
    """
    found = np.full(len(notes), MIDDLE)
    is_drum = np.array([note.is_drum for note in notes], bool)
    pitches = np.array([note.pitch for note in notes], float)
    found[~is_drum] = _by_rank(_without_trend(strengths[~is_drum], pitches[~is_drum]))
    found[is_drum] = _by_rank(_without_own_loudness(strengths[is_drum], pitches[is_drum]))
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


def _by_rank(strengths: Values) -> Values:
    """Spread the strengths evenly; equal ones become equal."""
    if not len(strengths):
        return strengths
    ordered = np.sort(strengths)
    below = np.searchsorted(ordered, strengths, "left")
    rank = (below + np.searchsorted(ordered, strengths, "right")) / 2 / len(strengths)  # 0 to 1
    soft, loud = np.quantile(ordered, (0.1, 0.9))
    width = (HIGHEST - LOWEST) * min(1.0, float(loud - soft) / FULL_RANGE)
    spread: Values = MIDDLE + width * (rank - 0.5)
    return spread
