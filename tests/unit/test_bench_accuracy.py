"""`make bench-accuracy` on a clip of its kind: tables, plot, and what is kept for the next run."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pretty_midi
import pytest
from click.testing import CliRunner

from mt3_infer import Note, transcribe
from mt3_infer.evaluation import Music, evaluate
from mt3_infer.symbolic.grid import BeatGrid
from tests.sound_fonts import write_sound_font

ROOT = Path(__file__).parents[2]


@pytest.fixture
def accuracy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkpoint_dir: Path) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "bench")
    monkeypatch.setenv("MT3_CHECKPOINT_DIR", str(checkpoint_dir))
    module = importlib.import_module("accuracy")
    monkeypatch.setattr(module, "KEPT", tmp_path / "kept")
    return module


@pytest.fixture
def clips(tmp_path: Path, bach: Path) -> Path:
    directory = tmp_path / "clips"
    directory.mkdir()
    shutil.copy(bach, directory / "piano_bach.flac")
    midi = pretty_midi.PrettyMIDI(str(bach.with_suffix(".mid")))
    notes = [
        {"part": 0, "pitch": note.pitch, "onset": note.start, "offset": note.end, "velocity": note.velocity}
        for part in midi.instruments
        for note in part.notes
    ]
    truth = {"name": "piano_bach", "notes": notes, "programs": {"0": 0}, "pedal": [], "seconds": 24.0}
    (directory / "piano_bach.json").write_text(json.dumps(truth | {"beats": [], "downbeats": []}))
    return directory


def run(accuracy: ModuleType, *arguments: str) -> str:
    result = CliRunner().invoke(accuracy.main, [*arguments, "-m", "basic_pitch"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_tables_have_the_models_and_the_clips(accuracy: ModuleType, clips: Path) -> None:
    printed = run(accuracy, str(clips))
    known = accuracy.read_clip(clips / "piano_bach.json")

    def figures(**options: Any) -> str:
        result = evaluate(known.truth, Music.of(transcribe(known.audio, model="basic_pitch", **options)))
        return " | ".join(f"{score.f1:.3f}".lstrip("0") for score in (result.onset, result.onset_offset))

    assert "clips, mean of 1 clips, 24 s" in printed
    assert f"| basic_pitch | {figures()} |" in printed
    assert f"| basic_pitch, as published | {figures(onset_threshold=0.5)} |" in printed
    assert f"| piano_bach | {figures()} |" in printed
    assert "beats F" not in printed  # nobody knows the beats


def test_second_run_transcribes_nothing_and_prints_the_same(
    accuracy: ModuleType, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(accuracy, str(clips))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(accuracy, "load_model", refuse)
    assert run(accuracy, str(clips)) == first


@pytest.mark.parametrize("changed", ["audio", "library"])
def test_notes_are_made_again_when_what_they_come_from_changes(
    accuracy: ModuleType, clips: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    run(accuracy, str(clips))
    if changed == "audio":
        audio = clips / "piano_bach.flac"
        audio.write_bytes(audio.read_bytes() + b"\0")
    else:
        monkeypatch.setattr(accuracy, "library_digest", lambda: "another")
    loaded = []
    load = accuracy.load_model

    def watched(name: str, **options: Any) -> Any:
        loaded.append(name)
        return load(name, **options)

    monkeypatch.setattr(accuracy, "load_model", watched)
    run(accuracy, str(clips))
    assert loaded == ["basic_pitch"] * 2


def test_plot_names_models_and_kinds_and_is_the_same_each_time(
    accuracy: ModuleType, clips: Path, tmp_path: Path
) -> None:
    plots = [tmp_path / "plots" / name for name in ("a.svg", "b.svg")]
    for plot in plots:
        run(accuracy, str(clips), "--plot", str(plot))
    drawn = plots[0].read_text()
    assert all(f">{text}<" in drawn for text in ("basic_pitch", "basic_pitch, as published", "piano", "onset F1"))
    assert plots[1].read_text() == drawn


def test_models_that_take_instruments_are_measured_with_them_too(accuracy: ModuleType, clips: Path) -> None:
    known = accuracy.read_clip(clips / "piano_bach.json")
    models = [info for info in accuracy.list_models() if info.name in ("basic_pitch", "mt3_pytorch")]
    options = {one.label: one.options(known) for one in accuracy.contestants(models, {})}
    assert options == {
        "basic_pitch": {},
        "basic_pitch, as published": {"onset_threshold": 0.5},
        "mt3_pytorch": {},
        "mt3_pytorch, instruments given": {"single_instrument": "Acoustic Grand Piano"},
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["-m", "mt4"], "There is no model mt4; there are: basic_pitch"), (["-m", "basic_pitch"], "has no clips")],
)
def test_wrong_arguments_are_refused(
    accuracy: ModuleType, tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = CliRunner().invoke(accuracy.main, [str(tmp_path), *arguments])
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.parametrize("step", [0.25, 1 / 3, 0.5, 0.75, 1.0])
def test_beats_count_at_the_level_that_a_user_would_choose(accuracy: ModuleType, step: float) -> None:
    truth = [0.5 * number for number in range(40)]
    found = BeatGrid(beats=tuple(step * number for number in range(round(20 / step))))
    assert accuracy.best_level(truth, found) > 0.95
    assert accuracy.best_level(truth, BeatGrid()) is None


def test_a_performance_is_the_same_each_time_and_sounds_its_notes(
    accuracy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    performances = importlib.import_module("performances")
    font = write_sound_font(tmp_path / "font.sf2")
    for take in ("first", "second"):
        (tmp_path / take).mkdir()
        performances.make(performances.PIECES["voice_foster"], tmp_path / take, font)
    for ending in ("json", "mid", "flac"):
        one, other = (tmp_path / take / f"voice_foster.{ending}" for take in ("first", "second"))
        assert one.read_bytes() == other.read_bytes()
    clip = accuracy.read_clip(tmp_path / "first" / "voice_foster.json")
    assert clip.instruments == ("Voice Oohs",)
    assert set(clip.truth.downbeats) <= set(clip.truth.beats)
    assert all(isinstance(note, Note) and note.offset <= clip.seconds for note in clip.truth.notes)
