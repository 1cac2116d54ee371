"""Reference pages: one for each type of problem, and `/llms.txt`, a summary of the API for language models."""

from __future__ import annotations

from apiflask import APIBlueprint
from flask import Response
from markupsafe import Markup, escape
from werkzeug.exceptions import NotFound

from web.access import needs
from web.problem_types import BASE, PROBLEMS, ProblemType

blueprint = APIBlueprint("reference", __name__, enable_openapi=False)

PAGE = Markup(
    '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{title}</title>'
    '<meta name="viewport" content="width=device-width"><link rel="icon" href="/static/favicon.svg">'
    '<link rel="stylesheet" href="/static/page.css"></head>\n<body><main>{body}</main></body>\n</html>\n'
)
PROBLEM = Markup(
    '<h1>{}</h1>\n<p><code>{}</code>. {}</p>\n<h2>What to do</h2>\n<p>{}</p>\n<p><a href="{}">All problems</a></p>'
)
LLMS = """\
# MT3-Infer Service

> Transcribes recordings of music to notes, MIDI, scores and sound. A recording is submitted over HTTP and becomes
> a job; clients poll it, or wait for it, and download the results.

- Submit: `POST /v1/transcriptions` with a form (`file`, `model`, `options`, `metadata`). The answer is the job.
- Wait: `GET /v1/transcriptions/{id}` with `Prefer: wait=30`, until `status` is one of `succeeded`, `failed` and
  `canceled`.
- Download: `GET /v1/transcriptions/{id}/artifacts/transcription.mid`, or `notes.json`.
- Other formats: `POST /v1/transcriptions/{id}/exports` with `{"format": "musicxml"}`, then poll the address in
  `Location`.
- Large files: `POST /v1/uploads`, send the parts, `POST …/complete`.
- Access: send `Authorization: Bearer mt3_…` if the service answers with 401.
- Errors are problem documents (RFC 9457): `code` is stable, `detail` a sentence, `type` leads to a page about it.
- A repeated POST with the same `Idempotency-Key` creates no second job. Honor `Retry-After`.

## Reference

- [OpenAPI](/openapi.json): every call, answer, header and error, with examples
- [Documentation](/docs): the same, to read and try out
- [Problems](/problems/): every code, and what to do
- [Models](/v1/models): what there is, and how fast it runs here
"""


@blueprint.get(BASE)
@needs(None)
def problems() -> Response:
    """Return the page with all types of problems."""
    rows = Markup("\n").join(
        Markup('<dt><a href="{}">{}</a></dt><dd>{}</dd>').format(problem.uri, problem.code, problem.title)
        for problem in PROBLEMS.values()
    )
    return _page("Problems", Markup("<h1>Problems</h1>\n<dl>{}</dl>").format(rows))


@blueprint.get(f"{BASE}<code>")
@needs(None)
def problem(code: str) -> Response:
    """Return the page of a type of problem."""
    if code not in PROBLEMS:
        raise NotFound
    return _page(code, _describe(PROBLEMS[code]))


@blueprint.get("/llms.txt")
@needs(None)
def llms() -> Response:
    """Return the summary of the API."""
    return _cached(Response(LLMS, content_type="text/plain; charset=utf-8"))


def _describe(problem: ProblemType) -> Markup:
    where = (
        f"The API answers with it and the status {' or '.join(map(str, problem.statuses))}."
        if problem.statuses
        else "It is the code in the error of a transcription or an export, or of a command."
    )
    return PROBLEM.format(problem.title, problem.code, where, _code_marked(problem.remedy), BASE)


def _code_marked(text: str) -> Markup:
    """Return text as HTML, with what stands between backquotes as code."""
    parts = text.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 else escape(part) for number, part in enumerate(parts)
    )


def _page(title: str, body: Markup) -> Response:
    return _cached(Response(PAGE.format(title=title, body=body), content_type="text/html; charset=utf-8"))


def _cached(response: Response) -> Response:
    response.headers["Cache-Control"] = "public, max-age=3600"
    return response
