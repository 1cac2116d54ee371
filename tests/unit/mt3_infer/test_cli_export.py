"""The command `export`: where its files go, and what it refuses with which advice."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mt3_infer.cli import main
from tests.fakes import transcription


@pytest.fixture
def song(tmp_path: Path) -> Path:
    path = tmp_path / "song.json"
    transcription().save(path)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["export", *(str(argument) for argument in arguments)])


def test_export_writes_beside_the_notes_or_where_it_is_told(song: Path) -> None:
    assert run(song, "--format", "csv").stdout.strip() == str(song.with_suffix(".csv"))
    assert run(song, "-o", song.with_suffix(".MIDI")).exit_code == 0
    assert song.with_suffix(".MIDI").read_bytes()[:4] == b"MThd"


def test_export_may_be_piped(song: Path, tmp_path: Path) -> None:
    result = run(song, "-o", "-", "--format", "csv")
    assert result.stdout_bytes == transcription().to_csv().encode()
    assert run(song, "-o", "-", "--format", "midi").stdout_bytes.startswith(b"MThd")
    assert [path.name for path in tmp_path.iterdir()] == [song.name]


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ([], "Pass --format, or -o"),
        (["-o", "-"], "Pass --format, or -o"),
        (["--format", "csv", "--level", "half"], "csv takes no option 'level'; it takes none."),
        (["-o", "x"], "'x' names no format: end the name in one of .mid"),
        (["-o", "x.doc"], "Cannot save as '.doc': end the name in one of .mid"),
        (
            ["-o", "x.mid", "--format", "csv"],
            "x.mid would hold a .csv file: name it x.csv, and pass --format csv.",
        ),
        (["-o", "x.svg", "--format", "svg"], "x.svg would hold a .svg.zip file: name it x.svg.zip"),
        (["-o", "x.mid", "--split", "instrument"], "name it x.zip, and pass --format midi."),
        (["-o", "no/x.mid"], "The folder no does not exist: create it first."),
        (["--format", "peaks"], "peaks is made from the recording: pass it with --audio FILE."),
        (["-o", "x.mid", "--meter", "3-4"], "'3-4' does not fit. Time signature, such as 3/4 or 6/8."),
        (["-o", "x.mid", "--tempo-bpm", "5000"], "Input should be less than or equal to 400, not 5000.0."),
        (["-o", "x.musicxml", "--programs", "piano"], "Input should be a valid integer, not 'piano'."),
    ],
)
def test_wrong_input_is_one_sentence_with_a_way_out(
    song: Path, arguments: list[str], advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(song, *arguments)
    assert result.exit_code in (1, 2)
    assert advice in result.output
    assert [path.name for path in tmp_path.iterdir()] == [song.name]


def test_export_never_replaces_its_input(song: Path, tmp_path: Path) -> None:
    before = song.read_bytes()
    recording = tmp_path / "song.wav"
    recording.write_bytes(b"RIFF")
    for arguments in (["-o", song, "--level", "half"], ["-o", recording, "--audio", recording]):
        result = run(song, *arguments, "--force")
        assert "is the input itself: choose another output." in result.output
    assert song.read_bytes() == before
    assert recording.read_bytes() == b"RIFF"
    again = run(song, "--format", "json", "--level", "half")
    assert again.stdout.strip() == str(tmp_path / "song.notes.json")


def test_help_shows_defaults_that_there_are() -> None:
    shown = run("--help").output
    assert "default: ]" not in " ".join(shown.split())
    assert "default: auto" in shown
