"""Odd requests: each is refused with the reason, or answered as HTTP defines; nothing is ignored."""

from __future__ import annotations

import gzip
import io
import json
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from shared.config import Settings
from shared.db import Sessions
from shared.queue import InMemoryQueue
from shared.storage import make_storage
from tests.access import Client
from tests.unit.web.test_api import accepted, assert_problem, finish, post
from web import create_app

JOBS = "/v1/transcriptions"
JOB = f"{JOBS}/{UUID(int=7)}"


@pytest.fixture
def client(settings: Settings, sessions: Sessions) -> FlaskClient:
    app = create_app(settings, sessions=sessions, queue=InMemoryQueue())
    app.test_client_class = Client
    return app.test_client()


@pytest.fixture
def song(client: FlaskClient, sessions: Sessions, settings: Settings) -> str:
    """The address of a job that has succeeded; its recording is 200 bytes long."""
    job_id: str = accepted(client, content=bytes(range(200)))["id"]
    finish(sessions, make_storage(settings), job_id)
    return f"{JOBS}/{job_id}"


def wav(name: str = "a.wav") -> tuple[io.BytesIO, str]:
    return io.BytesIO(b"RIFF"), name


@pytest.mark.parametrize(
    ("method", "path", "data", "named"),
    [
        ("GET", f"{JOBS}?status=queued&status=failed", None, "query parameter 'status' is repeated"),
        ("GET", f"{JOBS}?limit=1&limit=2", None, "query parameter 'limit'"),
        ("GET", f"{JOBS}?metadata.a=1&metadata.a=2", None, "query parameter 'metadata.a'"),
        ("GET", f"{JOB}/notes?after=1&after=2", None, "query parameter 'after'"),
        ("POST", JOBS, {"file": [wav(), wav("b.wav")]}, "form field 'file' is repeated"),
        ("POST", JOBS, {"file": wav(), "model": ["light", "piano"]}, "form field 'model'"),
        ("POST", JOBS, {"file": wav(), "webhook_events": ["a", "b"]}, "commas separate the values of a list"),
    ],
)
def test_what_is_sent_twice_is_refused(
    client: FlaskClient, method: str, path: str, data: dict[str, Any] | None, named: str
) -> None:
    assert_problem(client.open(path, method=method, data=data), 422, "invalid_request", named)


@pytest.mark.parametrize(
    "body", ['{"name": "a", "name": "b"}', '{"metadata": {"a": {"name": 1, "b": 2, "name": 3}}}']
)
def test_field_that_is_sent_twice_is_refused(client: FlaskClient, body: str) -> None:
    answer = client.patch(JOB, data=body, content_type="application/json")
    assert_problem(answer, 422, "invalid_request", "The field 'name' is repeated. Send it once.")
    form = post(client, metadata=body)
    assert_problem(form, 422, "invalid_request", "metadata: The field 'name' is repeated.")


@pytest.mark.parametrize(
    ("method", "path", "kind", "remedy"),
    [
        ("POST", JOBS, "text/plain", "curl -F file=@song.mp3"),
        ("POST", JOBS, "application/xml", "curl -F file=@song.mp3"),
        ("POST", JOBS, None, "curl -F file=@song.mp3"),
        ("PATCH", JOB, "text/plain", "Content-Type: application/json"),
        ("PATCH", JOB, None, "Content-Type: application/json"),
        ("POST", f"{JOB}/exports", "application/x-www-form-urlencoded", "Content-Type: application/json"),
        ("POST", f"{JOB}/shares", "audio/wav", "Content-Type: application/json"),
        ("POST", "/v1/uploads", "multipart/form-data; boundary=x", "Content-Type: application/json"),
        ("POST", f"{JOB}/cancel", "text/plain", "Send none"),
    ],
)
def test_body_of_another_type_is_refused(
    client: FlaskClient, method: str, path: str, kind: str | None, remedy: str
) -> None:
    answer = client.open(path, method=method, data=b'{"name": "x"}', content_type=kind)
    assert_problem(answer, 415, "unsupported_media_type", remedy)


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("POST", JOBS, "audio/wav"),
        ("POST", JOBS, "application/json"),
        ("PUT", f"/v1/uploads/{UUID(int=7)}/parts/1", "application/octet-stream"),
    ],
)
def test_compressed_body_is_refused(client: FlaskClient, method: str, path: str, kind: str) -> None:
    headers = {"Content-Encoding": "gzip"}
    answer = client.open(path, method=method, data=gzip.compress(b"{}"), content_type=kind, headers=headers)
    assert_problem(answer, 415, "unsupported_media_type", "Content-Encoding gzip")


