"""Beats, bars, meter and tempo are found in notes, of any length and in any order."""

from __future__ import annotations

import json
import random
import time
from dataclasses import replace
from pathlib import Path

import mir_eval
import numpy as np
import pytest

from mt3_infer import Note
from mt3_infer.symbolic.beats import find_grid
from mt3_infer.symbolic.grid import MODES, TONICS, BeatGrid
from mt3_infer.symbolic.meter import TWO_FOUR, log_frequency
from tests.music import accompaniment, times

DATA = Path(__file__).parents[3] / "data"


def score(truth: list[float], found: tuple[float, ...]) -> float:
    return float(mir_eval.beat.f_measure(np.array(truth), np.array(found)))


def note(row: list[float]) -> Note:
    onset, offset, pitch, velocity, program, is_drum = row
    return Note(onset, offset, int(pitch), int(velocity), int(program), bool(is_drum))


def sharps(key: str) -> int:
    """Return the sharps of a key's signature, flats as negative ones."""
    tonic, mode = key.split()
    index = TONICS[mode].index(tonic) + (0 if mode == MODES[0] else 3)
    return (index * 7 + 5) % 12 - 5


def test_grids_of_mt3s_notes_of_six_performances() -> None:
    """Figures of docs/decisions/0010-beats-from-the-notes.md; these clips were not used to fit anything."""
    clips = json.loads((DATA / "mt3_notes.json").read_text())
    beats, downbeats, meters, keys = [], [], [], []
    for clip in clips:
        grid = find_grid([note(row) for row in clip["notes"]])
        beats.append(score(clip["beats"], grid.beats))
        downbeats.append(score(clip["downbeats"], grid.downbeats))
        meters.append(grid.meter == clip["meter"])
        keys.append(sharps(grid.key) == clip["key_sharps"])
    assert np.mean(beats) >= 0.98
    assert np.mean(downbeats) >= 0.98
    assert sum(meters) == 6
    assert sum(keys) == 6


