"""`bench/notation.py` on a small piece of its kind: what is right counts, what is moved does not."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mt3_infer import Note

ROOT = Path(__file__).parents[2]
BEAT = 0.5  # seconds


@pytest.fixture
def notation(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "bench")
    return importlib.import_module("notation")


@pytest.fixture
def truth(notation: ModuleType, tmp_path: Path) -> Any:
    """A piece for two hands in D major, eight bars in 3/4."""
    scale = [62, 64, 66, 67, 69, 71, 73, 74]
    melody = [{"part": 0, "q": q, "dur_q": 1.0, "pitch": scale[q % 8]} for q in range(24)]
    basses = [{"part": 1, "q": 3 * bar, "dur_q": 3.0, "pitch": (38, 45)[bar % 2]} for bar in range(8)]
    times = [
        note | {"onset": note["q"] * BEAT, "offset": (note["q"] + 0.9 * note["dur_q"]) * BEAT, "velocity": 80}
        for note in melody + basses
    ]
    known = {
        "name": "piano_waltz", "notes": times, "programs": {"0": 0, "1": 0}, "pedal": [], "seconds": 12.0,
        "beats": [q * BEAT for q in range(24)], "downbeats": [3 * bar * BEAT for bar in range(8)],
        "bars": [{"q": 3.0 * bar, "num": 3, "den": 4, "length_q": 3.0} for bar in range(8)],
        "time_signature": [3, 4], "key_sharps": 2, "tempo_beats_per_minute": 120.0,
    }  # fmt: skip
    (tmp_path / "piano_waltz.json").write_text(json.dumps(known))
    return notation.read_truth(tmp_path / "piano_waltz.json")


def notes_of(truth: Any) -> list[Note]:
    return [note for note, _ in truth.written]


def test_true_notes_on_true_beats_are_right(notation: ModuleType, truth: Any) -> None:
    row = notation.measure(truth, notes_of(truth), truth.grid)
    assert (row.level, row.place, row.value, row.meter, row.key) == (True, 1.0, 1.0, True, True)
    assert row.hands == 1.0


def test_bars_that_begin_a_beat_late_leave_no_note_in_its_place(notation: ModuleType, truth: Any) -> None:
    late = replace(truth.grid, downbeats=truth.grid.beats[1::3])
    row = notation.measure(truth, notes_of(truth), late)
    assert row.level
    assert row.place == 0.0


def test_beats_of_twice_the_length_are_not_right(notation: ModuleType, truth: Any) -> None:
    slow = replace(truth.grid, beats=truth.grid.beats[::2], downbeats=truth.grid.beats[::6], meter="3/4")
    row = notation.measure(truth, notes_of(truth), slow)
    assert not row.level
    assert row.place < 0.5
    assert row.value < 0.1


def test_another_key_or_meter_counts_as_wrong(notation: ModuleType, truth: Any) -> None:
    row = notation.measure(truth, notes_of(truth), replace(truth.grid, key="Eb major", meter="6/8"))
    assert (row.key, row.meter) == (False, False)


def test_notes_that_nobody_played_do_not_count(notation: ModuleType, truth: Any) -> None:
    ghosts = [Note(3.2 + i, 3.3 + i, 90, 60) for i in range(5)]
    row = notation.measure(truth, notes_of(truth)[:20] + ghosts, truth.grid)
    assert row.place == 1.0


def test_lengths_that_are_no_note_values_do_not_count(notation: ModuleType, truth: Any) -> None:
    assert [notation.is_note_value(length) for length in (0.125, 1 / 3, 0.75, 1.5, 0.6, 1.8)] == [True] * 4 + [
        False
    ] * 2
    first = replace(truth, written=[(note, replace(written, value=None)) for note, written in truth.written])
    assert notation.measure(first, notes_of(truth), truth.grid).value is None


def test_table_has_means(notation: ModuleType, truth: Any) -> None:
    row = notation.measure(truth, notes_of(truth), truth.grid)
    printed = notation.table("notes", {"some": [row, replace(row, place=0.5, level=False)]})
    assert "| some | .750 | 1.000 | .500 | 1.000 |" in printed