@pytest.mark.parametrize(
    ("method", "path"), [("POST", f"{JOB}/cancel"), ("POST", f"{JOB}/retry"), ("DELETE", JOB)]
)
def test_fields_for_a_call_without_any_are_refused(client: FlaskClient, method: str, path: str) -> None:
    answer = client.open(path, method=method, json={"force": True})
    assert_problem(answer, 422, "invalid_request", "Unknown field 'force'. It takes none.")
    assert_problem(client.open(path, method=method, json={}), 404, "not_found")


def test_empty_fields_of_a_form_are_as_if_left_out(client: FlaskClient) -> None:
    job = accepted(client, model="", options="", metadata="")
    assert (job["model"], job["options"], job["metadata"]) == ("basic_pitch", {}, {})


@pytest.mark.parametrize(
    "time",
    ["9999-12-31T23:59:59-23:00", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00%2B23:00", "0001-01-01T00:00:00Z"],
)
def test_times_at_the_ends_of_the_calendar_are_always_and_never(client: FlaskClient, time: str) -> None:
    accepted(client)
    assert len(client.get(f"{JOBS}?created_after={time}").json["items"]) == (time < "2000")
    assert len(client.get(f"{JOBS}?created_before={time}").json["items"]) == (time > "2000")


def test_plus_of_a_time_may_be_left_unencoded(client: FlaskClient) -> None:
    accepted(client)
    for time, found in (
        ("2020-01-01T12:00:00.5+01:00", 1),
        ("2020-01-01 12:00+14:00", 1),
        ("2199-01-01T00:00:00+00:00", 0),
    ):
        assert len(client.get(f"{JOBS}?created_after={time}").json["items"]) == found, time
    assert_problem(client.get(f"{JOBS}?created_after=2020-01-01 12:00:00"), 422, "invalid_request", "timezone")


def test_names_are_found_in_any_case_of_any_script(client: FlaskClient) -> None:
    accepted(client, name="Größe ÉTUDE Ω.wav")
    for part in ("GRÖSSE"[:3], "étude", "ω", "ÉTUDE"):
        assert len(client.get(JOBS, query_string={"q": part}).json["items"]) == 1, part
    assert client.get(JOBS, query_string={"q": "etude"}).json["items"] == []
    assert_problem(client.get(JOBS, query_string={"q": "a\0b"}), 422, "invalid_request", "NUL")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (f"{JOB}/shares", {"expires_in": True}),
        (f"{JOB}/shares", {"expires_in": "60"}),
        ("/v1/uploads", {"name": "a.wav", "size": True}),
        ("/v1/uploads", {"name": "a.wav", "size": "12"}),
        ("/v1/uploads", {"name": "\u0001 \u202e", "size": 12}),
    ],
)
def test_values_of_another_type_are_refused(client: FlaskClient, path: str, body: dict[str, Any]) -> None:
    assert_problem(client.post(path, json=body), 422, "invalid_request")


@pytest.mark.parametrize(
    ("method", "path"), [("PATCH", JOB), ("POST", JOBS), ("POST", "/v1/session"), ("PUT", f"{JOB}/corrections")]
)
@pytest.mark.parametrize("body", [b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 100_000 + b"1" + b"}" * 100_000])
def test_json_without_end_of_nesting_is_malformed(
    client: FlaskClient, method: str, path: str, body: bytes
) -> None:
    answer = client.open(path, method=method, data=body, content_type="application/json")
    assert_problem(answer, 422, "invalid_request", "not valid JSON")


@pytest.mark.parametrize("field", ["source_url", "webhook_url"])
def test_refused_address_is_named_by_its_field(client: FlaskClient, field: str) -> None:
    body = {"source_url": "https://example.org/a.mp3", field: "ftp://example.org/a"}
    assert_problem(client.post(JOBS, json=body), 422, "address_refused", f"{field}: The URL must begin with")


def test_repeated_request_finds_that_the_job_has_ended(
    client: FlaskClient, sessions: Sessions, settings: Settings
) -> None:
    first = post(client, headers={"Idempotency-Key": "once"})
    finish(sessions, make_storage(settings), first.json["id"])
    again = post(client, headers={"Idempotency-Key": "once"})
    waited = post(client, headers={"Idempotency-Key": "once", "Prefer": "wait=5"})
    assert [answer.status_code for answer in (first, again, waited)] == [202, 202, 200]
    assert {answer.headers["Location"] for answer in (first, again, waited)} == {first.headers["Location"]}
    assert (again.json["status"], "Retry-After" in again.headers) == ("succeeded", False)


# --- conditions and ranges (RFC 9110) -----------------------------------------------------------------------


