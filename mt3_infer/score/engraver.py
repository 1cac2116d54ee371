"""The program of the child process that engraves: one request on standard input, its answer on standard output."""

from __future__ import annotations

import base64
import json
import re
import resource
import sys
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

SIZES = {"a4": (2100, 2970), "letter": (2159, 2794)}
"""Width and height of a page, in tenths of a millimeter."""

SCALE = 90
"""Percent of verovio's size; a staff is 6.3 mm high, as in printed piano music."""

MARGIN = 150
"""Around a page, in tenths of a millimeter."""

PAGE_OF_PDF = """
#set document(title: sys.inputs.title, description: sys.inputs.origin, date: none)
#set page(width: {width}mm, height: {height}mm, margin: 0mm)
#for number in range({pages}) {{
  image("page-" + ("000" + str(number + 1)).slice(-4) + ".svg", width: {width}mm)
}}
"""


def main() -> None:
    """Engrave what standard input asks for."""
    request = json.load(sys.stdin)
    limit = request.pop("memory_bytes")
    with suppress(ValueError, OSError):  # where the system knows no such limit
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        answer: dict[str, Any] = {"pages": _engrave(**request)}
    except ImportError as error:
        answer = {"missing": error.name}
    print(json.dumps(answer))  # noqa: T201  the answer to the parent


def _engrave(folder: str, page_size: str, title: str, origin: str, pdf: bool, most_pages: int) -> int:
    """Write the pages, and the PDF of them; return how many there are, which may be too many to be written."""
    import verovio

    target = Path(folder)
    width, height = SIZES[page_size]
    verovio.enableLog(verovio.LOG_OFF)
    toolkit = verovio.toolkit()
    toolkit.setOptions(
        {
            "pageWidth": width * 100 // SCALE,
            "pageHeight": height * 100 // SCALE,
            "pageMarginTop": MARGIN * 100 // SCALE,
            "pageMarginBottom": MARGIN * 100 // SCALE,
            "pageMarginLeft": MARGIN * 100 // SCALE,
            "pageMarginRight": MARGIN * 100 // SCALE,
            "scale": SCALE,
            "footer": "none",
            "header": "auto",
            "smuflTextFont": "none" if pdf else "embedded",
            "xmlIdSeed": 1,  # equal scores are equal files
        }
    )
    toolkit.loadFile(str(target / "score.musicxml"))
    pages: int = toolkit.getPageCount()
    if pages > most_pages:
        return pages
    for number in range(1, pages + 1):
        svg: str = toolkit.renderToSVG(number)
        (target / f"page-{number:04}.svg").write_text(
            _for_pdf(svg) if pdf else _described(svg, origin), encoding="utf-8"
        )
    if pdf:
        _write_pdf(target, pages, title, origin, width / 10, height / 10)
    return pages


_TITLE = re.compile(
    r'<text font-size="0px">\s*<tspan ([^>]*?)x="(\d+)" y="(\d+)" text-anchor="middle">\s*<title.*?</title>', re.S
)


_DESCRIPTION = re.compile("(?<=<desc>)[^<]*(?=</desc>)")


def _described(svg: str, origin: str) -> str:
    """Return a page whose description begins with a line of ours."""
    return _DESCRIPTION.sub(lambda found: f"{escape(origin)}. {found[0]}", svg, count=1)


def _for_pdf(svg: str) -> str:
    """Return a page without what the PDF writer would misplace: a title whose place stands in a nested element."""
    return _TITLE.sub(r'<text font-size="0px" x="\2" y="\3" text-anchor="middle"><tspan \1>', svg)


def _write_pdf(folder: Path, pages: int, title: str, origin: str, width: float, height: float) -> None:
    import typst
    import verovio

    data = Path(verovio.__file__).parent / "data"
    (folder / "Leipzig.ttf").write_bytes(_font((data / "Leipzig.css").read_text()))
    source = PAGE_OF_PDF.format(width=width, height=height, pages=pages)
    (folder / "score.typ").write_text(source)
    typst.compile(
        str(folder / "score.typ"),
        output=str(folder / "score.pdf"),
        font_paths=[str(folder)],
        sys_inputs={"title": title, "origin": origin},
    )


def _font(css: str) -> bytes:
    """Return the music font of a style sheet as TrueType, as which the PDF embeds it."""
    from fontTools.ttLib import TTFont

    found = re.search(r"base64,([A-Za-z0-9+/=]+)", css)
    assert found
    font = TTFont(BytesIO(base64.b64decode(found[1])))
    font.flavor = None
    out = BytesIO()
    font.save(out)
    return out.getvalue()
