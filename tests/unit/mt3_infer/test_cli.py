"""The command: what it writes where, and what it says when something is wrong."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from importlib import metadata
from io import BytesIO
from pathlib import Path
from typing import Any

import mido
import pytest
from click.testing import CliRunner, Result

from mt3_infer import AudioWarning, Model, Transcription
from mt3_infer.cli import main
from mt3_infer.exports import export
from mt3_infer.models import MODELS
from tests.recordings import tone, write
from tests.unit.mt3_infer.test_files import full_disk
from tests.unit.mt3_infer.test_transcribe import CountingNetwork

Loads = list[tuple[str, dict[str, Any]]]


@pytest.fixture(autouse=True)
def loads(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Loads:
    """Every load gives the small network; what was asked for is noted."""
    calls: Loads = []

    def load(name: str, **arguments: Any) -> Model:
        calls.append((name, arguments))
        return Model(MODELS["basic_pitch"], CountingNetwork(), "ab" * 32, "Apache-2.0")

    monkeypatch.setattr("mt3_infer.loading.load_model", load)
    monkeypatch.setenv("MT3_CHECKPOINT_DIR", str(tmp_path_factory.mktemp("checkpoints")))
    return calls


@pytest.fixture
def songs(tmp_path: Path) -> list[Path]:
    return [write(tmp_path / name, tone(1.0), 22050) for name in ("a.wav", "b.wav")]


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)


def test_results_lie_beside_the_recordings(songs: list[Path]) -> None:
    assert run("transcribe", *songs).exit_code == 0
    assert all(song.with_suffix(".mid").read_bytes().startswith(b"MThd") for song in songs)


def test_output_is_a_file_or_a_folder(songs: list[Path], tmp_path: Path) -> None:
    assert run("transcribe", songs[0], "-o", tmp_path / "x.json").exit_code == 0
    assert json.loads((tmp_path / "x.json").read_text())["notes"]
    assert run("transcribe", *songs, "-o", tmp_path / "out", "--format", "json").exit_code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.json", "b.json"]


def test_folder_name_does_not_choose_the_format(songs: list[Path], tmp_path: Path) -> None:
    assert run("transcribe", *songs, "-o", f"{tmp_path}/x.json/").exit_code == 0
    assert all((tmp_path / "x.json" / f"{name}.mid").read_bytes().startswith(b"MThd") for name in "ab")


def test_a_name_that_is_not_utf_8_can_be_transcribed(songs: list[Path], tmp_path: Path) -> None:
    odd = os.fsdecode(bytes(tmp_path) + b"/\xe9t\xe9.wav")
    songs[0].rename(odd)
    result = run("transcribe", odd, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)[0]["source"] == odd
    assert os.path.exists(os.fsdecode(bytes(tmp_path) + b"/\xe9t\xe9.mid"))


def test_a_bad_file_is_named_in_one_line_and_the_others_are_done(songs: list[Path], tmp_path: Path) -> None:
    bad, missing = tmp_path / "bad.mp3", tmp_path / "missing.mp3"
    bad.write_text("no music")
    result = run("transcribe", bad, missing, *songs)
    assert result.exit_code == 1
    assert len([line for line in result.stderr.splitlines() if line.startswith((str(bad), str(missing)))]) == 2
    assert all(song.with_suffix(".mid").exists() for song in songs)


@pytest.mark.parametrize(
    "arguments",
    [["-o", "x.txt"], ["-o", "x.json", "--format", "mid"], ["--onset-threshold", "7"], ["--format", "wav"]],
)
def test_wrong_arguments_write_nothing(songs: list[Path], tmp_path: Path, arguments: list[str]) -> None:
    before = sorted(tmp_path.iterdir())
    assert run("transcribe", songs[0], *arguments).exit_code in (1, 2)
    assert sorted(tmp_path.iterdir()) == before


def test_two_recordings_never_write_one_file(songs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    twin = write(tmp_path / "other" / "a.wav", tone(1.0), 22050)
    result = run("transcribe", songs[0], twin, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "both" in result.stderr


def test_options_reach_the_model(songs: list[Path], loads: Loads) -> None:
    song = songs[0]
    result = run(
        "transcribe", song, "-m", "light", "--device", "cpu", "--onset-threshold", "0.4", "--format", "json"
    )
    assert result.exit_code == 0
    assert loads[0][0] == "light"
    assert loads[0][1]["device"] == "cpu"
    saved = json.loads(song.with_suffix(".json").read_text())
    assert saved["provenance"]["options"]["onset_threshold"] == 0.4


def test_an_existing_output_is_refused_before_any_work_unless_forced(songs: list[Path], loads: Loads) -> None:
    old = songs[1].with_suffix(".mid")
    old.write_bytes(b"mine")
    refused = run("transcribe", *songs)
    assert refused.exit_code == 1
    assert f"{old} already exists: pass --force to replace it" in refused.stderr
    assert (old.read_bytes(), loads, songs[0].with_suffix(".mid").exists()) == (b"mine", [], False)
    assert run("transcribe", "--force", *songs).exit_code == 0
    assert old.read_bytes().startswith(b"MThd")


def test_many_existing_outputs_are_counted(tmp_path: Path) -> None:
    many = [write(tmp_path / f"{number}.wav", tone(0.1), 22050) for number in range(5)]
    assert run("transcribe", *many).exit_code == 0
    assert "2.mid and 2 more already exist: pass --force to replace them" in run("transcribe", *many).stderr


def test_a_recording_is_never_replaced_by_its_own_result(tmp_path: Path, loads: Loads) -> None:
    odd = write(tmp_path / "a.wav", tone(1.0), 22050).rename(tmp_path / "a.mid")
    before = odd.read_bytes()
    result = run("transcribe", odd, "-o", odd, "--force")
    assert (result.exit_code, odd.read_bytes(), loads) == (1, before, [])
    assert "choose another output" in result.stderr


@pytest.mark.parametrize("output", ["none/x.mid", "file/x.mid", "file/", "folder.mid/a.mid/"])
def test_an_output_that_cannot_be_written_is_found_before_the_work_and_named(
    songs: list[Path], tmp_path: Path, loads: Loads, output: str
) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder.mid" / "a.mid" / "a.mid").mkdir(parents=True)
    result = run("transcribe", songs[0], "-o", f"{tmp_path}/{output}")
    assert result.exit_code == 1
    assert f"Cannot write the output {tmp_path}/{output}" in result.stderr
    assert loads == []


def test_a_full_disk_is_an_error_of_the_output_and_leaves_nothing(songs: list[Path], tmp_path: Path) -> None:
    with full_disk(1024):
        result = run("transcribe", songs[0], "-o", tmp_path / "x.mid")
    assert f"Cannot write the output {tmp_path / 'x.mid'}" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "b.wav"]


def test_an_output_that_fails_later_is_named_and_the_others_are_done(
    songs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_all_but_a(result: Transcription, name: str, target: Path, options: dict[str, str]) -> None:
        if target.name == "a.mid":
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        export(result, name, target, options)

    monkeypatch.setattr("mt3_infer.cli.transcribing.export", write_all_but_a)
    result = run("transcribe", *songs, "--json")
    assert result.exit_code == 1
    first, second = json.loads(result.stdout)
    assert first["error"] == {
        "code": "unwritable_output",
        "detail": f"Cannot write the output {songs[0].with_suffix('.mid')}: No space left on device.",
    }
    assert (second["error"], second["notes"]) == (None, 1)


def test_the_summary_has_an_object_for_each_recording(songs: list[Path], tmp_path: Path) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_text("no music")
    missing = tmp_path / "missing.wav"
    result = run("transcribe", songs[0], bad, missing, "--json", "--quiet")
    assert result.exit_code == 1
    done, failed, absent = json.loads(result.stdout)
    assert done.pop("seconds") > 0
    assert done == {
        "source": str(songs[0]),
        "output": str(songs[0].with_suffix(".mid")),
        "model": "basic_pitch",
        "notes": 1,
        "duration": 1.0,
        "warnings": [],
        "error": None,
    }
    assert (failed["notes"], failed["error"]["code"]) == (None, "undecodable_audio")
    assert (absent["output"], absent["error"]["code"]) == (None, "unreadable_input")
    assert len(result.stderr.splitlines()) == 2  # the errors alone


def test_the_summary_is_there_when_all_is_refused(songs: list[Path], loads: Loads) -> None:
    songs[0].with_suffix(".mid").write_bytes(b"mine")
    result = run("transcribe", *songs, "--json")
    assert result.exit_code == 1
    assert [entry["error"]["code"] for entry in json.loads(result.stdout)] == ["output_exists"] * 2
    assert loads == []


def test_warnings_are_shown_and_in_the_summary(songs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    transcribe = Model.transcribe

    def warn(model: Model, audio: Any, **options: Any) -> Transcription:
        warning = AudioWarning("damaged_audio", "The recording is damaged at 0.5 s.")
        return replace(transcribe(model, audio, **options), warnings=(warning,))

    monkeypatch.setattr(Model, "transcribe", warn)
    result = run("transcribe", songs[0], "--json", "--quiet")
    assert result.exit_code == 0
    assert result.stderr == f"{songs[0]}: warning: The recording is damaged at 0.5 s.\n"
    (entry,) = json.loads(result.stdout)
    assert entry["warnings"] == [{"code": "damaged_audio", "detail": "The recording is damaged at 0.5 s."}]


def test_nothing_is_loaded_when_nothing_can_be_transcribed(tmp_path: Path, loads: Loads) -> None:
    (tmp_path / "empty").mkdir()
    result = run("transcribe", tmp_path / "missing.wav", tmp_path / "empty", "https://example.com/a.mp3")
    assert (result.exit_code, loads) == (1, [])
    assert [line.rsplit(": ", 1)[1] for line in result.stderr.splitlines()] == [
        "No such file or directory.",
        "The folder holds no recordings.",
        "download the recording and pass its path.",
    ]


def test_a_pipe_goes_in_and_the_result_out(songs: list[Path], tmp_path: Path) -> None:
    recording = songs[0].read_bytes()
    result = run("transcribe", "-", "-o", "-", stdin=recording)
    assert result.exit_code == 0
    assert result.stdout_bytes.startswith(b"MThd")
    result = run("transcribe", "-", "-o", "-", "--format", "json", stdin=recording)
    assert json.loads(result.stdout)["duration"] == 1.0
    assert run("transcribe", "-", "-o", f"{tmp_path}/out/", stdin=recording).exit_code == 0
    assert (tmp_path / "out" / "stdin.mid").exists()
    for arguments in (["-"], ["/dev/stdin"], ["-", "-o", "-", "--json"], ["-", songs[0], "-o", "-"]):
        assert run("transcribe", *arguments, stdin=recording).exit_code == 2


def test_a_named_pipe_and_a_shell_substitution_are_recordings(songs: list[Path], tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.wav"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(songs[0].read_bytes()))
    writer.start()
    assert run("transcribe", pipe).exit_code == 0
    writer.join()
    assert (tmp_path / "pipe.mid").exists()
    with songs[0].open("rb") as recording:
        assert run("transcribe", f"/dev/fd/{recording.fileno()}", "-o", tmp_path / "fd.mid").exit_code == 0


def test_stdout_has_nothing_but_the_result_and_may_be_closed(bach: Path, checkpoint_dir: Path) -> None:
    command = [sys.executable, "-m", "mt3_infer", "transcribe", "/dev/stdin", "-m", "basic_pitch", "-o"]
    environment = {**os.environ, "MT3_CHECKPOINT_DIR": str(checkpoint_dir)}
    for output in ("-", "/dev/stdout"):
        done = subprocess.run(
            [*command, output],
            input=bach.read_bytes(),
            env=environment,
            capture_output=True,
            check=True,
            timeout=120,
        )
        assert len(mido.MidiFile(file=BytesIO(done.stdout)).tracks) == 2
        assert done.stderr.splitlines()[-1] == b"-: 175 notes"
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as closed:
        cut = subprocess.run(
            [*command, "-"],
            input=bach.read_bytes(),
            env=environment,
            stdout=closed,
            stderr=subprocess.PIPE,
            timeout=120,
        )
    assert cut.returncode == 1
    assert cut.stderr.decode().splitlines()[-1] == "/dev/stdin: Cannot write standard output: Broken pipe."


@pytest.mark.parametrize("number", [3, 1])
def test_one_bar_shows_the_whole_batch(
    songs: list[Path], monkeypatch: pytest.MonkeyPatch, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[tuple[float, float | None, str]] = []
    monkeypatch.setattr("checkpoints.cli.Bar.show", lambda bar, *figures: shown.append(figures))
    third = write(songs[0].with_name("c.wav"), tone(2.0), 22050)
    assert run("transcribe", *[*songs, third][-number:]).exit_code == 0
    fractions = [done for done, _, _ in shown]
    assert fractions == sorted(fractions)
    assert shown[-1][:2] == (number, number)
    assert (f"{number}, {third}: 2 s" if number > 1 else f"{third}: 2 s") in shown[-2][2]
    shown.clear()
    assert run("transcribe", *songs, "--quiet", "--force").exit_code == 0
    assert shown == []


def test_ctrl_c_has_the_exit_code_that_shells_know(songs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Model, "transcribe", interrupt)
    result = run("transcribe", *songs, "--json")
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == "Canceled."
    assert [entry["error"]["code"] for entry in json.loads(result.stdout)] == ["canceled"] * 2
    monkeypatch.setattr("mt3_infer.loading.load_model", interrupt)
    assert run("transcribe", *songs).exit_code == 130


def test_list_shows_every_model() -> None:
    table = run("list").stdout
    rows = json.loads(run("list", "--json").stdout)
    assert [row["name"] for row in rows] == list(MODELS)
    assert all(name in table for name in MODELS)
    assert rows[0]["installed"] is False
    assert rows[0]["options"]["onset_threshold"]["default"] == 0.6


def test_download_wants_names_or_all() -> None:
    assert run("download").exit_code == 2
    assert run("download", "basic_pitch", "--all").exit_code == 2


def test_download_of_an_unknown_name_lists_the_known_ones() -> None:
    result = run("download", "nothing")
    assert result.exit_code == 1
    assert "There is no checkpoint called 'nothing'; the names are: " in result.stderr


def test_command_with_missing_packages_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    point = metadata.EntryPoint("serve", "no_such_package.serve:serve", "mt3_infer.commands")
    monkeypatch.setattr("mt3_infer.cli._announced", lambda: {"serve": point})
    assert run("--help").exit_code == 0
    result = run("serve", "--port", "8000")
    assert result.exit_code == 1
    assert "mt3-infer-service[serve]" in result.stderr


def test_help_and_version() -> None:
    assert "transcribe" in run("--help").stdout
    assert run("--version").exit_code == 0
