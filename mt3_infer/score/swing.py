"""Swing: off-beats that fall steadily on two thirds of the beat are written as straight eighths, with the word."""

from __future__ import annotations

import numpy as np

from mt3_infer.score.meter import TICKS

FEWEST_OFFBEATS = 12
"""Beats with an off-beat that a piece needs before it can be said to swing."""

STEADY = 0.8
"""The share of these beats whose off-beat lies near two thirds."""

FILLED = 0.06
"""The share of beats with an onset on the first third, at most: more of them are true triplets."""

OFFBEAT = 2 / 3
NEAR = 0.085
"""How far from two thirds of the beat an off-beat may lie: half of the way to straight."""


def swings(onsets: np.ndarray) -> bool:
    """Return True if the piece swings throughout, from its onsets in ticks."""
    beats = np.floor(onsets / TICKS + 0.12).astype(int)  # an onset just ahead of a beat belongs to it
    inside = onsets / TICKS - beats
    offbeat = (inside > 0.15) & (inside < 0.86)
    with_offbeat = np.unique(beats[offbeat])
    if len(with_offbeat) < FEWEST_OFFBEATS:
        return False
    near = np.unique(beats[offbeat & (abs(inside - OFFBEAT) < NEAR)])
    others = np.unique(beats[offbeat & (abs(inside - OFFBEAT) >= NEAR)])
    first_third = np.unique(beats[abs(inside - 1 / 3) < NEAR])
    steady = np.setdiff1d(near, others)
    return len(steady) >= STEADY * len(with_offbeat) and len(first_third) <= FILLED * len(with_offbeat)


def straightened(positions: np.ndarray) -> np.ndarray:
    """Return positions with the long and the short part of each beat made equal."""
    beats = np.floor(positions / TICKS)
    inside = positions / TICKS - beats
    straight = np.where(inside < OFFBEAT, inside * 0.75, 0.5 + (inside - OFFBEAT) * 1.5)
    return np.asarray((beats + straight) * TICKS)