@pytest.mark.parametrize(
    ("size", "parts", "bpm", "meters"),
    [(3, 2, 110, {"3/4"}), (4, 2, 100, {"2/4", "4/4"}), (2, 3, 70, {"6/8"}), (2, 2, 90, {"2/4", "4/4"})],
)
def test_beats_of_clear_music(size: int, parts: int, bpm: float, meters: set[str]) -> None:
    beats = times(48, bpm)
    grid = find_grid(accompaniment(beats, size, parts))
    assert score(beats[:-1], grid.beats) > 0.95
    assert grid.tempo_bpm == pytest.approx(bpm, rel=0.06)
    assert grid.meter in meters, "a bar of four is two bars of two"
    bars = {beats[0], *beats[: -1 : int(grid.meter[0]) // (3 if parts == 3 else 1)]}
    assert score(sorted(bars), grid.downbeats) > 0.9


def test_downbeats_are_beats_and_everything_ascends() -> None:
    grid = find_grid(accompaniment(times(200, 97, sway=0.2), 3))
    assert set(grid.downbeats) <= set(grid.beats)
    assert all(a < b for a, b in zip(grid.beats, grid.beats[1:], strict=False))
    assert set(grid.confidence) == {"beats", "downbeats", "meter", "tempo_bpm", "key"}
    assert all(0 < value <= 1 for value in grid.confidence.values())


def test_order_of_notes_does_not_matter() -> None:
    notes = accompaniment(times(40, 100), 4)
    shuffled = random.Random(1).sample(notes, len(notes))
    assert find_grid(shuffled) == find_grid(notes)


def test_beats_go_on_through_missing_and_false_notes() -> None:
    rng = random.Random(2)
    beats = times(64, 105)
    notes = [note for note in accompaniment(beats, 4) if rng.random() > 0.2]
    notes += [Note(t := rng.uniform(0, 38), t + 0.2, rng.randrange(40, 90), 90) for _ in range(len(notes) // 10)]
    assert score(beats[:-1], find_grid(notes).beats) > 0.9


def test_each_piece_of_a_medley_has_bars_of_its_own() -> None:
    waltz = times(150, 120)
    march = times(160, 104, start=waltz[-1] + 3)
    grid = find_grid(accompaniment(waltz, 3) + accompaniment(march, 4))
    middle = waltz[-1] + 1.5
    assert score(waltz[:-1:3], tuple(t for t in grid.downbeats if t < middle)) > 0.85
    found = np.array([t for t in grid.downbeats if t > middle])
    begins = [bool((np.abs(found - bar) < 0.07).any()) for bar in march[:-1:4]]
    assert np.mean(begins) > 0.85, "its bars of four begin where bars of four or of two do"
    assert len(found) < 0.6 * len(march)


@pytest.mark.parametrize(
    "notes",
    [
        [],
        [Note(1.0, 2.0, 60, 90)],
        [Note(1.0, 2.0, 60 + i, 90) for i in range(10)],
        [Note(float("nan"), 1.0, 60, 90)],
    ],
    ids=["none", "one", "one chord", "no time"],
)
def test_too_few_notes_have_no_beats(notes: list[Note]) -> None:
    grid = find_grid(notes)
    assert (grid.beats, grid.downbeats, grid.meter, grid.tempo_bpm) == ((), (), "", 0.0)
    assert grid.confidence["beats"] == grid.confidence["meter"] == 0


def test_drums_alone_have_beats_and_no_key() -> None:
    beats = times(48, 112, sway=0.0)
    notes = [Note(b, b + 0.05, 36 if i % 2 == 0 else 38, 100, is_drum=True) for i, b in enumerate(beats)]
    notes += [Note(b + 60 / 224 * k, b + 0.3, 42, 80, is_drum=True) for b in beats for k in (0, 1)]
    grid = find_grid(notes)
    assert score(beats, grid.beats) > 0.95
    assert (grid.key, grid.confidence["key"]) == ("", 0)


def test_all_notes_at_once_and_very_far_apart_do_no_harm() -> None:
    assert find_grid([Note(600.0 * i, 600.0 * i + 1, 60, 90) for i in range(8)]) != BeatGrid()
    assert find_grid([Note(0.0, 0.0, 60, 0)] * 500).beats == ()


def test_three_hours_of_music_take_seconds() -> None:
    piece = accompaniment(times(400, 117, sway=0.1), 4, 4)
    length = piece[-1].offset + 2
    notes = [
        replace(note, onset=note.onset + turn * length, offset=note.offset + turn * length)
        for turn in range(round(3 * 3600 / length))
        for note in piece
    ]
    assert len(notes) > 100_000
    started = time.process_time()
    grid = find_grid(notes)
    assert time.process_time() - started < 60
    assert grid.tempo_bpm == pytest.approx(117, rel=0.06)
    assert grid.meter in ("2/4", "4/4")


JIG = """
2:69 3:74 1:73 2:69 3:69 1:67 2:64 3:67 1:64 2:64 4:62 2:64 3:67 1:64 2:64 3:72
1:64 2:64 2:67 2:69 2:71 4:72 2:76 3:74 1:73 2:69 3:69 1:67 2:64 3:67 1:64 2:64
4:62 2:64 3:67 1:64 2:64 3:72 1:64 2:64 3:62 1:64 2:62 4:62 2:69 3:74 1:73 2:74
2:76 2:73 2:69 3:74 1:73 2:74 2:76 2:73 2:69 3:72 1:71 2:73 3:73 1:71 2:69
3:67 1:69 2:71 2:73 2:67 2:64 3:69 1:74 2:76 2:78 2:76 2:74 3:76 1:74 2:73 2:74
2:73 2:69 3:67 1:64 2:64 3:72 1:64 2:64
"""
"""The Walls of Liscarroll (O'Neill, Music of Ireland, 1903) in sixteenths and pitches, after a pick-up."""


def test_long_notes_of_a_jig_before_the_beat_do_not_move_it() -> None:
    sixteenth = 60 / 88 / 6
    notes, now = [], 0.25
    for word in JIG.split():
        length, pitch = (int(part) for part in word.split(":"))
        notes.append(Note(now, now + length * sixteenth * 0.9, pitch, 100))
        now += length * sixteenth
    beats = np.arange(0.25 + 2 * sixteenth, now, 6 * sixteenth)
    grid = find_grid(notes)
    assert score(list(beats), grid.beats) > 0.95
    assert grid.meter == "6/8"


@pytest.mark.parametrize("bpm", [95, 100, 110, 118])
@pytest.mark.parametrize("drums", [(35,), (42,), (36, 42)])
def test_a_drum_on_every_beat_of_a_waltz_does_not_double_its_tempo(drums: tuple[int, ...], bpm: float) -> None:
    beats = times(40, bpm, sway=0.02)
    strokes = [Note(beat, beat + 0.05, drum, 90, is_drum=True) for beat in beats for drum in drums]
    grid = find_grid([*accompaniment(beats, 3), *strokes])
    assert grid.tempo_bpm == pytest.approx(bpm, rel=0.05)
    assert grid.meter == "3/4"


def test_rare_tempi_and_dances_in_two_four_count_less() -> None:
    steady, fast = 0.0, 1.0  # octaves from 100 beats a minute
    four, two, compound = [0, 0, 0, 1, 0], [0, 1, 0, 0, 0], [1, 1, 0, 0, 0]
    rows = np.array([[*four, steady], [*two, steady], [*four, fast], [*compound, -0.5], [*compound, fast]])
    usual, dance, rushed, jig, frantic = log_frequency(rows)
    assert dance == pytest.approx(usual + np.log(TWO_FOUR))
    assert rushed < usual - 3
    assert frantic < jig - 2
