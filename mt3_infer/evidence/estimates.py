"""Join the notes of a recording with its evidence: velocities and confidence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from mt3_infer.evidence.confidence import confidence, read_coefficients
from mt3_infer.evidence.features import Tracks, Values, context_features, note_features, strength
from mt3_infer.evidence.velocities import velocities
from mt3_infer.symbolic.notes import Note

DECIBELS = 20.0
"""Divides strengths, so that features are of similar size."""


def estimate(notes: Sequence[Note], tracks: Tracks, *, family: str, keep_velocities: bool) -> list[Note]:
    """Return the notes with velocities and confidence.

    Args:
        notes: sorted.
        tracks: the evidence of the whole recording.
        family: of the coefficients; see `mt3_infer.evidence.confidence`.
        keep_velocities: True to keep the network's.
    """
    strengths = strengths_of(notes, tracks)
    loudness = [note.velocity for note in notes] if keep_velocities else velocities(notes, strengths)
    coefficients = read_coefficients()[family]
    pitched = coefficients["energies" if tracks.posteriors is None else "posteriors"]
    estimated = []
    for note, velocity, features in zip(notes, loudness, all_features(notes, tracks, strengths), strict=True):
        chosen = coefficients["drums"] if note.is_drum else pitched
        estimated.append(replace(note, velocity=velocity, confidence=confidence(features, chosen)))
    return estimated


def strengths_of(notes: Sequence[Note], tracks: Tracks) -> Values:
    """Return how loud each note begins, in decibels, shape (N,)."""
    return np.array([strength(note, tracks.energies) for note in notes], float)


def all_features(notes: Sequence[Note], tracks: Tracks, strengths: Values) -> Iterator[dict[str, float]]:
    """Yield all features of each note; `bench/fit_confidence.py` fits the coefficients to them."""
    relative = strengths / DECIBELS
    is_drum = np.array([note.is_drum for note in notes], bool)
    for kind in (is_drum, ~is_drum):
        if kind.any():
            relative[kind] -= np.median(relative[kind])
    for note, value, context in zip(notes, relative, context_features(notes), strict=True):
        yield {"strength": float(value)} | note_features(note, tracks) | context
