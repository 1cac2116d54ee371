"""The commands `evaluate` and `compare`: what they print, write and refuse."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from mt3_infer.cli import main
from mt3_infer.errors import AudioError, UnknownModelError
from tests.fakes import THREE_NOTES, transcription

LATE = [replace(THREE_NOTES[0], onset=0.2), *THREE_NOTES[1:]]


@pytest.fixture(autouse=True)
def loads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Two fake models: `exact` finds the three notes, `late` finds one of them too late."""
    calls: list[tuple[str, Any]] = []

    def check(name: str) -> None:
        if name not in ("exact", "late"):
            raise UnknownModelError(f"There is no model {name!r}.")

    def load(name: str, *, checkpoint_path: Path | None = None, device: str = "auto") -> SimpleNamespace:
        calls.append((name, checkpoint_path))
        return SimpleNamespace(transcribe=lambda file: transcription(THREE_NOTES if name == "exact" else LATE))

    monkeypatch.setattr("mt3_infer.loading.load_model", load)
    monkeypatch.setattr("mt3_infer.loading.get_model_spec", check)
    return calls


@pytest.fixture
def song(tmp_path: Path) -> Path:
    path = tmp_path / "song.wav"
    path.write_bytes(b"RIFF")
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_evaluate_takes_midi_and_json_on_both_sides(tmp_path: Path) -> None:
    for suffix in ("mid", "json"):
        transcription().save(tmp_path / f"reference.{suffix}")
        transcription(LATE).save(tmp_path / f"estimate.{suffix}")
    for reference in ("mid", "json"):
        for estimate in ("mid", "json"):
            names = (tmp_path / f"reference.{reference}", tmp_path / f"estimate.{estimate}")
            result = run("evaluate", *names, "--json")
            assert result.exit_code == 0, result.output
            onset = json.loads(result.stdout)["onset"]
            assert (onset["reference"], onset["matched"], onset["f1"]) == (3, 2, 0.6667)


def test_evaluate_prints_a_table(tmp_path: Path) -> None:
    transcription().save(tmp_path / "a.mid")
    result = run("evaluate", tmp_path / "a.mid", tmp_path / "a.mid")
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["onset", "1.000", "1.000", "1.000", "3", "3", "3"] in lines
    assert ["piano", "1.000", "1.000", "1.000", "3", "3", "3"] in lines


def test_evaluate_refuses_other_files_with_a_sentence(tmp_path: Path, song: Path) -> None:
    transcription().save(tmp_path / "a.mid")
    result = run("evaluate", tmp_path / "a.mid", song)
    assert result.exit_code == 1
    assert "neither a MIDI file nor a notes.json" in result.stderr


def test_compare_prints_the_agreement(song: Path) -> None:
    result = run("compare", song, "-m", "exact", "late")
    assert result.exit_code == 0, result.output
    assert "F1 0.667, 2 notes in both" in result.stdout
    rows = {line.split()[0]: line.split()[1:3] for line in result.stdout.splitlines() if line}
    assert rows["exact"] == rows["late"] == ["3", "1"]


def test_compare_names_the_notes_of_one_model_in_json(song: Path) -> None:
    content = json.loads(run("compare", song, "-m", "exact", "late", "--json").stdout)
    assert (content["a"]["model"], content["b"]["notes"], content["both"]) == ("exact", 3, 2)
    assert [note["onset"] for note in content["only_a"]] == [0.0]
    assert [note["onset"] for note in content["only_b"]] == [0.2]


def test_compare_draws_a_picture_and_replaces_none_unasked(song: Path, tmp_path: Path) -> None:
    picture = tmp_path / "roll.svg"
    assert run("compare", song, "-m", "exact", "late", "--picture", picture).exit_code == 0
    ElementTree.parse(picture)
    again = run("compare", song, "-m", "exact", "late", "--picture", picture)
    assert again.exit_code == 2
    assert "already exists" in again.stderr
    assert run("compare", song, "-m", "exact", "late", "--picture", picture, "--force").exit_code == 0


def test_compare_refuses_another_kind_of_picture_before_any_work(
    song: Path, tmp_path: Path, loads: list[tuple[str, Any]]
) -> None:
    result = run("compare", song, "-m", "exact", "late", "--picture", tmp_path / "roll.png")
    assert result.exit_code == 2
    assert ".svg" in result.stderr
    assert not loads


def test_compare_takes_own_weights_by_model(song: Path, loads: list[tuple[str, Any]]) -> None:
    assert run("compare", song, "-m", "exact", "late", "--checkpoint", "late=/weights").exit_code == 0
    assert loads == [("exact", None), ("late", Path("/weights"))]
    assert run("compare", song, "-m", "exact", "late", "--checkpoint", "/weights").exit_code == 2


def test_compare_of_an_unknown_model_is_one_sentence(song: Path) -> None:
    result = run("compare", song, "-m", "exact", "nonsense")
    assert result.exit_code == 1
    assert result.stderr.strip() == "Error: There is no model 'nonsense'."


def test_compare_refuses_an_unknown_model_or_checkpoint_before_any_work(
    song: Path, loads: list[tuple[str, Any]]
) -> None:
    unknown = run("compare", song, "-m", "exact", "nothing")
    assert "There is no model 'nothing'" in unknown.output
    stray = run("compare", song, "-m", "exact", "late", "--checkpoint", "other=x")
    assert "--checkpoint names 'other'; the models are exact and late." in stray.output
    assert loads == []


def test_messages_name_the_file_that_is_at_fault_and_the_folder_that_is_missing(
    song: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transcription().save(tmp_path / "a.mid")
    (tmp_path / "b.json").write_text("{}")
    assert (
        f"{tmp_path / 'b.json'}: This is not a notes.json"
        in run("evaluate", tmp_path / "a.mid", tmp_path / "b.json").output
    )
    picture = run("compare", song, "-m", "exact", "late", "--picture", tmp_path / "no" / "x.svg")
    assert f"The folder {tmp_path / 'no'} does not exist: create it first." in picture.output

    def refuse(name: str, **options: object) -> SimpleNamespace:
        def transcribe(file: Path) -> None:
            raise AudioError("Unsupported or corrupt audio file.")

        return SimpleNamespace(transcribe=transcribe)

    monkeypatch.setattr("mt3_infer.loading.load_model", refuse)
    assert f"Error: {song}: Unsupported" in run("compare", song, "-m", "exact", "late").output
