"""Refuses what a view would ignore: unknown and repeated names, and bodies of a type that it does not take."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from difflib import get_close_matches
from typing import Any

from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import UnsupportedMediaType

from web.errors import InvalidRequest
from web.forms import SEND_RECORDING, FormRequest

PREFIXES = {"transcriptions.index": ("metadata.",), "archive.archive": ("metadata.",)}
"""Endpoints with parameters whose names the client chooses, but for their beginning."""
FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")


def refuse_unknown(view: Any, request: FormRequest) -> None:
    """Raise if a request has a parameter or a field that its view does not declare, or one twice.

    Raises:
        InvalidRequest: naming the first of them, and the nearest one that exists.
        UnsupportedMediaType: the view does not take such a body.
    """
    free = PREFIXES.get(request.endpoint or "", ())
    names = [name for name in request.args if not name.startswith(free)]
    _refuse_repeated(request.args, "query parameter")
    spec = _spec(view)
    body = set(_fields(spec.get("body")))
    takes_form = "file" in body
    if request.content_length:
        _refuse_coding(request)
    if takes_form and request.is_recording:
        _refuse(names, (body - {"file"}) | {"filename"}, "query parameter")
        return
    _refuse(names, _declared(view, "query"), "query parameter", [f"{prefix}KEY" for prefix in free])
    if (request.method == "PUT" and not body) or not request.content_length:
        return  # a part of a file is bytes, whatever their type
    if takes_form and request.mimetype in FORMS:
        _refuse((*request.form, *request.files), body, "form field")
        _refuse_repeated(request.form, "form field")
        _refuse_repeated(request.files, "form field")
    elif request.is_json:
        content = request.get_json()
        if not isinstance(content, dict):
            raise InvalidRequest("The body must be a JSON object.")
        _refuse(content, set(_fields(spec.get("json_body") or spec.get("body"))), "field")
    elif takes_form:
        raise UnsupportedMediaType(f"The body has a type that this call does not take: {SEND_RECORDING}.")
    elif request.method in ("POST", "PUT", "PATCH"):
        remedy = "Send JSON with Content-Type: application/json." if body else "Send none."
        raise UnsupportedMediaType(f"The body has a type that this call does not take. {remedy}")


def _refuse_coding(request: FormRequest) -> None:
    """Refuse a compressed body, which would be stored or parsed as it is."""
    coding = request.headers.get("Content-Encoding", "identity")
    if coding.strip().lower() != "identity":
        text = f"A body with Content-Encoding {coding[:100]} is not accepted. Send it as it is."
        raise UnsupportedMediaType(text)


def _refuse_repeated(values: MultiDict[str, Any], kind: str) -> None:
    for name, found in values.lists():
        if len(found) > 1:
            text = f"The {kind} {name[:100]!r} is repeated. Send it once; commas separate the values of a list."
            raise InvalidRequest(text)


def nearest(name: str, known: Collection[str]) -> str:
    """Return a sentence with the nearest known name, or with all of them."""
    close = get_close_matches(name, known, n=1)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"Known: {', '.join(sorted(known))}." if known else "It takes none."


def _refuse(names: Iterable[str], known: Collection[str], kind: str, free: Iterable[str] = ()) -> None:
    for name in names:
        if name not in known:
            raise InvalidRequest(f"Unknown {kind} {name[:100]!r}. {nearest(name, {*known, *free})}")


def _declared(view: Any, location: str) -> set[str]:
    return {name for schema, where in _spec(view).get("args", []) if where == location for name in _fields(schema)}


def _fields(schema: Any) -> Iterator[str]:
    yield from getattr(schema, "model_fields", ())


def _spec(view: Any) -> dict[str, Any]:
    spec: dict[str, Any] = getattr(view, "_spec", {})  # where APIFlask keeps what its decorators declare
    return spec
