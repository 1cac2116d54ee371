"""Completes the OpenAPI document that APIFlask generates: every answer, header and error, examples, plain names.

APIFlask names a model that another one contains after both (`TranscriptionList.TranscriptionView`), so that each
appears several times, and gives every property a title: generators of clients lose calls over both. It knows
nothing of the errors that are raised outside of views.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from web.contract_examples import BODIES, EXAMPLES, problem_example
from web.problem_types import with_status

REF = "#/components/schemas/"
JSON, PROBLEM_JSON = "application/json", "application/problem+json"
BINARY = {"type": "string", "format": "binary"}
METHODS = ("get", "put", "post", "delete", "patch")

# Every call may be answered so. Those under /v1 need a key, and may be refused for that or for its rate.
EVERYWHERE = (400, 500)
UNDER_V1 = (401, 403, 421, 422, 429, 503)
WITH_BODY = (408, 413, 415)
# Calls whose second answer is like the first one: the job or the export has ended.
ENDED = {
    ("post", "/v1/transcriptions"): "It has ended, in answer to `Prefer: wait`.",
    ("post", "/v1/transcriptions/{job_id}/exports"): "It is there: with `Prefer: wait`, or as a repeated request.",
}
# What a call creates: the status, the parameter that takes the new id, and those that stay the same.
CREATED: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "/v1/transcriptions": ("202", "job_id", ()),
    "/v1/uploads": ("201", "upload_id", ()),
    "/v1/transcriptions/{job_id}/exports": ("202", "export_id", ("job_id",)),
    "/v1/transcriptions/{job_id}/shares": ("201", "token", ("job_id",)),
}
OPEN = ("/v1/session", "/v1/shared/")  # need no key; but to look at one's own key
RECORDING = "application/octet-stream"

DESCRIPTIONS = {
    400: "The request is malformed.",
    401: "A valid key is needed.",
    403: "The scope of the key or a quota does not allow this, or a page of another site sent the request.",
    404: "There is no such thing, or it belongs to another owner.",
    408: "The body came too slowly.",
    409: "The state does not allow this.",
    410: "The file is missing from the storage.",
    412: "It has changed: `If-Match` names another state than the present one.",
    413: "The body is too large.",
    415: "The body has a type that this call does not take.",
    416: "The range lies outside of the file.",
    421: "The service does not know the host name.",
    422: "A parameter or field is wrong or unknown.",
    429: "Too many requests, or too much is queued; see `Retry-After`.",
    500: "A bug.",
    503: "The database, the storage or the queue is unavailable; see `Retry-After`.",
    507: "The service has as much stored as it may.",
}
_TEXT, _WHOLE = {"type": "string"}, {"type": "integer", "minimum": 0}
HEADERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "X-Request-ID": (
        "Identifies the request in the service's log; that of the client if it sent one.",
        _TEXT,
        "01a2",
    ),
    "Location": (
        "The address of what was created.",
        _TEXT,
        "/v1/transcriptions/01a22668-7452-77d5-9c64-9971eca136ee",
    ),
    "Retry-After": ("Seconds to wait before the next request; absent once a job has ended.", _WHOLE, "1"),
    "ETag": ("Changes with the content; send it as `If-None-Match`.", _TEXT, '"6a2f41a3c54c4a1e9e0d6f3a1a2b3c4d"'),
    "Link": ('The next page, as `<…>; rel="next"`.', _TEXT, '</v1/transcriptions?cursor=01a2>; rel="next"'),
    "Preference-Applied": ("`wait=N`, if the request asked to wait.", _TEXT, "wait=30"),
    "Cache-Control": ("Whether the answer may be stored.", _TEXT, "no-store"),
    "Content-Disposition": ("The name to save the file under.", _TEXT, 'attachment; filename="song.mid"'),
    "Accept-Ranges": ("`bytes`.", _TEXT, "bytes"),
    "Content-Range": ("Which bytes these are.", _TEXT, "bytes 0-99/1234"),
    "WWW-Authenticate": ("How to authenticate.", _TEXT, 'Bearer realm="mt3-infer"'),
    "RateLimit": (
        "What is left of the limits (draft-ietf-httpapi-ratelimit-headers).",
        _TEXT,
        '"read-minute";r=9;t=4',
    ),
    "RateLimit-Policy": ("The limits of the key.", _TEXT, '"read-minute";q=600;w=60'),
    "Set-Cookie": ("The log-in of a browser.", _TEXT, "mt3_login=…; HttpOnly; SameSite=Lax; Path=/"),
}
OF_STATUS = {
    401: ("WWW-Authenticate",),
    403: ("WWW-Authenticate",),
    416: ("Content-Range",),
    429: ("Retry-After",),
    503: ("Retry-After",),
}


def complete(spec: dict[str, Any]) -> None:
    """Complete the document in place."""
    _name_schemas(spec)
    _add_components(spec)
    for methods in spec["paths"].values():
        for parameter in methods.get("parameters", ()):
            _simplify(parameter)
    for path, method, operation in operations(spec):
        _complete_operation(path, method, operation)
        _require_body(spec["components"]["schemas"], operation)
    _add_links(spec)


def _complete_operation(path: str, method: str, operation: dict[str, Any]) -> None:
    operation["operationId"] = _operation_id(operation["operationId"])
    if path.startswith(OPEN) and (method, path) != ("get", OPEN[0]):
        operation["security"] = []
    for parameter in operation.get("parameters", ()):
        _simplify(parameter)
    responses = operation["responses"]
    if (method, path) in ENDED:
        responses["200"] = responses["202"] | {"description": ENDED[method, path]}
    if "206" in responses or "if-none-match" in _parameter_names(operation):
        responses["304"] = {"description": "It has not changed: `If-None-Match` names its `ETag`."}
    conditions = {"if-none-match", "if-match"} & _parameter_names(operation)
    _declare_raw_bodies(path, method, operation)
    statuses = {*EVERYWHERE, *(status for status in map(int, responses) if status >= 400)}
    if path.startswith("/v1/"):
        statuses.update(UNDER_V1)
        if "{" in path:
            statuses.add(404)
        if method in ("post", "put", "patch"):
            statuses.update(WITH_BODY)
    if "206" in responses:
        statuses.update((410, 416))
    if "206" in responses or conditions:
        statuses.add(412)
    for status in sorted(statuses):
        if not _is_own(responses.get(str(status))):
            responses[str(status)] = {"$ref": f"#/components/responses/{_response_name(status)}"}
    _declare_successes(path, method, operation)
    operation["responses"] = dict(sorted(responses.items()))


def _parameter_names(operation: dict[str, Any]) -> set[str]:
    return {parameter["name"].lower() for parameter in operation.get("parameters", ())}


def _declare_raw_bodies(path: str, method: str, operation: dict[str, Any]) -> None:
    """Declare bodies that are a recording, or a part of one, by themselves."""
    if (method, path) == ("post", "/v1/transcriptions"):
        operation["requestBody"]["content"][RECORDING] = {"schema": BINARY}
    elif (method, path) == ("put", "/v1/uploads/{upload_id}/parts/{number}"):
        operation["requestBody"] = {"content": {RECORDING: {"schema": BINARY}}}


def _require_body(schemas: dict[str, Any], operation: dict[str, Any]) -> None:
    """Declare that a body must be sent, if it has fields that must be."""
    body = operation.get("requestBody")
    if body:
        used = [content.get("schema", {}) for content in body["content"].values()]
        named = [schemas.get(schema.get("$ref", "").removeprefix(REF), schema) for schema in used]
        body["required"] = any(schema.get("required") or schema == BINARY for schema in named)


def _add_links(spec: dict[str, Any]) -> None:
    """Link what is created to the calls that take its id."""
    for source, (status, own, inherited) in CREATED.items():
        response = spec["paths"][source]["post"]["responses"][status]
        parameters = {own: "$response.body#/id"} | {name: f"$request.path.{name}" for name in inherited}
        response["links"] = {
            operation["operationId"]: {"operationId": operation["operationId"], "parameters": parameters}
            for path, _, operation in operations(spec)
            if set(re.findall(r"{(\w+)}", path)) == set(parameters)
        }


def _declare_successes(path: str, method: str, operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    is_polled = "prefer" in _parameter_names(operation)
    for status, response in responses.items():
        if "$ref" in response or int(status) >= 400:
            continue
        names = ["X-Request-ID"]
        if path.startswith("/v1/"):
            names += ["RateLimit", "RateLimit-Policy", "Cache-Control"]
        if status in ("201", "202", "303"):
            names += ["Location"]
        if is_polled:
            names += ["Retry-After", "Preference-Applied"]
        names += _OWN_HEADERS.get((method, path), ())
        if "206" in responses and status in ("200", "206", "303"):
            names += ["ETag", "Content-Disposition", "Accept-Ranges"]
            names += ["Content-Range"] if status == "206" else []
        response["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in dict.fromkeys(names)}
        for kind, content in response.get("content", {}).items():
            if not content and kind != JSON:
                content["schema"] = BINARY
            name = content.get("schema", {}).get("$ref", "").removeprefix(REF)
            if name in EXAMPLES:
                content["example"] = EXAMPLES[name]
    for content in operation.get("requestBody", {}).get("content", {}).values():
        name = content.get("schema", {}).get("$ref", "").removeprefix(REF)
        if name in BODIES:
            content["example"] = BODIES[name]


_OWN_HEADERS = {
    ("get", "/v1/transcriptions"): ("Link",),
    ("get", "/v1/transcriptions/{job_id}"): ("ETag",),
    ("patch", "/v1/transcriptions/{job_id}"): ("ETag",),
    ("get", "/v1/shared/{token}"): ("ETag",),
    ("post", "/v1/session"): ("Set-Cookie",),
    ("put", "/v1/uploads/{upload_id}/parts/{number}"): ("ETag",),
}


def _is_own(response: dict[str, Any] | None) -> bool:
    """Return True for an error that a view declares with content of its own, such as /readyz."""
    if response is None:
        return False
    schemas = [content.get("schema", {}).get("$ref") for content in response.get("content", {}).values()]
    return any(schema not in (None, REF + "Problem") for schema in schemas)


def _add_components(spec: dict[str, Any]) -> None:
    components = spec["components"]
    components["headers"] = {
        name: {"description": text, "schema": schema, "example": example if schema is _TEXT else int(example)}
        for name, (text, schema, example) in HEADERS.items()
    }
    components["responses"] = {_response_name(status): _error_response(status) for status in DESCRIPTIONS}


def _error_response(status: int) -> dict[str, Any]:
    problems = with_status(status)
    names = ["X-Request-ID", *OF_STATUS.get(status, ())]
    codes = ", ".join(f"`{problem.code}`" for problem in problems)
    return {
        "description": f"{DESCRIPTIONS[status]} Codes: {codes}.",
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names},
        "content": {
            PROBLEM_JSON: {
                "schema": {"$ref": REF + "Problem"},
                "examples": {problem.code: {"value": problem_example(problem, status)} for problem in problems},
            }
        },
    }


def _response_name(status: int) -> str:
    return re.sub(r"\W", "", HTTPStatus(status).phrase.title())


def _operation_id(name: str) -> str:
    """Return `create_transcription` for what APIFlask calls `post_transcriptions_create`."""
    return name.partition("_")[2]


# --- schemas ------------------------------------------------------------------------------------------------


def _name_schemas(spec: dict[str, Any]) -> None:
    """Give every schema one name, and remove the titles."""
    schemas = spec["components"]["schemas"]
    names = {old: _plain_name(old) for old in schemas}
    renamed: dict[str, Any] = {}
    for old, schema in schemas.items():
        _rewrite(schema, names)
        known = renamed.setdefault(names[old], schema)
        if _without_text(known) != _without_text(schema):
            raise ValueError(f"Two different schemas have the name {names[old]}.")
    _rewrite(spec["paths"], names)
    spec["components"]["schemas"] = dict(sorted(renamed.items()))


def _plain_name(name: str) -> str:
    last = name.rpartition(".")[2]
    if last in ("HTTPError", "ValidationError"):
        return "Problem"
    return last.removesuffix("View") or last


def _rewrite(part: Any, names: dict[str, str], *, is_properties: bool = False) -> None:
    if isinstance(part, list):
        for item in part:
            _rewrite(item, names)
    elif isinstance(part, dict):
        if not is_properties and isinstance(part.get("title"), str):
            del part["title"]
        reference = part.get("$ref")
        if isinstance(reference, str) and reference.removeprefix(REF) in names:
            part["$ref"] = REF + names[reference.removeprefix(REF)]
        for key, value in part.items():
            _rewrite(value, names, is_properties=key in ("properties", "$defs") and not is_properties)


def _without_text(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {key: _without_text(value) for key, value in schema.items() if key != "description"}
    return [_without_text(item) for item in schema] if isinstance(schema, list) else schema


def _simplify(parameter: dict[str, Any]) -> None:
    """Make a parameter that may be left out just that: it cannot be null, and null is not its default."""
    schema = parameter.get("schema", {})
    kinds = [kind for kind in schema.get("anyOf", ()) if kind.get("type") != "null"]
    if len(kinds) == 1:
        del schema["anyOf"]
        schema.update(kinds[0])
    if schema.get("default", 0) in (None, []):
        del schema["default"]
    if "description" in schema:
        parameter.setdefault("description", schema.pop("description"))
    if schema.get("type") == "array":
        parameter |= {"style": "form", "explode": False}


def operations(spec: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield path, method and operation of every call."""
    for path, methods in spec["paths"].items():
        for method, operation in methods.items():
            if method in METHODS:
                yield path, method, operation
