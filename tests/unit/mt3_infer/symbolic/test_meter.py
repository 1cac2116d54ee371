"""Readings are chosen by what they are expected to be worth; music ends with a bar."""

from __future__ import annotations

import numpy as np
import pytest

from mt3_infer import Note
from mt3_infer.symbolic.meter import IMPOSSIBLE, WORTH, Hypothesis, expected_worths
from mt3_infer.symbolic.metrical_features import Harmony, measure, meter_features
from mt3_infer.symbolic.pulse import Floats, find_accents
from tests.music import accompaniment, times

BEATS: Floats = np.linspace(0, 18.6, 32)
PULSES: list[Floats] = [BEATS, BEATS[:-1] + 0.3]


def test_a_reading_that_likely_ones_share_in_part_is_better_than_the_single_likeliest() -> None:
    off_beat, of_four, of_two = Hypothesis(1, 2, 4, 0), Hypothesis(0, 2, 4, 0), Hypothesis(0, 2, 2, 0)
    scores = np.log([0.4, 0.35, 0.25])
    worths = expected_worths([off_beat, of_four, of_two], PULSES, scores, 0.0, 20.0)
    assert worths.argmax() == 1
    certain = expected_worths([off_beat, of_four, of_two], PULSES, np.log([0.98, 0.01, 0.01]), 0.0, 20.0)
    assert certain.argmax() == 0
    assert certain[0] == pytest.approx(0.98 * WORTH)


def test_a_pulse_without_beats_in_a_part_stays_impossible() -> None:
    worths = expected_worths(
        [Hypothesis(0, 2, 4, 0), Hypothesis(1, 2, 4, 0)], PULSES, np.array([0.0, IMPOSSIBLE]), 0.0, 20.0
    )
    assert worths.tolist() == [WORTH, IMPOSSIBLE]


@pytest.mark.parametrize("upbeat", [0, 1, 2])
def test_the_music_ends_with_a_bar_of_the_right_phase_alone(upbeat: int) -> None:
    beats = times(12 * 3 + upbeat + 1, 100)
    notes = accompaniment(beats[upbeat:], 3)
    notes += [Note(beats[index], beats[index] + 0.5, 76, 90) for index in range(upbeat)]
    accents = find_accents(notes)
    pulse = measure(np.array(beats[:-1]), accents, Harmony(notes, 60.0))
    features = meter_features(pulse, accents, 0.0, 60.0)
    assert [features[3, phase][-1] for phase in range(3)] == [phase == upbeat for phase in range(3)]
    unknown = meter_features(pulse, accents, 0.0, 10.0)
    assert [unknown[3, phase][-1] for phase in range(3)] == [0, 0, 0], "the music goes on after this part"
