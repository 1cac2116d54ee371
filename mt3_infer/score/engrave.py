"""Engrave a score: MusicXML → pages of SVG and a PDF, in a process of its own.

Verovio lays out a whole score in one call that blocks every thread of its process, and takes memory by the page.
A child process, limited in time and memory, does it; it costs a score when it fails, and never the caller.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal

from mt3_infer.errors import ExportError, ExportTooLargeError, MissingDependencyError

PageSize = Literal["a4", "letter"]

MOST_PAGES = 200
"""Pages that are engraved at most: a score of about an hour."""

MOST_BYTES = 60 * 1024**2
"""Bytes of MusicXML that are laid out at most, to find out how many pages there are."""

MEMORY_GB = 3
"""Memory that the child process may take."""

SECONDS = 300.0
"""Time that the child process may take."""

ADVICE = "Export MusicXML, which has no limit, or a shorter recording."


def svg_pages(musicxml: bytes, page_size: PageSize, origin: str) -> list[bytes]:
    """Return the pages of a score, each as an SVG document.

    Args:
        origin: a line for the description of each page.
    Raises:
        ExportTooLargeError: the score is too long.
        MissingDependencyError: verovio is not installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        _run(musicxml, Path(folder), page_size, title="", origin=origin, pdf=False)
        return [page.read_bytes() for page in sorted(Path(folder).glob("page-*.svg"))]


def pdf(musicxml: bytes, page_size: PageSize, title: str, origin: str) -> bytes:
    """Return a score as a PDF document.

    Args:
        origin: a line for the document's subject.
    Raises:
        ExportTooLargeError: the score is too long.
        MissingDependencyError: verovio, typst or fonttools is not installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        _run(musicxml, Path(folder), page_size, title=title, origin=origin, pdf=True)
        return (Path(folder) / "score.pdf").read_bytes()


def _run(musicxml: bytes, folder: Path, page_size: PageSize, *, title: str, origin: str, pdf: bool) -> None:
    if len(musicxml) > MOST_BYTES:
        raise ExportTooLargeError(
            f"This score is too long for SVG and PDF, which have {MOST_PAGES} pages at most. {ADVICE}"
        )
    (folder / "score.musicxml").write_bytes(musicxml)
    request = {"folder": str(folder), "page_size": page_size, "title": title, "origin": origin, "pdf": pdf}
    request |= {"most_pages": MOST_PAGES, "memory_bytes": MEMORY_GB * 1024**3}
    program = f"import sys; sys.path[:] = {sys.path!r}; from mt3_infer.score.engraver import main; main()"
    try:
        done = subprocess.run(
            [sys.executable, "-c", program],
            input=json.dumps(request).encode(),
            stdout=subprocess.PIPE,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ExportTooLargeError(f"Engraving this score takes more than {SECONDS:.0f} s. {ADVICE}") from None
    answer = json.loads(done.stdout) if done.returncode == 0 else {"failed": done.returncode}
    if "missing" in answer:
        raise MissingDependencyError(
            f"Engraving needs the package {answer['missing']}: pip install 'mt3-infer-service[infer]'."
        )
    if "pages" not in answer:
        raise ExportError(f"This score cannot be engraved within {MEMORY_GB} GB of memory. {ADVICE}")
    if answer["pages"] > MOST_PAGES:
        raise ExportTooLargeError(
            f"This score has {answer['pages']} pages; SVG and PDF have {MOST_PAGES} at most. {ADVICE}"
        )
