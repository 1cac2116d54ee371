"""Notes as a score: MusicXML, PDF, and pages of SVG in a ZIP archive."""

from __future__ import annotations

import json
import zipfile

from mt3_infer.exports import Export
from mt3_infer.exports.options import ScoreOptions
from mt3_infer.score import to_musicxml, to_pdf, to_svg_score


def write_musicxml(export: Export[ScoreOptions]) -> None:
    """Write a MusicXML document."""
    export.path.write_bytes(to_musicxml(export.transcription, export.options))


def write_pdf(export: Export[ScoreOptions]) -> None:
    """Write a PDF document."""
    export.path.write_bytes(to_pdf(export.transcription, export.options))


def write_svg(export: Export[ScoreOptions]) -> None:
    """Write an archive with a file for each page, and `measures.json`: when each measure begins and ends."""
    pages, times = to_svg_score(export.transcription, export.options)
    measures = [{"start": round(start, 6), "end": round(end, 6)} for start, end in times]
    content = {"format": "mt3-infer/measures", "version": 1, "measures": measures}
    files = {f"page-{number:03}.svg": page for number, page in enumerate(pages, start=1)}
    files["measures.json"] = json.dumps(content).encode()
    with zipfile.ZipFile(export.path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, file in files.items():
            # A fixed date, so that equal scores are equal files.
            archive.writestr(zipfile.ZipInfo(name), file, zipfile.ZIP_DEFLATED)
