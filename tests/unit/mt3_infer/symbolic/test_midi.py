"""Written MIDI files read back as the same notes, on the same number of instruments."""

from __future__ import annotations

from io import BytesIO

import mido
import pretty_midi
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt3_infer import Note
from mt3_infer.symbolic.midi import notes_to_midi
from mt3_infer.symbolic.tempo_map import SECONDS_PER_QUARTER, TICKS_PER_QUARTER

TICK = SECONDS_PER_QUARTER / TICKS_PER_QUARTER


def read(midi: bytes) -> list[Note]:
    notes = [
        Note(note.start, note.end, note.pitch, note.velocity, 0 if part.is_drum else part.program, part.is_drum)
        for part in pretty_midi.PrettyMIDI(BytesIO(midi)).instruments
        for note in part.notes
    ]
    return sorted(notes, key=order)


def order(note: Note) -> tuple[bool, int, int, float]:
    return note.is_drum, note.program, note.pitch, note.onset


def same(written: list[Note], back: list[Note]) -> bool:
    return len(written) == len(back) and all(
        (a.pitch, a.velocity, a.is_drum, a.program) == (b.pitch, b.velocity, b.is_drum, b.program)
        and abs(a.onset - b.onset) <= TICK
        and abs(a.offset - b.offset) <= TICK
        for a, b in zip(written, back, strict=True)
    )


@st.composite
def separate_notes(draw: st.DrawFn) -> list[Note]:
    """Notes of which no two of one pitch and program overlap."""
    notes = []
    for program in draw(st.sets(st.integers(0, 127), max_size=40)):
        for pitch in draw(st.sets(st.integers(0, 127), max_size=3)):
            end = 0.0
            for gap, length in draw(st.lists(st.tuples(st.floats(0.01, 5), st.floats(0.01, 5)), max_size=3)):
                onset, end = end + gap, end + gap + length
                is_drum = program == 127
                velocity = draw(st.integers(1, 127))
                notes.append(Note(onset, end, pitch, velocity, 0 if is_drum else program, is_drum))
    return sorted(notes, key=order)


@given(separate_notes())
def test_notes_read_back_within_a_tick(notes: list[Note]) -> None:
    assert same(notes, read(notes_to_midi(notes)))


def test_forty_programs_lose_no_note_and_sound_with_their_own_program_when_tracks_are_merged() -> None:
    notes = sorted((Note(p / 10, p / 10 + 3, 60, 90, p) for p in range(40)), key=order)
    midi = notes_to_midi(notes)

    assert same(notes, read(midi))
    current: dict[int, int] = {}
    programs = []
    for message in mido.merge_tracks(mido.MidiFile(file=BytesIO(midi)).tracks):
        if message.type == "program_change":
            current[message.channel] = message.program
        elif message.type == "note_on":
            programs.append(current[message.channel])
            assert message.channel != 9
    assert programs == list(range(40))


def test_drums_are_on_the_tenth_channel() -> None:
    midi = mido.MidiFile(file=BytesIO(notes_to_midi([Note(0, 1, 38, 90, 0, is_drum=True)])))
    assert {m.channel for track in midi.tracks for m in track if m.type == "note_on"} == {9}


def test_a_note_ends_where_the_next_of_its_pitch_begins() -> None:
    back = read(notes_to_midi([Note(0, 5, 60, 90), Note(1, 2, 60, 80)]))
    assert [(n.onset, n.offset, n.velocity) for n in back] == [(0, 1, 90), (1, 2, 80)]


def test_of_two_notes_that_begin_at_once_the_longer_is_kept() -> None:
    assert same([Note(0, 2, 60, 80)], read(notes_to_midi([Note(0, 2, 60, 80), Note(0, 1, 60, 90)])))


def test_no_notes_are_a_valid_file() -> None:
    assert read(notes_to_midi([])) == []


@pytest.mark.parametrize(
    ("hours", "resolution"), [(2.8, 0.0011), (2.89, 0.0011), (2.9, 0.0011), (11.5, 0.0042), (24, 0.0088)]
)
def test_long_music_is_read_back_and_stays_on_its_steps(hours: float, resolution: float) -> None:
    """MT3 repeats a note after 10 ms at the soonest."""
    end = hours * 3600
    onsets = [0.0, 1.0, *(end - 10 + step / 100 for step in range(998))]
    notes = [Note(onset, onset + 0.01, 60, 90) for onset in onsets]
    back = read(notes_to_midi(notes))
    assert len(back) == len(notes)
    assert max(abs(a.onset - b.onset) for a, b in zip(notes, back, strict=True)) <= resolution / 2
    assert abs(back[-1].offset - notes[-1].offset) <= resolution


def test_the_last_tick_of_a_long_note_is_still_read() -> None:
    """Whatever the length: rounding must not take it over the limit."""
    for milliseconds in range(0, 20):
        end = 10416.66 + milliseconds / 1000
        (note,) = read(notes_to_midi([Note(end - 1e-6, end, 60, 90)]))
        assert note.onset == pytest.approx(end, abs=0.002)
