"""Serves the page, and lists the modules that it needs, so that a browser fetches them at once.

Without the list a browser learns of a module's imports when it has the module: a round trip for each link.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from apiflask import APIBlueprint
from flask import Response, current_app

from web.access import needs
from web.downloads import make_conditional

ENTRY = "js/main.js"
SCRIPT_TAG = f'  <script type="module" src="/static/{ENTRY}"></script>\n'
COMMENTS = re.compile(
    r"/\*.*?\*/|^\s*//[^\n]*", re.DOTALL | re.MULTILINE
)  # they contain types: import("./api.js").Job
STATIC_IMPORT = re.compile(r'^(?:import|export)\b[^;"]*?"\./([\w./]+)"', re.MULTILINE)
DYNAMIC_IMPORT = re.compile(r'\bimport\("\./([\w./]+)"\)')

blueprint = APIBlueprint("page", __name__, enable_openapi=False)


@blueprint.get("/")
@needs(None)
def index() -> Response:
    """Return the page."""
    return make_page()


def make_page(*, shows_job: bool = False) -> Response:
    """Return a response with the page.

    Args:
        shows_job: The page opens on a job: the modules of that view are needed at once.
    """
    folder = Path(str(current_app.static_folder))
    now, later = modules_of(folder, ENTRY)
    if shows_job:
        now, later = now + later, ()
    links = "".join(
        f'  <link rel="{rel}" href="/static/{name}">\n'
        for rel, names in (("modulepreload", now), ("later", later))  # main.js decides when later is
        for name in names
    )
    links = '  <link rel="preload" as="fetch" crossorigin href="/v1/models">\n' + links
    html = (folder / "index.html").read_text("utf-8").replace(SCRIPT_TAG, links + SCRIPT_TAG)
    response = Response(html, content_type="text/html; charset=utf-8")
    response.headers["Cache-Control"] = "no-cache"
    response.add_etag()
    return make_conditional(response)


@cache
def modules_of(folder: Path, entry: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the modules that a module needs at once, and those that it imports later, in the order of discovery.

    Args:
        folder: Of the static files.
        entry: Path of the first module, relative to the folder; it is the first that is returned.
    """
    now = _reached(folder, [entry], STATIC_IMPORT)
    dynamic = [name for module in now for name in _imports(folder, module, DYNAMIC_IMPORT)]
    later = _reached(folder, dynamic, STATIC_IMPORT)
    return tuple(now), tuple(name for name in later if name not in now)


def _reached(folder: Path, names: list[str], pattern: re.Pattern[str]) -> list[str]:
    """Return modules and what they import, and so on, breadth first."""
    found = list(dict.fromkeys(names))
    for name in found:  # grows meanwhile
        found += [each for each in dict.fromkeys(_imports(folder, name, pattern)) if each not in found]
    return found


def _imports(folder: Path, name: str, pattern: re.Pattern[str]) -> list[str]:
    source = COMMENTS.sub("", (folder / name).read_text("utf-8"))
    return [str(Path(name).parent / imported) for imported in pattern.findall(source)]
