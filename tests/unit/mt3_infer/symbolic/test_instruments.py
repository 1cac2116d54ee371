"""Names of instruments: one table, in both directions."""

from __future__ import annotations

from io import BytesIO

import mido
import pytest

from mt3_infer import Note
from mt3_infer.symbolic.instruments import (
    DRUM_NAMES,
    PROGRAM_NAMES,
    Instrument,
    Selection,
    drum_name,
    family_of,
    find_programs,
    program_name,
    select,
)
from mt3_infer.symbolic.midi import notes_to_midi


def test_families_cover_all_programs_once():
    programs = [program for instrument in Instrument for program in instrument.programs]
    assert programs == list(range(128))
    assert [family_of(program) for program in (0, 40, 73, 127)] == ["piano", "strings", "pipe", "sound_effects"]
    assert family_of(0, is_drum=True) is Instrument.DRUMS


def test_every_program_and_drum_key_has_a_name_of_its_own():
    assert len(set(PROGRAM_NAMES)) == len(PROGRAM_NAMES) == 128
    assert len(set(DRUM_NAMES)) == len(DRUM_NAMES) == 81 - 35 + 1


@pytest.mark.parametrize(
    ("program", "name"), [(0, "Acoustic Grand Piano"), (40, "Violin"), (60, "French Horn"), (127, "Gunshot")]
)
def test_names_are_those_of_general_midi(program, name):
    assert program_name(program) == name
    assert program_name(program, is_drum=True) == "Drums"


@pytest.mark.parametrize(
    ("key", "name"), [(36, "Kick"), (38, "Snare"), (42, "Closed Hi-Hat"), (81, "Open Triangle")]
)
def test_drum_keys_are_those_of_general_midi(key, name):
    assert drum_name(key) == name


def test_numbers_outside_the_tables_are_named_by_number():
    assert program_name(128) == "Program 128"
    assert drum_name(20) == "Drum 20"


def test_every_program_is_found_by_its_name():
    assert [find_programs(name.upper()) for name in PROGRAM_NAMES] == [(program,) for program in range(128)]


@pytest.mark.parametrize(
    ("name", "first"),
    [("violins", 40), ("Voice", 53), ("saxophone", 65), ("piano", 0), ("bass-guitar", 33), ("synth_lead", 80)],
)
def test_names_in_use_and_families_are_found(name, first):
    assert find_programs(name)[0] == first


def test_unknown_names_and_drums_have_no_program():
    assert find_programs("gramophone") == find_programs("") == find_programs("drums") == ()


@pytest.mark.parametrize("instrument", Instrument)
def test_family_is_selected_with_all_its_programs_and_no_others(instrument):
    name = instrument.value.replace("_", " ").title()
    assert select([name]) == Selection(tuple(instrument.programs), drums=instrument is Instrument.DRUMS)


@pytest.mark.parametrize(
    ("names", "programs"),
    [
        (["violin"], (40,)),
        (["Voice"], (53, 52, 54)),
        (["saxophones", "Flutes", "sax"], (65, 66, 64, 67, 73)),
        ([], ()),
    ],
)
def test_single_instruments_are_selected_the_most_likely_one_first(names, programs):
    assert select(names) == Selection(programs)


@pytest.mark.parametrize(
    ("name", "nearest"), [("vioiln", "Violin"), ("trumpett", "Trumpet"), ("stings", "Violin")]
)
def test_unknown_instrument_is_refused_with_the_nearest_name(name, nearest):
    with pytest.raises(ValueError, match=rf"'{name}' is not an instrument\. Did you mean {nearest}\?"):
        select(["piano", name])


def test_tracks_of_a_midi_file_bear_the_instruments_names():
    notes = [Note(0, 1, 60, 90, 40), Note(0, 1, 60, 90, 0), Note(0, 1, 38, 90, is_drum=True)]
    tracks = mido.MidiFile(file=BytesIO(notes_to_midi(notes))).tracks
    assert [track.name for track in tracks if track.name] == ["Acoustic Grand Piano", "Violin", "Drums"]
