"""Notes change their instruments."""

from __future__ import annotations

from mt3_infer import Note
from mt3_infer.symbolic.notes import change_programs, play_alone


def test_notes_keep_everything_but_their_program() -> None:
    notes = [Note(0.0, 1.0, 60, 90, 0, confidence=0.5), Note(0.0, 1.0, 64, 80, 24), Note(1.0, 2.0, 60, 70, 24)]
    assert play_alone(notes, 40) == [
        Note(0.0, 1.0, 60, 90, 40, confidence=0.5),
        Note(0.0, 1.0, 64, 80, 40),
        Note(1.0, 2.0, 60, 70, 40),
    ]


def test_drums_are_left_out() -> None:
    assert play_alone([Note(0.0, 0.1, 38, 90, is_drum=True)], 40) == []


def test_note_that_several_instruments_shared_is_one_note_as_long_as_the_longest() -> None:
    notes = [Note(0.0, 1.0, 60, 90, 0), Note(0.04, 2.0, 60, 100, 24), Note(0.05, 0.5, 60, 80, 65)]
    assert play_alone(notes, 40) == [Note(0.0, 2.0, 60, 100, 40)]


def test_note_ends_where_the_next_of_its_pitch_begins() -> None:
    notes = [Note(0.0, 3.0, 60, 90, 0), Note(1.0, 2.0, 60, 90, 24), Note(0.5, 3.0, 61, 90, 24)]
    assert play_alone(notes, 40) == [
        Note(0.0, 1.0, 60, 90, 40),
        Note(0.5, 3.0, 61, 90, 40),
        Note(1.0, 2.0, 60, 90, 40),
    ]


def test_each_program_sounds_a_pitch_once_at_a_time_and_drums_stay() -> None:
    notes = [
        Note(0, 1, 60, 90, 40),
        Note(0, 2, 60, 90, 41),
        Note(0, 1, 60, 90, 73),
        Note(0, 1, 60, 90, is_drum=True),
    ]
    assert change_programs(notes, lambda program: 42 if program < 48 else program) == [
        Note(0, 2, 60, 90, 42),
        Note(0, 1, 60, 90, 73),
        Note(0, 1, 60, 90, is_drum=True),
    ]
