"""The table of formats: every row writes a file, and what it cannot take is refused by name."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import replace
from io import BytesIO, StringIO
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pretty_midi
import pytest

from mt3_infer import InvalidOptionError, MissingDependencyError, Note, Transcription
from mt3_infer.errors import MissingSoundFontError, UnknownFormatError
from mt3_infer.exports import ENDINGS, FORMATS, export, get_format
from mt3_infer.exports.notes import COLUMN_TYPES
from tests.fakes import THREE_NOTES, transcription

EVERY_CHOICE = [
    (row.name, {} if row.chosen_by is None else {row.chosen_by: choice})
    for row in FORMATS.values()
    for choice in row.files
]


@pytest.mark.parametrize(("name", "options"), EVERY_CHOICE)
def test_every_format_writes_a_file_and_reports_progress(
    name: str, options: dict[str, Any], tmp_path: Path, bach: Path
) -> None:
    reports: list[float] = []
    target = tmp_path / "file"
    target.write_text("older")
    row = export(transcription(), name, target, options, audio=bach, progress=reports.append)
    assert row is FORMATS[name]
    assert target.read_bytes() not in (b"", b"older")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert reports == sorted(reports)
    assert all(0 <= fraction <= 1 for fraction in reports)


@pytest.mark.parametrize(("name", "options"), EVERY_CHOICE)
def test_an_export_that_fails_leaves_what_was_there(
    name: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Path, *args: Any, **more: Any) -> None:
        raise OSError(28, "No space left on device")

    target = tmp_path / "file"
    target.write_text("older")
    monkeypatch.setattr("mt3_infer.files.os.fsync", fail)
    with pytest.raises(OSError, match="file"):
        export(transcription(), name, target, options, audio=Path(__file__).parents[3] / "data/bach_piano.flac")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["older"]


def test_choices_of_a_format_are_those_of_its_option() -> None:
    for row in FORMATS.values():
        if row.chosen_by is not None:
            assert set(row.files) == set(get_args(row.options.model_fields[row.chosen_by].annotation))


def test_endings_stand_for_formats_and_options_that_there_are() -> None:
    for ending, (name, options) in ENDINGS.items():
        row = get_format(name)
        assert row.file_name(row.check_options(options)).partition(".")[2] in (
            ending[1:],
            "mid",
            "opus",
            "musicxml",
        )


@pytest.mark.parametrize("ending", sorted(ENDINGS))
def test_a_file_is_saved_in_the_format_that_its_name_ends_in(ending: str, tmp_path: Path) -> None:
    transcription().save(tmp_path / f"song{ending.upper()}")
    assert (tmp_path / f"song{ending.upper()}").stat().st_size > 0


def test_other_endings_are_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        transcription().save(tmp_path / "song.doc")
    assert all(ending in str(caught.value) for ending in ENDINGS)


def test_an_unknown_format_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UnknownFormatError) as caught:
        export(transcription(), "mp4", tmp_path / "x")
    assert all(name in str(caught.value) for name in FORMATS)


def test_an_unknown_option_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match="audio takes no option 'encodin'; it takes: encoding"):
        export(transcription(), "audio", tmp_path / "x", {"encodin": "opus"})
    with pytest.raises(InvalidOptionError, match=r"Option encoding of audio: .*'wav'"):
        export(transcription(), "audio", tmp_path / "x", {"encoding": "flac"})


def test_a_format_of_the_recording_needs_it(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match="pass it as audio"):
        export(transcription(), "peaks", tmp_path / "x")


def test_equal_options_have_one_hash_and_different_ones_have_others() -> None:
    hashes = {
        (name, choice): FORMATS[name].hash_options(FORMATS[name].check_options(options))
        for name, options in EVERY_CHOICE
        for choice in [str(options)]
    }
    assert len(set(hashes.values())) == len(hashes)
    audio = FORMATS["audio"]
    assert audio.hash_options(audio.check_options({})) == hashes["audio", "{'encoding': 'opus'}"]
    newer = replace(audio, version=audio.version + 1)
    assert newer.hash_options(newer.check_options({})) not in hashes.values()


def test_what_raises_in_progress_ends_the_export(tmp_path: Path) -> None:
    def cancel(fraction: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(transcription(), "audio", tmp_path / "x", progress=cancel)
    assert list(tmp_path.iterdir()) == []


def test_the_table_and_its_options_need_no_heavy_package() -> None:
    code = (
        "import sys, mt3_infer.exports as e; [f.options.model_json_schema() for f in e.FORMATS.values()];"
        "print(sorted({'numpy', 'av', 'mido', 'torch', 'pandas', 'tinysoundfont'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_csv_has_a_row_for_each_note() -> None:
    notes = [*THREE_NOTES, Note(1.2345678, 1.5, 36, 100, 0, True, 0.25)]
    rows = list(csv.DictReader(StringIO(transcription(notes).to_csv())))
    assert [int(row["pitch"]) for row in rows] == [60, 64, 67, 36]
    assert (rows[3]["onset"], rows[3]["is_drum"], rows[3]["confidence"]) == ("1.234568", "true", "0.25")
    assert (rows[0]["confidence"], rows[0]["instrument"], rows[3]["instrument"]) == (
        "",
        "Acoustic Grand Piano",
        "Drums",
    )


def test_notes_json_is_read_back_and_midi_has_the_notes(tmp_path: Path) -> None:
    for name, (first, second) in product(["notes.json"], [(transcription(), transcription([]))]):
        for one in (first, second):
            export(one, name, tmp_path / "x.json")
            assert Transcription.from_json((tmp_path / "x.json").read_bytes()) == one
            assert json.loads((tmp_path / "x.json").read_text())["version"] == 2
    export(transcription(), "midi", tmp_path / "x.mid")
    midi = pretty_midi.PrettyMIDI(BytesIO((tmp_path / "x.mid").read_bytes()))
    assert [note.pitch for note in midi.instruments[0].notes] == [60, 64, 67]


def test_a_sound_font_that_is_not_there_or_is_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = tmp_path / "wrong.sf2"
    wrong.write_bytes(b"no sound")
    with pytest.raises(MissingSoundFontError, match=r"no SF2 or SF3 sound font: .*wrong"):
        export(transcription(), "audio", tmp_path / "x", sound_font=wrong)
    monkeypatch.setenv("MT3_SOUND_FONT", str(tmp_path / "none.sf2"))
    with pytest.raises(MissingSoundFontError, match=r"none\.sf2 is not there: mend MT3_SOUND_FONT"):
        export(transcription(), "audio", tmp_path / "x")


@pytest.mark.parametrize(
    "notes",
    [
        THREE_NOTES,
        [replace(THREE_NOTES[0], confidence=0.5), replace(THREE_NOTES[1], confidence=None)],
        [replace(note, confidence=None) for note in THREE_NOTES],
        [],
    ],
    ids=["notes", "some confident", "none confident", "empty"],
)
def test_table_has_a_typed_column_for_each_field(notes: list[Note]) -> None:
    table = replace(transcription(), notes=notes).to_dataframe()
    assert list(table.columns) == list(COLUMN_TYPES)
    kinds = {float: "f", int: "i", bool: "b"}
    for name, of_column in COLUMN_TYPES.items():
        if of_column is not str:
            assert table[name].dtype.kind == kinds[of_column], name
    assert table["onset"].tolist() == [note.onset for note in notes]
    assert table["is_drum"].tolist() == [note.is_drum for note in notes]
    assert table["confidence"].isna().tolist() == [note.confidence is None for note in notes]
    assert len(table[table.confidence > 0.4]) == sum((note.confidence or 0) > 0.4 for note in notes)


@pytest.mark.parametrize(
    ("package", "use", "command"),
    [
        ("pandas", lambda t: t.to_dataframe(), "pip install pandas"),
        ("matplotlib", lambda t: t.plot(), "pip install matplotlib"),
        ("tinysoundfont", lambda t: t.to_audio(), "pip install --no-deps tinysoundfont"),
    ],
)
def test_a_package_that_is_not_installed_is_named_with_its_command(
    package: str, use: Any, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=command):
        use(transcription())
