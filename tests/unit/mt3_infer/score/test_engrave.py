"""Scores as SVG pages and PDF: fonts are embedded, and a score that is too long is refused in one sentence."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
import zipfile
import zlib
from pathlib import Path

import pytest

from mt3_infer import Note
from mt3_infer.errors import ExportTooLargeError, MissingDependencyError
from mt3_infer.exports import export
from mt3_infer.exports.options import ScoreOptions
from mt3_infer.score import engrave, to_pdf, to_svg_pages
from mt3_infer.symbolic.grid import BeatGrid
from mt3_infer.transcription import Transcription
from tests.fakes import transcription


def music(bars: int) -> Transcription:
    beats = tuple(i / 2 for i in range(4 * bars + 1))
    notes = [Note(i / 4, i / 4 + 0.2, 60 + i % 13, 80) for i in range(8 * bars)]
    return Transcription(
        notes, bars * 2.0, transcription().provenance, grid=BeatGrid(beats, beats[::4], "4/4", 120, "C major")
    )


def test_pages_are_svg_of_the_chosen_paper() -> None:
    pages = to_svg_pages(music(80), ScoreOptions(page_size="letter"))
    assert len(pages) > 1
    for page in pages:
        root = ET.fromstring(page)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        width, height = (float((root.get(name) or "").removesuffix("px")) for name in ("width", "height"))
        assert height / width == pytest.approx(11 / 8.5, rel=0.01)


def test_pdf_has_pages_title_and_embedded_fonts() -> None:
    pdf = to_pdf(music(40), ScoreOptions(title="Étude"))
    assert pdf.startswith(b"%PDF")
    streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.S)
    unpacked = pdf
    for stream in streams:
        try:
            unpacked += zlib.decompress(stream)
        except zlib.error:
            continue
    fonts = re.findall(rb"/FontName\s*/([A-Za-z0-9+-]+)", unpacked)
    assert any(b"Leipzig" in font for font in fonts), "the music font"
    assert len(fonts) == len(re.findall(rb"/FontFile[23]?\b", unpacked)) > 1, "every font is embedded"


def test_score_of_too_many_pages_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engrave, "MOST_PAGES", 2)
    for engraved in (to_pdf, to_svg_pages):
        with pytest.raises(ExportTooLargeError, match=r"\d+ pages; SVG and PDF have 2 at most. Export MusicXML"):
            engraved(music(200))
    monkeypatch.setattr(engrave, "MOST_BYTES", 1000)
    with pytest.raises(ExportTooLargeError, match="too long for SVG and PDF"):
        to_pdf(music(4))


def test_score_that_takes_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engrave, "SECONDS", 0.01)
    with pytest.raises(ExportTooLargeError, match=r"takes more than 0 s. Export MusicXML"):
        to_pdf(music(4))


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "verovio.py").write_text("raise ImportError('no', name='verovio')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingDependencyError, match="verovio"):
        to_pdf(music(4))


def test_scores_are_exported_and_saved(tmp_path: Path) -> None:
    score = music(8)
    export(score, "svg", tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == ["page-001.svg", "measures.json"]
    export(score, "svg", tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    score.save(tmp_path / "a.pdf")
    score.save(tmp_path / "a.musicxml")
    assert len((tmp_path / "a.pdf").read_bytes()) == pytest.approx(len(score.to_pdf()), rel=0.05)
    assert (tmp_path / "a.musicxml").read_bytes() == score.to_musicxml()


def test_archive_says_when_each_measure_begins_and_ends(tmp_path: Path) -> None:
    score = music(80)
    export(score, "svg", tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        measures = json.loads(archive.read("measures.json"))["measures"]
        pages = [archive.read(name).decode() for name in archive.namelist() if name.endswith(".svg")]
    assert sum(page.count('class="measure"') for page in pages) == len(measures) > 10
    starts = [measure["start"] for measure in measures]
    assert starts[1:] == [measure["end"] for measure in measures[:-1]]
    assert set(starts[1:]) <= set(score.grid.downbeats)
