"""Provide what is read of MIDI files and notes.json before they are measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mido
import pytest

from mt3_infer.errors import InvalidOptionError
from mt3_infer.evaluation import read_music
from mt3_infer.evaluation.music import with_pedal
from mt3_infer.symbolic.grid import BeatGrid
from mt3_infer.symbolic.notes import Note, Pedal
from tests.fakes import THREE_NOTES, transcription


def midi(path: Path, *, bpm: float, meter: tuple[int, int] | None) -> Path:
    """Write two bars of quarters, the pedal down in the first of them, and a drum."""
    file = mido.MidiFile(ticks_per_beat=480)
    track = mido.MidiTrack()
    file.tracks.append(track)
    track.append(mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(bpm)))
    if meter:
        track.append(mido.MetaMessage("time_signature", numerator=meter[0], denominator=meter[1]))
    track.append(mido.Message("program_change", channel=0, program=2))
    track.append(mido.Message("control_change", channel=0, control=64, value=127))
    for beat in range(6):
        track.append(mido.Message("note_on", channel=0, note=60 + beat, velocity=80))
        track.append(mido.Message("note_off", channel=0, note=60 + beat, time=480))
        if beat == 2:
            track.append(mido.Message("control_change", channel=0, control=64, value=0))
    track.append(mido.Message("note_on", channel=9, note=36, velocity=100))
    track.append(mido.Message("note_off", channel=9, note=36, time=48))
    file.save(str(path))
    return path


def test_midi_file_has_notes_pedals_and_beats(tmp_path: Path) -> None:
    music = read_music(midi(tmp_path / "a.mid", bpm=100, meter=(3, 4)))
    assert [(note.pitch, note.program) for note in music.notes if not note.is_drum] == [
        (60 + i, 2) for i in range(6)
    ]
    assert [note.pitch for note in music.notes if note.is_drum] == [36]
    assert music.notes[1].onset == pytest.approx(0.6)
    (pedal,) = music.pedals
    assert (pedal.onset, pedal.offset) == pytest.approx((0.0, 1.8))
    assert list(music.beats)[:4] == pytest.approx([0.0, 0.6, 1.2, 1.8])
    assert list(music.downbeats)[:2] == pytest.approx([0.0, 1.8])


def test_beat_of_a_compound_meter_is_dotted(tmp_path: Path) -> None:
    music = read_music(midi(tmp_path / "a.mid", bpm=100, meter=(6, 8)))
    assert list(music.beats)[:3] == pytest.approx([0.0, 0.9, 1.8])


@pytest.mark.parametrize(("bpm", "meter"), [(120.0, (4, 4)), (100.0, None)])
def test_midi_file_without_a_meter_or_tempo_of_its_own_has_no_beats(
    tmp_path: Path, bpm: float, meter: tuple[int, int] | None
) -> None:
    assert not read_music(midi(tmp_path / "a.mid", bpm=bpm, meter=meter)).beats


def test_notes_json_has_notes_pedals_and_beats(tmp_path: Path) -> None:
    grid = BeatGrid(beats=(0.0, 0.5), downbeats=(0.0,), meter="2/4", tempo_bpm=120.0)
    result = replace(transcription(), pedals=(Pedal(0.1, 0.9),), grid=grid)
    result.save(tmp_path / "notes.json")
    music = read_music(tmp_path / "notes.json")
    assert list(music.notes) == THREE_NOTES
    assert (tuple(music.beats), tuple(music.downbeats)) == (grid.beats, grid.downbeats)
    assert tuple(music.pedals) == result.pedals


@pytest.mark.parametrize("content", [b"", b"RIFF", b'{"format": "x"}', b"MThd\0\0\0\6\0\1\0\1", b"{\xff"])
def test_other_and_damaged_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.mid"
    path.write_bytes(content)
    with pytest.raises(InvalidOptionError):
        read_music(path)


def test_note_sounds_on_until_the_pedal_is_up_or_the_key_is_struck_again() -> None:
    notes = [Note(0.0, 0.5, 60, 80), Note(1.0, 1.2, 60, 80), Note(0.0, 3.5, 64, 80), Note(3.0, 3.2, 67, 80)]
    extended = with_pedal(notes, [Pedal(0.4, 2.0), Pedal(3.1, 3.3, controller=67)])
    assert [note.offset for note in extended] == [1.0, 2.0, 3.5, 3.2]
