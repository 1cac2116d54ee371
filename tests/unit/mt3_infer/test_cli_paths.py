"""Which recordings are meant by names, folders and patterns, and what their results are called."""

from __future__ import annotations

import io
from pathlib import Path

import click
import pytest

from mt3_infer.cli.paths import Recording, find_recordings, pair_with_outputs


@pytest.fixture
def music(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a folder of recordings and other files; none of them is ever opened."""
    for name in (
        *("music/b.flac", "music/a.MP3", "music/[live] e.ogg", "music/sub/c.wav", "music/sub/deeper/d.opus"),
        *("music/cover.jpg", "music/a.mid", "music/notes"),
        *("music/.hidden.wav", "music/._a.MP3", "music/.trash/x.wav"),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "music" / "loop").symlink_to(tmp_path / "music", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sources(*arguments: str) -> list[str]:
    return [recording.source for recording in find_recordings(arguments) if recording.problem is None]


def targets(*arguments: str, output: str | None = None, file_format: str | None = None) -> list[str]:
    pairs = pair_with_outputs(find_recordings(arguments), output, file_format)
    return [str(target) for target in pairs.values()]


def test_a_folder_is_what_looks_like_recordings_in_it_and_its_folders(music: Path) -> None:
    in_music = ["[live] e.ogg", "a.MP3", "b.flac", "sub/c.wav", "sub/deeper/d.opus"]
    assert sources("music") == sources("music/") == [f"music/{name}" for name in in_music]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("music/*.flac", ["music/b.flac"]),
        ("music/**/*.wav", ["music/sub/c.wav"]),
        ("m*c/s*", ["music/sub/c.wav", "music/sub/deeper/d.opus"]),
        ("music/?.*", ["music/a.MP3", "music/b.flac"]),
        ("music/*.jpg", ["music/cover.jpg"]),
        ("music/[live] e.ogg", ["music/[live] e.ogg"]),
        ("music/[ab].*", ["music/a.MP3", "music/b.flac"]),
        ("music/*.none", []),
    ],
)
def test_a_pattern_that_the_shell_left_alone_is_matched(music: Path, pattern: str, names: list[str]) -> None:
    assert sources(pattern) == names
    assert names or find_recordings([pattern])[0].problem is not None


def test_a_file_is_transcribed_once_however_often_it_is_named(music: Path) -> None:
    (music / "link.flac").symlink_to(music / "music" / "b.flac")
    named = ("music/b.flac", "./music/b.flac", str(music / "music" / "b.flac"), "music/*.flac", "link.flac")
    assert sources(*named) == ["music/b.flac"]
    assert targets(*named, output="one.mid") == ["one.mid"]
    assert len(sources("music", "music/sub", "music/sub/c.wav")) == 5


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("Op. 27 No. 2.flac", "Op. 27 No. 2.mid"),
        ("Op. 27 No. 2", "Op. 27 No. 2.mid"),
        ("song.v1.2.MP3", "song.v1.2.mid"),
        ("song.mid", "song.mid.mid"),
        ("song", "song.mid"),
        (".wav", ".wav.mid"),
        ("a.tar.m4a", "a.tar.mid"),
        ("Mr. Tambourine Man", "Mr. Tambourine Man.mid"),
    ],
)
def test_a_name_loses_nothing_but_a_suffix_of_recordings(music: Path, source: str, target: str) -> None:
    (music / source).touch()
    assert targets(source) == [target]
    assert targets(source, output="out/") == [f"out/{target}"]


def test_results_in_a_folder_keep_the_layout(music: Path) -> None:
    laid_out = ["[live] e.mid", "a.mid", "b.mid", "sub/c.mid", "sub/deeper/d.mid"]
    assert targets("music", output="out/") == [f"out/{name}" for name in laid_out]
    assert targets("music/sub/c.wav", output="out/") == ["out/c.mid"]
    assert targets("music", file_format="json")[-1] == "music/sub/deeper/d.json"


@pytest.mark.parametrize("output", ["out", "out/", "music", "new/er/", "x.mid/"])
def test_folder_to_write_to_is_known_by_its_name(music: Path, output: str) -> None:
    assert targets("music/b.flac", output=output) == [f"{output.rstrip('/')}/b.mid"]


def test_an_existing_folder_with_the_name_of_a_file_is_a_folder(music: Path) -> None:
    (music / "both.mid").mkdir()
    assert targets("music/b.flac", "music/a.MP3", output="both.mid") == ["both.mid/b.mid", "both.mid/a.mid"]


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("both.mid", r"both\.mid takes one recording, and there are 2"),
        ("-", "Standard output takes one recording, and there are 2"),
        ("both.wav", r"both\.wav takes one recording, and there are 2"),
        ("both.doc", r"must end in one of \.mid, \.json, .*, or in / to be a folder"),
        ("music/notes", "is a file"),
        ("", "empty"),
    ],
)
def test_an_output_that_does_not_suit_several_recordings_is_a_usage_error(
    music: Path, output: str, words: str
) -> None:
    with pytest.raises(click.UsageError, match=words):
        targets("music/b.flac", "music/a.MP3", output=output)
    assert not (music / output).is_dir() or output == ""


@pytest.mark.parametrize("names", [("music/b.flac", "b.flac"), ("same.wav", "same.mp3"), ("same", "same.ogg")])
def test_two_recordings_are_never_written_to_one_file(music: Path, names: tuple[str, str]) -> None:
    for name in names:
        (music / name).touch()
    with pytest.raises(click.UsageError, match="would both be written to"):
        targets(*names, output="out/")


def test_a_missing_recording_does_not_keep_the_others_from_their_results(music: Path) -> None:
    found = find_recordings(["music/b.flac", "missing.wav", "n" * 300, "music/sub/none"])
    assert [recording.problem for recording in found] == [
        None,
        "No such file or directory.",
        "File name too long.",
        "No such file or directory.",
    ]
    assert list(pair_with_outputs(found, None, None)) == [Recording("music/b.flac")]


def test_standard_input_must_not_be_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal())
    with pytest.raises(click.UsageError, match="terminal"):
        find_recordings(["-"])
    with pytest.raises(click.UsageError, match="empty"):
        find_recordings([""])
