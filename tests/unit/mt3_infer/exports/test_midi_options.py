"""The options of MIDI and the corrections of the grid, in every place where exports take them."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pretty_midi
import pytest
from click.testing import CliRunner

from mt3_infer import InvalidOptionError, Note, Transcription
from mt3_infer.cli import main
from mt3_infer.exports import FORMATS, export
from mt3_infer.symbolic.grid import BeatGrid, GridCorrection
from mt3_infer.symbolic.midi_options import MidiOptions
from tests.fakes import transcription
from tests.music import accompaniment, times

BEATS = times(40, 100, sway=0.02)
NOTES = [*accompaniment(BEATS, 3), *(Note(beat, beat + 0.05, 35, 90, is_drum=True) for beat in BEATS)]


@pytest.fixture(scope="module")
def waltz() -> Transcription:
    grid = BeatGrid(tuple(BEATS), tuple(BEATS[::3]), "3/4", 100.0, "C major")
    return replace(transcription(NOTES, BEATS[-1] + 1), grid=grid)


def read(path: Path) -> pretty_midi.PrettyMIDI:
    return pretty_midi.PrettyMIDI(BytesIO(path.read_bytes()))


def tempo(path: Path) -> float:
    tempi = read(path).get_tempo_changes()[1]
    return float(sorted(tempi)[len(tempi) // 2])


def test_the_grid_is_an_attribute_of_the_transcription(waltz: Transcription) -> None:
    assert waltz.beats == waltz.grid.beats
    assert set(waltz.downbeats) < set(waltz.beats)
    assert waltz.tempo_bpm == pytest.approx(100, rel=0.05)
    assert (waltz.meter, waltz.key) == ("3/4", "C major")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 100),
        ({"tempo": "fixed"}, 120),
        ({"level": "half"}, 50),
        ({"level": "double"}, 200),
        ({"tempo_bpm": 90}, 90),
        ({"tempo_bpm": 90, "tempo": "fixed"}, 120),
    ],
)
def test_options_of_midi_decide_its_tempo(
    waltz: Transcription, options: dict[str, Any], expected: float, tmp_path: Path
) -> None:
    export(waltz, "midi", tmp_path / "x.mid", options)
    assert tempo(tmp_path / "x.mid") == pytest.approx(expected, rel=0.05)
    found = sorted(note.start for part in read(tmp_path / "x.mid").instruments for note in part.notes)
    assert found == pytest.approx(sorted(note.onset for note in NOTES), abs=1e-3)


def test_a_bar_begins_where_the_user_says(waltz: Transcription, tmp_path: Path) -> None:
    export(waltz, "midi", tmp_path / "x.mid", {"one_at": BEATS[4]})
    bars = read(tmp_path / "x.mid").get_downbeats()
    assert min(abs(bars - BEATS[4])) < 0.06
    assert min(abs(bars - BEATS[3])) > 0.2


def test_drums_and_quantization_are_options_of_midi(waltz: Transcription, tmp_path: Path) -> None:
    export(waltz, "midi", tmp_path / "x.mid", {"drum_map": "basic", "quantize_strength": 1.0})
    file = read(tmp_path / "x.mid")
    assert {note.pitch for part in file.instruments if part.is_drum for note in part.notes} == {36}
    beats = file.get_beats()
    drums = [note.start for part in file.instruments if part.is_drum for note in part.notes]
    assert max(min(abs(beats - start)) for start in drums[1:-1]) < 1e-3


def test_an_archive_has_a_file_for_each_instrument(waltz: Transcription, tmp_path: Path) -> None:
    export(waltz, "midi", tmp_path / "x.zip", {"split": "instrument", "level": "double"})
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        assert archive.namelist() == ["acoustic-grand-piano.mid", "drums.mid"]
        archive.extractall(tmp_path)
    for name in ("acoustic-grand-piano.mid", "drums.mid"):
        assert len(read(tmp_path / name).instruments) == 1
        assert tempo(tmp_path / name) == pytest.approx(200, rel=0.05)
    midi = FORMATS["midi"]
    assert midi.content_type(midi.check_options({"split": "instrument"})) == "application/zip"


def test_one_file_is_not_split(waltz: Transcription) -> None:
    with pytest.raises(InvalidOptionError, match="to_midi_files"):
        waltz.to_midi(MidiOptions(split="instrument"))
    assert waltz.to_midi_files() == {"transcription.mid": waltz.to_midi()}


def test_notes_json_and_stems_have_the_corrected_grid(waltz: Transcription, tmp_path: Path) -> None:
    export(waltz, "notes.json", tmp_path / "x.json", {"level": "double", "meter": "4/4"})
    content = json.loads((tmp_path / "x.json").read_text())
    assert content["meter"] == "4/4"
    assert content["tempo_bpm"] == pytest.approx(200, rel=0.05)
    assert content["confidence"]["beats"] == 1
    assert len(content["notes"]) == len(NOTES)
    export(waltz, "stems.zip", tmp_path / "x.zip", {"sound": "none", "level": "half"})
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        (tmp_path / "x.mid").write_bytes(archive.read(archive.namelist()[0]))
    assert tempo(tmp_path / "x.mid") == pytest.approx(50, rel=0.05)


def test_a_correction_leaves_the_transcription_as_it_was(waltz: Transcription) -> None:
    assert waltz.corrected(GridCorrection(level="half")).tempo_bpm == pytest.approx(waltz.tempo_bpm / 2, rel=0.02)
    assert waltz.corrected(GridCorrection()) == waltz


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"one_at": 1, "first_beat": 2}, "midi: pass either one_at or first_beat, not both"),
        ({"level": "triple"}, "Option level of midi"),
        ({"quantize_strength": 1.5}, "Option quantize_strength of midi"),
        ({"meter": "5/7"}, "Option meter of midi"),
    ],
)
def test_wrong_options_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        FORMATS["midi"].check_options(options)


def test_the_command_takes_options_and_corrections(waltz: Transcription, tmp_path: Path) -> None:
    (tmp_path / "song.json").write_text(waltz.to_json())
    command = ["export", str(tmp_path / "song.json"), "--format", "midi"]
    done = CliRunner().invoke(main, [*command, "--level", "double", "--meter", "6/4"])
    assert done.exit_code == 0, done.output
    assert tempo(tmp_path / "song.mid") == pytest.approx(200, rel=0.05)
    done = CliRunner().invoke(main, [*command, "--split", "instrument"])
    assert done.output.strip() == str(tmp_path / "song.zip")
    assert zipfile.is_zipfile(tmp_path / "song.zip")
    done = CliRunner().invoke(main, [*command, "--level", "triple"])
    assert (done.exit_code, "'half', 'double', '3:2', '2:3'" in done.output) == (2, True)


@pytest.mark.parametrize(
    ("output", "options", "ending"),
    [("x.mid", ["--split", "instrument"], ".zip"), ("x.wav", ["--encoding", "mp3"], ".mp3")],
)
def test_options_that_make_another_kind_of_file_than_it_is_named_are_refused(
    waltz: Transcription, tmp_path: Path, output: str, options: list[str], ending: str
) -> None:
    (tmp_path / "song.json").write_text(waltz.to_json())
    done = CliRunner().invoke(
        main, ["export", str(tmp_path / "song.json"), "-o", str(tmp_path / output), *options]
    )
    assert done.exit_code == 2
    assert f"would hold a {ending} file: name it" in done.output
    assert not (tmp_path / output).exists()
