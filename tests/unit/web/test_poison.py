"""Accepted values are returned unchanged, and an unreadable row does not break lists. On both databases."""

from __future__ import annotations

import io
import json
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from sqlalchemy import text
from werkzeug.test import TestResponse

from shared.config import Settings
from shared.db import Sessions
from shared.queue import InMemoryQueue
from web import create_app


def nested(depth: int, kind: str = "[]") -> str:
    """Return a JSON object of the given depth, itself included."""
    opening = kind[:-1]
    return '{"a":' + opening * (depth - 1) + ("1" if kind != "[]" else "") + kind[-1] * (depth - 1) + "}"


RETURNED = [
    "{}",
    nested(32),
    nested(32, '{"b":}'),
    '{"\\u00e9\\ud83c\\udfb5": "\\ud83c\\udfb5", "": ""}',
    '{"a": "\\\\u0000 \\\\ud800", "b": "\\u2028\\ufeff\\uffff"}',
    '{"a": 18446744073709551615, "b": -9223372036854775808, "c": 1.7976931348623157e308, "d": 5e-324, "e": -0.0}',
    '{"a": [null, true, false, [], {}], "__proto__": 1, "__type__": "uuid", "__value__": "x"}',
    json.dumps({f"k{n}": [n] * 10 for n in range(150)}),
]
REFUSED = [
    nested(33),
    nested(33, '{"b":}'),
    nested(300),
    nested(5000),
    '{"a": "\\ud800"}',
    '{"\\udfff": 1}',
    '{"a": ["x\\ud83c"]}',
    '{"a": "\\u0000"}',
    '{"a\\u0000b": 1}',
    '{"a": ' + "9" * 30 + "}",
    '{"a": -' + "9" * 4000 + "}",
    '{"a": ' + "9" * 5000 + "}",
    '{"a": NaN}',
    '{"a": -Infinity}',
    '{"a": 1e999}',
    '{"a": 1',
    "[]",
    "null",
    '"a"',
]


@pytest.fixture
def client(settings: Settings, any_sessions: Sessions) -> FlaskClient:
    return create_app(settings, sessions=any_sessions, queue=InMemoryQueue()).test_client()


def post(client: FlaskClient, **form: Any) -> TestResponse:
    name = form.pop("name", "song.wav")
    return client.post("/v1/transcriptions", data={"file": (io.BytesIO(b"RIFF"), name), **form})


def listed(client: FlaskClient, query: str = "") -> list[dict[str, Any]]:
    response = client.get(f"/v1/transcriptions?limit=100{query}")
    assert response.status_code == 200, response.text
    items: list[dict[str, Any]] = json.loads(response.text, parse_constant=pytest.fail)["items"]
    return items


def test_accepted_metadata_is_returned_unchanged(client: FlaskClient) -> None:
    for sent in RETURNED:
        response = post(client, metadata=sent)
        assert response.status_code == 202, (sent[:80], response.text)
        assert response.json["metadata"] == json.loads(sent)
        shown = client.get(f"/v1/transcriptions/{response.json['id']}").json
        assert shown["metadata"] == json.loads(sent)
    assert [job["metadata"] for job in listed(client)] == [json.loads(sent) for sent in reversed(RETURNED)]


@pytest.mark.parametrize("field", ["metadata", "options"])
def test_unreturnable_json_is_rejected_and_no_job_is_created(client: FlaskClient, field: str) -> None:
    for sent in REFUSED:
        response = post(client, **{field: sent})
        assert response.status_code == 422, (sent[:80], response.text)
        problem = json.loads(response.text)
        assert problem["detail"].startswith(field), problem
        assert len(problem["detail"]) < 200
    assert listed(client) == []


@pytest.mark.parametrize(
    "name", ["\ud800.wav", "a\x00b.wav", "\u202e", "..", ".", "/", "a\nb", "\U0001f3b5" * 300, "%00"]
)
def test_any_file_name_can_be_listed(client: FlaskClient, name: str) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\nRIFF\r\n--b--\r\n'
    encoded = name.encode("utf-8", "surrogatepass")
    response = client.post(
        "/v1/transcriptions", data=body % encoded, content_type="multipart/form-data; boundary=b"
    )
    assert response.status_code in (202, 422), response.text  # a line break ends the header
    assert len(listed(client)) == (response.status_code == 202)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("client_metadata", '{"a":' + "[" * 300 + "]" * 300 + "}"),
        ("client_metadata", '{"a": ' + "9" * 5000 + "}"),
        ("client_metadata", '"text"'),
        ("options", "[1]"),
        ("options", '{"a":' + "[" * 900 + "]" * 900 + "}"),
        ("artifacts", '[{"name": "x"}]'),
        ("artifacts", "3"),
        ("download", '{"new_field": 1}'),
        ("status", "a_newer_state"),
        ("phase", "a_newer_phase"),
    ],
)
def test_unreadable_row_does_not_break_lists(
    client: FlaskClient, any_sessions: Sessions, column: str, value: str
) -> None:
    """An older or newer version of the service may have written it."""
    ids = [post(client).json["id"] for _ in range(3)]
    with any_sessions.begin() as session:
        is_sqlite = session.get_bind().dialect.name == "sqlite"
        job_id = ids[1].replace("-", "") if is_sqlite else UUID(ids[1])
        kind = "" if is_sqlite or column in ("status", "phase") else "::json"
        spoil = text(f"UPDATE jobs SET {column} = (:value){kind} WHERE id = :id")
        session.execute(spoil, {"value": value, "id": job_id})
    assert [job["id"] for job in listed(client) if job["id"] != ids[1]] == [ids[2], ids[0]]
    page = client.get("/v1/transcriptions?limit=2").json
    following = client.get(f"/v1/transcriptions?limit=2&cursor={page['next_cursor']}").json
    assert [job["id"] for job in following["items"]] == [ids[0]]
    assert client.get(f"/v1/transcriptions/{ids[0]}").status_code == 200
    assert client.delete(f"/v1/transcriptions/{ids[1]}").status_code == 204


def test_job_with_unreadable_metadata_is_shown_without_it(client: FlaskClient, any_sessions: Sessions) -> None:
    job_id = post(client, metadata='{"a": 1}').json["id"]
    with any_sessions.begin() as session:
        deep = '{"a":' + "[" * 300 + "]" * 300 + "}"
        session.execute(text("UPDATE jobs SET client_metadata = '" + deep + "'"))
    (shown,) = listed(client)
    assert (shown["id"], shown["metadata"], shown["status"]) == (job_id, {}, "queued")
    assert client.get(f"/v1/transcriptions/{job_id}").json["metadata"] == {}
    assert client.post(f"/v1/transcriptions/{job_id}/cancel").status_code == 202
