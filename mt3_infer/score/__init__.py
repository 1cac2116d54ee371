"""Scores: a transcription as sheet music, in MusicXML, SVG and PDF."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mt3_infer.errors import InvalidOptionError
from mt3_infer.exports.options import DRUMS, ScoreOptions

if TYPE_CHECKING:
    from mt3_infer.score.arrange import Score
    from mt3_infer.transcription import Transcription

__all__ = ["ScoreOptions", "to_musicxml", "to_pdf", "to_svg_pages", "to_svg_score"]


def to_musicxml(transcription: Transcription, options: ScoreOptions | None = None) -> bytes:
    """Return a transcription as a MusicXML 4.0 document.

    Args:
        transcription: its notes and its grid of beats; without beats, they are taken to come every half second.
        options: the title, how to write, and corrections of the grid.

    Raises:
        InvalidOptionError: the notes span more than a day, or none is played by the chosen programs.
    """
    return _musicxml_of(_arranged(transcription, options), transcription, options)


def to_svg_pages(transcription: Transcription, options: ScoreOptions | None = None) -> list[bytes]:
    """Return the pages of a transcription's score, each as an SVG document.

    Raises:
        ExportTooLargeError: the score is too long to be engraved.
    """
    return to_svg_score(transcription, options)[0]


def to_svg_score(
    transcription: Transcription, options: ScoreOptions | None = None
) -> tuple[list[bytes], list[tuple[float, float]]]:
    """Return the pages as SVG documents, and when each measure begins and ends, in seconds.

    The measures are in the order of the pages' elements of class `measure`.

    Raises:
        ExportTooLargeError: the score is too long to be engraved.
    """
    from mt3_infer.score.engrave import svg_pages

    options = options or ScoreOptions()
    score = _arranged(transcription, options)
    musicxml = _musicxml_of(score, transcription, options)
    return svg_pages(musicxml, options.page_size, transcription.provenance.summary), score.times


def to_pdf(transcription: Transcription, options: ScoreOptions | None = None) -> bytes:
    """Return the score of a transcription as a PDF document with all fonts embedded.

    Raises:
        ExportTooLargeError: the score is too long to be engraved.
    """
    from mt3_infer.score.engrave import pdf

    options = options or ScoreOptions()
    return pdf(
        to_musicxml(transcription, options), options.page_size, options.title, transcription.provenance.summary
    )


def _arranged(transcription: Transcription, options: ScoreOptions | None) -> Score:
    from mt3_infer.score.arrange import arrange

    options = options or ScoreOptions()
    chosen = set(options.programs)
    notes = [
        note for note in transcription.notes if not chosen or (DRUMS if note.is_drum else note.program) in chosen
    ]
    if transcription.notes and not notes:
        raise InvalidOptionError(f"No note is played by the chosen programs. {_instruments_of(transcription)}")
    return arrange(notes, options.apply(transcription.grid, transcription.duration), options)


def _instruments_of(transcription: Transcription) -> str:
    """Return a sentence about the instruments that play."""
    from mt3_infer.symbolic.instruments import program_name

    playing = {(DRUMS if note.is_drum else note.program, note.is_drum) for note in transcription.notes}
    names = ", ".join(f"{program} ({program_name(program, is_drum)})" for program, is_drum in sorted(playing))
    return f"Choose among: {names}."


def _musicxml_of(score: Score, transcription: Transcription, options: ScoreOptions | None) -> bytes:
    from mt3_infer.score.musicxml import write

    options = options or ScoreOptions()
    source = transcription.provenance
    origin = {"model": source.model, "weights-sha256": source.weights_sha256, "license-of-weights": source.license}
    return write(score, options.title, origin, pitch=options.pitch)
