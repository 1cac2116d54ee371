"""Corrections of a grid: level, tempo, meter and first beat."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from pydantic import ValidationError

from mt3_infer.symbolic.grid import BeatAxis, BeatGrid, GridCorrection, beats_in_bar, quarters_in_beat

FOUR = BeatGrid(
    beats=tuple(1 + 0.5 * i for i in range(17)),
    downbeats=tuple(1.5 + 2 * i for i in range(4)),
    meter="4/4",
    tempo_bpm=120.0,
    key="C major",
    confidence={"beats": 0.5, "downbeats": 0.4, "meter": 0.3, "tempo_bpm": 0.5, "key": 0.9},
)
THREE = BeatGrid(tuple(0.5 * i for i in range(13)), tuple(1.5 * i for i in range(5)), "3/4", 120.0)


def distances(times: tuple[float, ...]) -> set[float]:
    return {round(after - before, 6) for before, after in pairwise(times)}


def test_no_correction_changes_nothing() -> None:
    assert GridCorrection().apply(FOUR, 10.0) is FOUR


def test_half_keeps_the_beats_that_begin_bars() -> None:
    grid = GridCorrection(level="half").apply(FOUR, 10.0)
    assert grid.beats == tuple(1.5 + i for i in range(8))
    assert grid.downbeats == (1.5, 5.5)
    assert (grid.meter, grid.tempo_bpm, grid.key) == ("4/4", 60.0, "C major")
    assert grid.confidence == FOUR.confidence | {"beats": 1.0, "tempo_bpm": 1.0}


def test_double_adds_a_beat_between_two() -> None:
    grid = GridCorrection(level="double").apply(FOUR, 10.0)
    assert set(FOUR.beats) < set(grid.beats)
    assert distances(grid.beats) == {0.25}
    assert grid.downbeats[0] == 1.5
    assert distances(grid.downbeats) == {1.0}


def test_half_of_double_is_the_grid_again() -> None:
    twice = GridCorrection(level="double").apply(FOUR, 10.0)
    assert GridCorrection(level="half").apply(twice, 10.0).beats[1:] == FOUR.beats[1:]


def test_three_quarters_and_six_eighths_have_the_same_bars() -> None:
    six = GridCorrection(level="2:3").apply(THREE, 6.0)
    assert (six.meter, six.tempo_bpm, six.downbeats) == ("6/8", 80.0, THREE.downbeats)
    by_meter = GridCorrection(meter="6/8").apply(THREE, 6.0)
    assert (by_meter.beats, by_meter.downbeats) == (six.beats, six.downbeats)
    three = GridCorrection(level="3:2").apply(six, 6.0)
    assert (three.meter, three.beats, three.downbeats) == ("3/4", THREE.beats, THREE.downbeats)


def test_three_beats_for_two_keep_other_meters() -> None:
    grid = GridCorrection(level="3:2").apply(FOUR, 10.0)
    assert grid.meter == "4/4"
    assert grid.tempo_bpm == pytest.approx(180)
    assert grid.downbeats[0] == 1.5


def test_a_bar_begins_at_the_beat_nearest_to_a_time() -> None:
    grid = GridCorrection(one_at=2.1).apply(FOUR, 10.0)
    assert grid.beats == FOUR.beats
    assert grid.downbeats == (2.0, 4.0, 6.0, 8.0)
    assert grid.confidence["downbeats"] == 1.0
    assert GridCorrection(first_beat=2).apply(FOUR, 10.0) == grid
    assert GridCorrection(first_beat=6).apply(FOUR, 10.0).downbeats == grid.downbeats


def test_a_steady_tempo_replaces_the_beats() -> None:
    grid = GridCorrection(tempo_bpm=100, meter="3/4", one_at=1.3).apply(FOUR, 10.0)
    assert distances(grid.beats) == {0.6}
    assert grid.beats[0] == pytest.approx(0.1)
    assert grid.beats[-1] <= 10.0 < grid.beats[-1] + 0.6
    assert grid.downbeats[0] == pytest.approx(1.3)
    assert distances(grid.downbeats) == {1.8}


def test_a_tempo_makes_a_grid_where_none_was_found() -> None:
    grid = GridCorrection(tempo_bpm=60).apply(BeatGrid(), 4.5)
    assert (grid.beats, grid.downbeats, grid.meter) == ((0.0, 1.0, 2.0, 3.0, 4.0), (0.0, 4.0), "4/4")


def test_a_bar_may_begin_long_after_the_end() -> None:
    near, far = (GridCorrection(tempo_bpm=60, one_at=at).apply(FOUR, 10.0) for at in (2.0, 400_002.0))
    assert near == far
    assert len(near.beats) == 11


@pytest.mark.parametrize(
    "wrong",
    [
        {"beats": (1.0, 1.0)},
        {"beats": (2.0, 1.0)},
        {"beats": (-1.0, 1.0)},
        {"beats": (0.0, float("inf"))},
        {"beats": (float("nan"), 1.0)},
        {"beats": (0.0, float("nan"), 1.0)},
        {"downbeats": (1.0, 0.5)},
        {"meter": "0/4"},
        {"meter": "3/5"},
        {"key": "H major"},
        {"key": "C"},
    ],
)
def test_grids_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"Beats|is no"):
        BeatGrid(**wrong)


def test_other_corrections_of_an_empty_grid_leave_it_empty() -> None:
    for correction in (GridCorrection(level="half"), GridCorrection(meter="3/4"), GridCorrection(one_at=1)):
        grid = correction.apply(BeatGrid(), 4.0)
        assert (grid.beats, grid.downbeats, grid.meter) == ((), (), "")


@pytest.mark.parametrize(
    "wrong",
    [
        {"level": "3:4"},
        {"meter": "three"},
        {"meter": "3/5"},
        {"tempo_bpm": 0},
        {"one_at": 1, "first_beat": 0},
        {"one_at": float("inf")},
        {"one_at": float("nan")},
        {"x": 1},
    ],
)
def test_wrong_corrections_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        GridCorrection(**wrong)


@pytest.mark.parametrize(
    ("meter", "beats", "quarters"),
    [("3/4", 3, 1), ("6/8", 2, 1.5), ("12/8", 4, 1.5), ("3/8", 3, 0.5), ("2/2", 2, 2)],
)
def test_what_a_meter_counts(meter: str, beats: int, quarters: float) -> None:
    assert (beats_in_bar(meter), quarters_in_beat(meter)) == (beats, quarters)


def test_the_axis_of_beats_is_its_own_inverse() -> None:
    axis = BeatAxis((0.0, 0.5, 1.25, 1.5))
    for beat in (-2.0, 0.0, 0.4, 1.0, 2.9, 3.0, 7.5):
        assert axis.beat(axis.seconds(beat)) == pytest.approx(beat)
    with pytest.raises(ValueError, match="ascending"):
        BeatAxis((1.0, 1.0))
