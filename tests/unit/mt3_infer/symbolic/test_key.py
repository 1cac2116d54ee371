"""The key of notes, in all twelve transpositions."""

from __future__ import annotations

import pytest

from mt3_infer import Note
from mt3_infer.symbolic.grid import MODES, TONICS
from mt3_infer.symbolic.key import find_key
from mt3_infer.symbolic.meter import coefficients

CADENCES = {
    "major": ((0, 4, 7), (5, 9, 12), (7, 11, 14), (0, 4, 7)),
    "minor": ((0, 3, 7), (5, 8, 12), (7, 11, 14), (0, 3, 7)),
}


def cadence(tonic: int, mode: str, *, is_drum: bool = False) -> list[Note]:
    return [
        Note(float(index), index + 1.0, 48 + tonic + tone, 80, is_drum=is_drum)
        for index, chord in enumerate(CADENCES[mode])
        for tone in chord
    ]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tonic", range(12))
def test_a_cadence_is_in_its_key(tonic: int, mode: str) -> None:
    key, probability = find_key(cadence(tonic, mode), coefficients()["key"])
    assert key == f"{TONICS[mode][tonic]} {mode}"
    assert 0.3 < probability <= 1


def test_drums_and_too_few_notes_have_no_key() -> None:
    weights = coefficients()["key"]
    assert find_key(cadence(0, "major", is_drum=True), weights) == ("", 0.0)
    assert find_key(cadence(0, "major")[:3], weights) == ("", 0.0)
