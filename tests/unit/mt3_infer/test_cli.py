"""The command: what it writes where, and what it says when something is wrong."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mt3_infer import Model
from mt3_infer.cli import main
from mt3_infer.models import MODELS
from tests.recordings import tone, write
from tests.unit.mt3_infer.test_transcribe import CountingNetwork


@pytest.fixture(autouse=True)
def loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Every load gives the small network; what was asked for is noted."""
    calls: list[tuple[str, dict[str, Any]]] = []

    def load(name: str, **arguments: Any) -> Model:
        calls.append((name, arguments))
        return Model(MODELS["basic_pitch"], CountingNetwork(), "ab" * 32, "Apache-2.0")

    monkeypatch.setattr("mt3_infer.loading.load_model", load)
    monkeypatch.setenv("MT3_CHECKPOINT_DIR", str(tmp_path / "checkpoints"))
    return calls


@pytest.fixture
def songs(tmp_path: Path) -> list[Path]:
    return [write(tmp_path / name, tone(1.0), 22050) for name in ("a.wav", "b.wav")]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_results_lie_beside_the_recordings(songs: list[Path]) -> None:
    assert run("transcribe", *songs).exit_code == 0
    assert all(song.with_suffix(".mid").read_bytes().startswith(b"MThd") for song in songs)


def test_output_is_a_file_or_a_folder(songs: list[Path], tmp_path: Path) -> None:
    assert run("transcribe", songs[0], "-o", tmp_path / "x.json").exit_code == 0
    assert json.loads((tmp_path / "x.json").read_text())["notes"]
    assert run("transcribe", *songs, "-o", tmp_path / "out", "--format", "json").exit_code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.json", "b.json"]


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


def test_options_reach_the_model(songs: list[Path], loaded: list[tuple[str, dict[str, Any]]]) -> None:
    song = songs[0]
    result = run(
        "transcribe", song, "-m", "light", "--device", "cpu", "--onset-threshold", "0.4", "--format", "json"
    )
    assert result.exit_code == 0
    assert loaded[0][0] == "light"
    assert loaded[0][1]["device"] == "cpu"
    saved = json.loads(song.with_suffix(".json").read_text())
    assert saved["provenance"]["options"]["onset_threshold"] == 0.4


def test_list_shows_every_model() -> None:
    table = run("list").stdout
    rows = json.loads(run("list", "--json").stdout)
    assert [row["name"] for row in rows] == list(MODELS)
    assert all(name in table for name in MODELS)
    assert rows[0]["installed"] is False
    assert rows[0]["options"]["onset_threshold"]["default"] == 0.5


def test_download_wants_names_or_all() -> None:
    assert run("download").exit_code == 2
    assert run("download", "basic_pitch", "--all").exit_code == 2


def test_download_of_an_unknown_name_lists_the_known_ones() -> None:
    result = run("download", "nothing")
    assert result.exit_code == 1
    assert "There is no checkpoint called 'nothing'; the names are: " in result.stderr


def test_a_command_whose_packages_are_not_installed_says_which_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    point = metadata.EntryPoint("serve", "no_such_package.serve:serve", "mt3_infer.commands")
    monkeypatch.setattr("mt3_infer.cli._announced", lambda: {"serve": point})
    assert run("--help").exit_code == 0
    result = run("serve", "--port", "8000")
    assert result.exit_code == 1
    assert "mt3-infer-service[serve]" in result.stderr


def test_help_and_version() -> None:
    assert "transcribe" in run("--help").stdout
    assert run("--version").exit_code == 0
