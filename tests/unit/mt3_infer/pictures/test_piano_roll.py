"""Piano rolls: in a notebook, with Matplotlib, and what both show."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest
from matplotlib import pyplot

from mt3_infer import AudioWarning, InvalidOptionError, Note, Transcription
from mt3_infer.symbolic.grid import BeatGrid
from tests.fakes import transcription

SVG = "{http://www.w3.org/2000/svg}"
BAND = [
    Note(0.0, 1.0, 60, 90, program=0),
    Note(1.0, 2.0, 64, 90, program=40, confidence=0.1),
    Note(2.0, 2.01, 38, 90, is_drum=True),
    Note(3.0, 3.01, 36, 90, is_drum=True),
]
GRID = BeatGrid(
    beats=(0.5, 1.0, 1.5, 2.0, 2.5, 3.0), downbeats=(0.5, 2.0), meter="3/4", tempo_bpm=120, key="C major"
)


@pytest.fixture(autouse=True)
def close_figures() -> Iterator[None]:
    yield
    pyplot.close("all")


def parse(shown: Transcription) -> ElementTree.Element:
    return ElementTree.fromstring(shown._repr_html_())


def texts(page: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in page.iter(f"{SVG}text")]


def shapes(page: ElementTree.Element) -> list[tuple[str, str | None, int]]:
    """Return color, opacity and number of the notes that are drawn."""
    paths = [path for path in page.iter(f"{SVG}path") if path.get("class") == "notes"]
    return [(path.get("fill", ""), path.get("fill-opacity"), path.get("d", "").count("M")) for path in paths]


def test_repr_is_a_line_however_many_notes_there_are() -> None:
    song = replace(transcription(BAND * 5000, 4.0), grid=GRID)
    assert repr(song) == "<Transcription: 20000 notes, 4.0 s, basic_pitch, 3/4, 120 bpm, C major>"
    assert repr(transcription([], 0.0)) == "<Transcription: 0 notes, 0.0 s, basic_pitch>"


def test_small_roll_has_a_color_for_each_instrument_and_pales_what_is_uncertain() -> None:
    page = parse(transcription(BAND, 4.0))
    assert len({color for color, _, _ in shapes(page)}) == 3
    assert [opacity for _, opacity, _ in shapes(page)].count(None) == 2
    assert sum(number for _, _, number in shapes(page)) == len(BAND)
    assert {"Acoustic Grand Piano", "Violin", "Drums", "pale: less certain", "C4", "0:01"} <= set(texts(page))


def test_small_roll_counts_the_bars() -> None:
    assert [text for text in texts(parse(replace(transcription(BAND, 4.0), grid=GRID))) if text.isdigit()] == [
        "1",
        "2",
    ]
    assert [text for text in texts(parse(transcription(BAND, 4.0))) if text.isdigit()] == []


@pytest.mark.parametrize("seconds", [60.0, 10_800.0])
def test_small_roll_stays_small_with_notes_of_every_pitch_and_instrument(seconds: float) -> None:
    rule = random.Random(7)
    onsets = [rule.uniform(0, seconds) for _ in range(20_000)]
    notes = [
        Note(onset, onset + rule.uniform(0.05, 2), n % 128, 80, n * 7 % 128, n % 5 == 0, rule.random())
        for n, onset in enumerate(onsets)
    ]
    beats = tuple(0.25 * number for number in range(int(seconds * 4)))
    song = replace(transcription(notes, seconds), grid=BeatGrid(beats, beats[::2], "2/4", 240.0))
    assert 3_000 < len(song._repr_html_()) < 120_000


def test_small_roll_joins_notes_only_if_there_are_too_many() -> None:
    repeated = [Note(n / 10, n / 10 + 0.1, 60, 80) for n in range(2000)]
    assert shapes(parse(transcription(repeated, 200.0)))[0][2] == 2000
    assert shapes(parse(transcription(repeated * 2, 200.0)))[0][2] < 2000


def test_small_roll_escapes_what_a_file_says() -> None:
    hostile = "<script>alert('&')</script>"
    song = transcription(BAND, 4.0)
    song = replace(
        song,
        provenance=replace(song.provenance, model=hostile),
        warnings=tuple(AudioWarning("damaged", f"{hostile}{n}") for n in range(5)),
    )
    assert "<script" not in song._repr_html_()
    page = parse(song)
    assert hostile in (page.findtext(f".//{SVG}title") or "")
    assert [row.text for row in page.iter("div") if "arning" in (row.text or "")] == [
        *(f"Warning: {hostile}{n}" for n in range(3)),
        "and 2 more warnings",
    ]


@pytest.mark.parametrize(
    "notes", [[], BAND[2:], [Note(0.0, 1.0, 0, 1), Note(0.0, 1.0, 127, 1)], [Note(0.0, 1.0, 10**9, 1)]]
)
def test_any_notes_are_drawn(notes: list[Note]) -> None:
    song = transcription(notes, 0.0)
    heights = re.findall(r'height="(\d+)"', song._repr_html_())
    assert int(heights[0]) < 500
    song.plot().figure.canvas.draw()


def test_plot_has_notes_bars_and_names() -> None:
    axes = replace(transcription(BAND, 4.0), grid=GRID).plot()
    axes.figure.canvas.draw()
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        "Acoustic Grand Piano",
        "Violin",
        "Drums",
        "pale: less certain",
    ]
    rows = [label.get_text() for label in axes.get_yticklabels()]
    assert rows == ["Kick", "Snare", "C4"]
    (top,) = axes.child_axes
    assert [label.get_text() for label in top.get_xticklabels()] == ["1", "2"]
    assert axes.get_title(loc="left") == "4 notes, 4.0 s, basic_pitch, 3/4, 120 bpm, C major"


def test_plot_draws_a_part_into_axes_of_the_caller_with_the_colors_of_the_whole() -> None:
    song = replace(transcription(BAND, 4.0), grid=GRID)
    _, (above, below) = pyplot.subplots(2)
    assert song.plot(above) is above
    song.plot(below, start=1.5, end=2.5)
    assert below.get_xlim() == (1.5, 2.5)
    colors = {
        axes: {patch.get_label(): patch.get_facecolor() for patch in axes.get_legend().get_patches()}
        for axes in (above, below)
    }
    assert list(colors[below]) == ["Violin", "Drums", "pale: less certain"]
    assert all(colors[above][name] == color for name, color in colors[below].items())
    (top,) = below.child_axes
    assert [label.get_text() for label in top.get_xticklabels()] == ["2"]


@pytest.mark.parametrize(
    "part", [{"start": 3.0, "end": 2.0}, {"start": -1.0}, {"end": float("nan")}, {"start": 9.0}]
)
def test_plot_of_no_part_is_refused(part: dict[str, Any]) -> None:
    with pytest.raises(InvalidOptionError, match="pass a start of at least 0 and a later end"):
        transcription(BAND, 4.0).plot(**part)
