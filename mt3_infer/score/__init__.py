"""Scores: a transcription as sheet music, in MusicXML, SVG and PDF."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mt3_infer.exports.options import ScoreOptions

if TYPE_CHECKING:
    from mt3_infer.transcription import Transcription

__all__ = ["ScoreOptions", "to_musicxml", "to_pdf", "to_svg_pages"]


def to_musicxml(transcription: Transcription, options: ScoreOptions | None = None) -> bytes:
    """Return a transcription as a MusicXML 4.0 document.

    Args:
        transcription: its notes and its grid of beats; without beats, they are taken to come every half second.
        options: the title, how to write, and corrections of the grid.

    Raises:
        InvalidOptionError: the notes span more than a day.
    """
    from mt3_infer.score.arrange import arrange
    from mt3_infer.score.musicxml import write

    options = options or ScoreOptions()
    grid = options.apply(transcription.grid, transcription.duration)
    score = arrange(transcription.notes, grid, options)
    source = transcription.provenance
    origin = {"model": source.model, "weights-sha256": source.weights_sha256, "license-of-weights": source.license}
    return write(score, options.title, origin, concert=options.pitch == "concert")


def to_svg_pages(transcription: Transcription, options: ScoreOptions | None = None) -> list[bytes]:
    """Return the pages of a transcription's score, each as an SVG document.

    Raises:
        ExportTooLargeError: the score is too long to be engraved.
    """
    from mt3_infer.score.engrave import svg_pages

    options = options or ScoreOptions()
    return svg_pages(to_musicxml(transcription, options), options.page_size)


def to_pdf(transcription: Transcription, options: ScoreOptions | None = None) -> bytes:
    """Return the score of a transcription as a PDF document with all fonts embedded.

    Raises:
        ExportTooLargeError: the score is too long to be engraved.
    """
    from mt3_infer.score.engrave import pdf

    options = options or ScoreOptions()
    return pdf(to_musicxml(transcription, options), options.page_size, options.title)
