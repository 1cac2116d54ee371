"""The OpenAPI document: complete, with plain names and valid examples; the pages that problems lead to."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from flask import Flask
from flask.testing import FlaskClient

from shared.config import Settings
from shared.db import Sessions
from shared.queue import InMemoryQueue
from tests.access import Client
from tests.unit.test_runbook import find_codes
from tools.make_api_docs import pages
from web import create_app
from web.contract import HEADERS, operations
from web.problem_types import PROBLEMS

UNLISTED = {"/", "/docs", "/docs/oauth2-redirect", "/docs/assets/{name}", "/openapi.json", "/static/{filename}"}
UNLISTED |= {"/s/{token}", "/problems/", "/problems/{code}", "/llms.txt"}  # pages for people, and this document


CONFIG = Path(__file__).parents[3] / "docs" / "openapi-python-client.yml"


@pytest.fixture
def app(settings: Settings, sessions: Sessions) -> Flask:
    app = create_app(settings, sessions=sessions, queue=InMemoryQueue())
    app.test_client_class = Client
    return app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def spec(client: FlaskClient) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(client.get("/openapi.json").data)
    return document


def nodes(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        yield part
    for value in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from nodes(value)


def test_every_route_is_in_the_document(app: Flask, spec: dict[str, Any]) -> None:
    routes = {
        (method.lower(), re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    declared = {(method, path) for path, method, _ in operations(spec)}
    assert {(method, path) for method, path in routes if path not in UNLISTED} == declared


def test_names_are_plain_and_each_is_used_once(spec: dict[str, Any]) -> None:
    names = spec["components"]["schemas"]
    assert {name for name in names if not re.fullmatch(r"[A-Z][A-Za-z]+", name)} == set()
    ids = [operation["operationId"] for _, _, operation in operations(spec)]
    assert len(ids) == len(set(ids))
    assert all("title" not in node or isinstance(node["title"], dict) for node in nodes(names))


def test_references_lead_somewhere(spec: dict[str, Any]) -> None:
    for node in nodes(spec):
        reference = node.get("$ref")
        if isinstance(reference, str):
            kind, name = re.fullmatch(r"#/components/(\w+)/([\w-]+)", reference).groups()
            assert name in spec["components"][kind], reference
    text = json.dumps(spec["paths"])
    assert all(f'"#/components/responses/{name}"' in text for name in spec["components"]["responses"])


def test_every_call_declares_its_errors_headers_and_a_summary(spec: dict[str, Any]) -> None:
    for path, method, operation in operations(spec):
        responses = operation["responses"]
        assert operation["summary"], path
        assert {"400", "500"} <= responses.keys()
        if path.startswith("/v1/"):
            assert {"401", "403", "421", "422", "429", "503"} <= responses.keys()
            assert "404" in responses or "{" not in path
        for status, response in responses.items():
            if status < "300":
                assert "X-Request-ID" in response["headers"], (method, path, status)
    assert set(HEADERS) == set(spec["components"]["headers"])


def test_generators_of_clients_know_the_type_of_every_answer(spec: dict[str, Any]) -> None:
    """By themselves, or by the configuration that the documentation names."""
    known = re.compile(r"text/.*|application/(.*\+)?json|application/octet-stream")
    overridden = set(
        re.findall(r"^  \"?([^\s\"]+)\"?: application/octet-stream$", CONFIG.read_text(), re.MULTILINE)
    )
    kinds = {kind for node in nodes(spec["paths"]) for kind in node.get("content", ())}
    assert len(kinds) > 5
    assert {kind for kind in kinds if not known.fullmatch(kind)} == overridden | {"multipart/form-data"}


def test_examples_match_their_schemas(spec: dict[str, Any]) -> None:
    count = 0
    resolver = {"components": spec["components"]}
    for content in nodes(spec):
        schema = content.get("schema")
        if not isinstance(schema, dict):
            continue
        values = [content["example"]] if "example" in content else []
        values += [row["value"] for row in content.get("examples", {}).values()]
        for value in values:
            jsonschema_rs.Draft202012Validator({**schema, **resolver}).validate(value)
            count += 1
    assert count > 60


def test_every_code_of_the_service_has_a_problem_type() -> None:
    assert find_codes() - set(PROBLEMS) == set()
    assert set(PROBLEMS) - find_codes() == set()


def test_types_of_problems_lead_to_pages(client: FlaskClient) -> None:
    overview = client.get("/problems/").text
    for code, problem in PROBLEMS.items():
        page = client.get(problem.uri)
        assert (page.status_code, page.mimetype) == (200, "text/html")
        assert f"<code>{code}</code>" in page.text
        assert f'href="{problem.uri}"' in overview


def test_a_type_that_does_not_exist_is_not_found(client: FlaskClient) -> None:
    assert client.get("/problems/nonesuch").status_code == 404
    assert "<script" not in client.get("/problems/<script>").text


def test_problem_documents_name_their_type(client: FlaskClient) -> None:
    problem = json.loads(client.get("/v1/transcriptions?status=nonesuch").data)
    assert (problem["type"], problem["title"]) == ("/problems/invalid_request", "Invalid request")
    assert client.get(problem["type"]).status_code == 200


def test_the_summary_for_programs_leads_to_what_there_is(client: FlaskClient) -> None:
    summary = client.get("/llms.txt")
    assert summary.mimetype == "text/plain"
    links = re.findall(r"\]\((/[^)]*)\)", summary.text)
    assert links
    for link in links:
        assert client.get(link).status_code == 200, link


@pytest.mark.parametrize("path", ["/", "/static/page.css", "/static/js/format.js", "/static/favicon.svg"])
def test_files_of_the_page_are_revalidated_not_sent_again(client: FlaskClient, path: str) -> None:
    first = client.get(path, headers={"Accept-Encoding": "gzip"})
    etag = first.headers["ETag"]
    assert "no-cache" in first.headers["Cache-Control"] or "max-age=0" in first.headers["Cache-Control"]
    again = client.get(path, headers={"If-None-Match": etag, "Accept-Encoding": "gzip"})
    assert (first.status_code, again.status_code, again.data) == (200, 304, b"")


def test_generated_pages_are_current() -> None:
    for file, content in pages().items():
        assert file.read_text() == content, "Run `make api-docs`."


@pytest.mark.parametrize("body", ["null", "[]", '"text"', "1"])
def test_json_bodies_must_be_objects(client: FlaskClient, body: str) -> None:
    answer = client.post("/v1/uploads", data=body, content_type="application/json")
    assert (answer.status_code, (answer.json or {})["detail"]) == (422, "The body must be a JSON object.")
