"""Notes as a score: MusicXML, PDF, and pages of SVG in a ZIP archive."""

from __future__ import annotations

import zipfile

from mt3_infer.exports import Export
from mt3_infer.exports.options import ScoreOptions
from mt3_infer.score import to_musicxml, to_pdf, to_svg_pages


def write_musicxml(export: Export[ScoreOptions]) -> None:
    """Write a MusicXML document."""
    export.path.write_bytes(to_musicxml(export.transcription, export.options))


def write_pdf(export: Export[ScoreOptions]) -> None:
    """Write a PDF document."""
    export.path.write_bytes(to_pdf(export.transcription, export.options))


def write_svg(export: Export[ScoreOptions]) -> None:
    """Write an archive with a file for each page."""
    pages = to_svg_pages(export.transcription, export.options)
    with zipfile.ZipFile(export.path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, page in enumerate(pages, start=1):
            # A fixed date, so that equal scores are equal files.
            archive.writestr(zipfile.ZipInfo(f"page-{number:03}.svg"), page, zipfile.ZIP_DEFLATED)
