"""Refuses query parameters and form fields that a view does not declare, so that no misspelled one is ignored."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from difflib import get_close_matches
from typing import Any

from web.errors import InvalidRequest
from web.forms import FormRequest

PREFIXES = {"transcriptions.index": ("metadata.",)}
"""Endpoints with parameters whose names the client chooses, but for their beginning."""


def refuse_unknown(view: Any, request: FormRequest) -> None:
    """Raise if a request has a parameter or a field that its view does not declare.

    Raises:
        InvalidRequest: naming the first of them, and the nearest one that exists.
    """
    free = PREFIXES.get(request.endpoint or "", ())
    names = [name for name in request.args if not name.startswith(free)]
    body = set(_fields(_spec(view).get("body")))
    if "file" in body and request.is_recording:
        _refuse(names, (body - {"file"}) | {"filename"}, "query parameter")
        return
    _refuse(names, _declared(view, "query"), "query parameter")
    if request.method == "PUT" and not body:
        return  # it takes bytes, whatever their type
    if request.mimetype in ("multipart/form-data", "application/x-www-form-urlencoded"):
        _refuse((*request.form, *request.files), body, "form field")
    elif body and request.is_json and request.content_length:
        content = request.get_json()
        if not isinstance(content, dict):
            raise InvalidRequest("The body must be a JSON object.")
        spec = _spec(view)
        _refuse(content, set(_fields(spec.get("json_body") or spec["body"])), "field")


def nearest(name: str, known: Collection[str]) -> str:
    """Return a sentence with the nearest known name, or with all of them."""
    close = get_close_matches(name, known, n=1)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"Known: {', '.join(sorted(known))}." if known else "It takes none."


def _refuse(names: Iterable[str], known: Collection[str], kind: str) -> None:
    for name in names:
        if name not in known:
            raise InvalidRequest(f"Unknown {kind} {name[:100]!r}. {nearest(name, known)}")


def _declared(view: Any, location: str) -> set[str]:
    return {name for schema, where in _spec(view).get("args", []) if where == location for name in _fields(schema)}


def _fields(schema: Any) -> Iterator[str]:
    yield from getattr(schema, "model_fields", ())


def _spec(view: Any) -> dict[str, Any]:
    spec: dict[str, Any] = getattr(view, "_spec", {})  # where APIFlask keeps what its decorators declare
    return spec