def audio(client: FlaskClient, song: str, method: str = "GET", **headers: str) -> TestResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.open(f"{song}/audio", method=method, headers=named)


@pytest.mark.parametrize("ranges", ["items=0-1", "bytes=0-0,5-6", "bytes=-1,0-0"])
def test_range_of_another_kind_is_ignored(client: FlaskClient, song: str, ranges: str) -> None:
    answer = audio(client, song, Range=ranges)
    assert (answer.status_code, len(answer.data)) == (200, 200)


@pytest.mark.parametrize("ranges", ["bytes=200-", "bytes=-0", "bytes=x", "bytes=5-2"])
def test_range_outside_of_a_file_is_answered_with_its_length(client: FlaskClient, song: str, ranges: str) -> None:
    answer = audio(client, song, Range=ranges)
    assert_problem(answer, 416, "range_not_satisfiable")
    assert answer.headers["Content-Range"] == "bytes */200"


def test_conditions_come_before_ranges(client: FlaskClient, song: str) -> None:
    etag = audio(client, song).headers["ETag"]
    assert audio(client, song, Range="bytes=0-9", If_None_Match=etag).status_code == 304
    assert audio(client, song, Range="bytes=0-9", If_None_Match='"other"').status_code == 206
    assert audio(client, song, Range="bytes=0-9", If_Range=f"W/{etag}").status_code == 200
    assert audio(client, song, Range="bytes=0-9", If_Match=etag).status_code == 206
    assert_problem(audio(client, song, Range="bytes=0-9", If_Match='"other"'), 412, "precondition_failed")
    assert_problem(client.get(song, headers={"If-Match": '"other"'}), 412, "precondition_failed")


def test_head_describes_the_whole_file(client: FlaskClient, song: str) -> None:
    answer = audio(client, song, "HEAD", Range="bytes=0-9")
    assert (answer.status_code, answer.headers["Content-Length"], answer.data) == (200, "200", b"")


def test_change_of_what_has_changed_meanwhile_is_refused(client: FlaskClient, song: str) -> None:
    seen = client.get(song).headers["ETag"]
    changed = client.patch(song, json={"name": "First"}, headers={"If-Match": seen})
    assert (changed.status_code, changed.json["filename"]) == (200, "First")
    assert changed.headers["ETag"] == client.get(song).headers["ETag"]
    late = client.patch(song, json={"name": "Second"}, headers={"If-Match": seen})
    assert_problem(late, 412, "precondition_failed", "has changed")
    assert_problem(client.delete(song, headers={"If-Match": seen}), 412, "precondition_failed")
    assert client.get(song).json["filename"] == "First"
    assert client.patch(song, json={"name": "Third"}, headers={"If-Match": "*"}).status_code == 200
    assert client.delete(song, headers={"If-Match": client.get(song).headers["ETag"]}).status_code == 204


def test_answers_of_the_api_are_not_stored_by_caches(client: FlaskClient, song: str) -> None:
    for path in (JOBS, f"{song}/artifacts", f"{song}/shares", "/v1/session", "/v1/models", JOB, "/nope"):
        assert client.get(path).headers["Cache-Control"] == "no-store", path
    assert client.get(song).headers["Cache-Control"] == "no-cache"  # kept, and revalidated with its ETag


def test_caches_know_that_long_text_depends_on_the_coding(client: FlaskClient) -> None:
    plain, packed = (client.get("/v1/models", headers={"Accept-Encoding": kind}) for kind in ("identity", "gzip"))
    assert [answer.headers.get("Vary") for answer in (plain, packed)] == ["Accept-Encoding"] * 2
    assert json.loads(gzip.decompress(packed.data)) == plain.json


def test_sha256_of_another_file_does_not_remove_an_upload(client: FlaskClient) -> None:
    upload = client.post("/v1/uploads", json={"name": "a.wav", "size": 4, "sha256": "a" * 64}).json
    address = f"/v1/uploads/{upload['id']}"
    answer = client.post(f"{address}/complete", json={"sha256": "b" * 64})
    assert_problem(answer, 422, "checksum_mismatch", "begun with another sha256")
    assert client.get(address).json["status"] == "uploading"


def test_whole_number_may_be_written_with_a_point(client: FlaskClient) -> None:
    answer = client.post("/v1/uploads", data=b'{"name": "a.wav", "size": 12.0}', content_type="application/json")
    assert (answer.status_code, answer.json["size"]) == (201, 12)


def test_archive_of_files_without_a_name_is_refused(client: FlaskClient) -> None:
    assert_problem(client.get(f"{JOBS}/archive?files="), 422, "invalid_request", "files")
