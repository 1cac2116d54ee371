"""The API without a worker: what it accepts, what it rejects, and with which messages."""

from __future__ import annotations

import gzip
import io
import json
import re
import threading
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from sqlalchemy import insert, update
from uuid6 import uuid7
from werkzeug.test import TestResponse

from checkpoints.catalog import BUILT_IN
from shared import work, worker_registry
from shared.config import Settings
from shared.db import Sessions, make_engine, make_sessions, now_plus
from shared.errors import StorageUnavailable
from shared.kinds import Result
from shared.model_reports import report_model
from shared.queue import InMemoryQueue
from shared.storage import ObjectStorage, make_storage, result_prefix
from shared.tables import Job, Worker
from tests.work import add_split_job, complete, fail, must_claim
from web import create_app
from web.errors import LicenseNotAdmitted, UnknownModel
from web.job_state import NO_WEIGHTS, NO_WORKER, PAUSED
from web.uploads import display_name


class Client(FlaskClient):
    """Reads every response to its end, so that no file stays open."""

    def open(self, *args: Any, buffered: bool = True, **kwargs: Any) -> TestResponse:
        return super().open(*args, buffered=buffered, **kwargs)


def make_client(settings: Settings, **parts: Any) -> FlaskClient:
    app = create_app(settings, **parts)
    app.test_client_class = Client
    return app.test_client()


@pytest.fixture
def queue() -> InMemoryQueue:
    return InMemoryQueue()


@pytest.fixture
def storage(settings: Settings) -> ObjectStorage:
    return make_storage(settings)


@pytest.fixture
def client(settings: Settings, sessions: Sessions, storage: ObjectStorage, queue: InMemoryQueue) -> FlaskClient:
    return make_client(settings, sessions=sessions, storage=storage, queue=queue)


def post(client: FlaskClient, content: bytes = b"RIFF", name: str = "song.wav", **form: Any) -> TestResponse:
    headers = form.pop("headers", None)
    data = {"file": (io.BytesIO(content), name), **form}
    return client.post("/v1/transcriptions", data=data, headers=headers)


def accepted(client: FlaskClient, **form: Any) -> dict[str, Any]:
    response = post(client, **form)
    assert response.status_code == 202, response.text
    return dict(response.json or {})


def assert_problem(response: TestResponse, status: int, code: str, message: str = "") -> None:
    assert response.content_type == "application/problem+json"
    problem = json.loads(response.text)
    assert (response.status_code, problem["status"], problem["code"]) == (status, status, code)
    assert problem["type"] == f"/problems/{code}"
    assert message in problem["detail"]


def finish(sessions: Sessions, storage: ObjectStorage, job_id: str) -> None:
    """Complete a job as a worker does, without a model."""
    claim = must_claim(sessions, UUID(job_id))
    key = result_prefix(claim.job_id, claim.attempt) + "transcription.mid"
    stored = storage.put(key, io.BytesIO(b"MThd"), content_type="audio/midi")
    artifact = {"name": "transcription.mid", "content_type": "audio/midi", "size": 4, "sha256": stored.sha256}
    with sessions.begin() as session:
        result = Result(artifacts=[artifact | {"key": key}], note_count=1, audio_seconds=2.0)
        assert work.complete(session, claim, result=result)


def test_an_accepted_recording_is_stored_queued_and_announced(
    client: FlaskClient, queue: InMemoryQueue, storage: ObjectStorage
) -> None:
    response = post(client, b"RIFFsound", metadata='{"album": "Demo"}', options='{"onset_threshold": 0.4}')
    job = response.json
    assert response.status_code == 202
    assert response.headers["Location"] == f"/v1/transcriptions/{job['id']}"
    assert UUID(job["id"]).version == 7
    assert (job["status"], job["model"], job["filename"]) == ("queued", "basic_pitch", "song.wav")
    assert (job["metadata"], job["options"]) == ({"album": "Demo"}, {"onset_threshold": 0.4})
    assert job["queue"] == {"position": 1, "eta_seconds": None}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", job["created_at"])
    assert queue.notified == 1
    with storage.open(f"uploads/{job['id']}/audio") as stream:
        assert stream.read() == b"RIFFsound"


@pytest.mark.parametrize(
    ("method", "path", "form", "words"),
    [
        ("POST", "/v1/transcriptions", {"metdata": "{}"}, "form field 'metdata'. Did you mean 'metadata'?"),
        (
            "POST",
            "/v1/transcriptions",
            {"color": "red"},
            "Known: file, metadata, model, options, webhook_events, webhook_url.",
        ),
        ("POST", "/v1/transcriptions?wait=5", {}, "query parameter 'wait'. It takes none."),
        ("GET", "/v1/transcriptions?state=queued", None, "query parameter 'state'"),
        ("GET", "/v1/transcriptions?limits=3", None, "Did you mean 'limit'?"),
        ("GET", "/v1/models?foo=1", None, "query parameter 'foo'. It takes none."),
        ("DELETE", f"/v1/transcriptions/{UUID(int=7)}?force=1", None, "query parameter 'force'"),
    ],
)
def test_unknown_parameters_and_fields_are_refused_by_name(
    client: FlaskClient, method: str, path: str, form: dict[str, str] | None, words: str
) -> None:
    data = None if form is None else {"file": (io.BytesIO(b"RIFF"), "a.wav"), **form}
    assert_problem(client.open(path, method=method, data=data), 422, "invalid_request", words)
    assert client.get("/v1/transcriptions").json["items"] == []


@pytest.mark.parametrize("kind", ["audio/mpeg", "audio/x-wav", "video/mp4", "application/octet-stream"])
def test_recording_may_be_the_body(client: FlaskClient, storage: ObjectStorage, kind: str) -> None:
    query = {
        "model": "light",
        "options": '{"onset_threshold": 0.4}',
        "metadata": '{"a": 1}',
        "filename": "F ü.mp3",
    }
    answer = client.post("/v1/transcriptions", data=b"ID3 sound", content_type=kind, query_string=query)
    assert answer.status_code == 202, answer.text
    job = answer.json
    assert (job["model"], job["filename"], job["metadata"]) == ("basic_pitch", "F ü.mp3", {"a": 1})
    assert job["options"] == {"onset_threshold": 0.4}
    with storage.open(f"uploads/{job['id']}/audio") as stream:
        assert stream.read() == b"ID3 sound"
    bare = client.post("/v1/transcriptions", data=b"ID3", content_type=kind)
    assert (bare.status_code, bare.json["filename"]) == (202, "recording")
    empty = client.post("/v1/transcriptions", data=b"", content_type=kind)
    assert_problem(empty, 422, "empty_upload")
    misspelled = client.post("/v1/transcriptions?modell=light", data=b"ID3", content_type=kind)
    assert_problem(misspelled, 422, "invalid_request", "Did you mean 'model'?")


def test_a_file_in_another_field_is_refused(client: FlaskClient) -> None:
    data = {"file": (io.BytesIO(b"RIFF"), "a.wav"), "cover": (io.BytesIO(b"PNG"), "a.png")}
    assert_problem(client.post("/v1/transcriptions", data=data), 422, "invalid_request", "form field 'cover'")


def test_model_can_be_chosen_by_alias(client: FlaskClient) -> None:
    assert accepted(client, model="light")["model"] == "basic_pitch"


@pytest.mark.parametrize(
    ("form", "code", "message"),
    [
        ({"model": "nonesuch"}, "unknown_model", "Unknown model 'nonesuch'. Available models: auto, basic_pitch"),
        ({"model": "mt3_t5x"}, "unknown_model", "Unknown model 'mt3_t5x'"),  # a checkpoint without a network
        (
            {"options": '{"volume": 11}'},
            "invalid_option",
            "takes no option 'volume'; it takes: single_instrument, onset_threshold",
        ),
        ({"options": '{"onset_threshold": 2}'}, "invalid_option", "less than or equal to 1"),
        ({"options": "loud"}, "invalid_request", "options: Invalid JSON"),
        ({"options": "[1]"}, "invalid_request", "options"),
        ({"metadata": "[1]"}, "invalid_request", "metadata must be a JSON object"),
        ({"metadata": '{"a": "\\u0000"}'}, "invalid_request", "NUL"),
        ({"metadata": '{"a": NaN}'}, "invalid_request", "metadata must not contain NaN or infinite numbers."),
        ({"metadata": '{"a": 1e999}'}, "invalid_request", "metadata must not contain NaN or infinite numbers."),
        ({"metadata": '{"a": ' + "[" * 5000 + "]" * 5000 + "}"}, "invalid_request", "metadata must"),
        ({"metadata": json.dumps({"a": "x" * 20_000})}, "invalid_request", "metadata"),
        ({"content": b""}, "empty_upload", "The file is empty"),
        (
            {"headers": {"Idempotency-Key": "k" * 300}},
            "invalid_request",
            "idempotency_key: String should have at most 255",
        ),
    ],
)
def test_invalid_request_is_rejected_with_a_message_and_stores_nothing(
    client: FlaskClient, queue: InMemoryQueue, settings: Settings, form: dict[str, Any], code: str, message: str
) -> None:
    assert_problem(post(client, **form), 422, code, message)
    assert queue.notified == 0
    assert client.get("/v1/transcriptions").json["items"] == []
    uploads = Path(settings.storage_url.removeprefix("file://"))
    assert [path for path in uploads.rglob("*") if path.is_file()] == []


def test_request_without_a_file_is_rejected_with_an_example(client: FlaskClient) -> None:
    message = "file: send the recording as a file of a form, for example with curl -F file=@song.mp3"
    message += ", or as the body with its media type, with curl -H 'Content-Type: audio/mpeg' --data-binary"
    assert_problem(client.post("/v1/transcriptions"), 422, "invalid_request", message)
    response = client.post("/v1/transcriptions", data={"file": "not a file"})
    assert_problem(response, 422, "invalid_request", message)


def test_upload_over_the_limit_is_rejected(sessions: Sessions, settings: Settings) -> None:
    settings = settings.model_copy(update={"max_upload_bytes": 2_000_000})
    client = make_client(settings, sessions=sessions, queue=InMemoryQueue())
    response = client.post(
        "/v1/transcriptions", data=bytes(3_000_000), content_type="multipart/form-data; boundary=b"
    )
    assert_problem(response, 413, "upload_too_large", "exceeds the limit of 2 MB")


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("a\u202egpj.mp3", "agpj.mp3"),
        ("x" * 4000 + ".wav", "x" * 255),
        ("Müller – Lied №1.flac", "Müller – Lied №1.flac"),
    ],
)
def test_file_name_is_sanitized_for_display(client: FlaskClient, sent: str, shown: str) -> None:
    job = accepted(client, name=sent)
    assert job["filename"] == shown


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        (b"M\xfcller.wav", "Müller.wav"),  # Latin-1
        (b"\x93quoted\x94 \x96 \xe9.wav", "“quoted” – é.wav"),  # Windows
        (b"\x81\x8d\xff.wav", "\ufffd\ufffdÿ.wav"),  # neither: the characters that decode
        ("Жizнь.wav".encode(), "Жizнь.wav"),
    ],
)
def test_file_name_in_a_legacy_encoding_is_decoded(client: FlaskClient, sent: bytes, shown: str) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="' + sent + b'"\r\n\r\n'
    content_type = "multipart/form-data; boundary=b"
    response = client.post("/v1/transcriptions", data=head + b"RIFF\r\n--b--\r\n", content_type=content_type)
    assert (response.status_code, response.json["filename"]) == (202, shown)


def test_form_with_oversized_fields_is_rejected_with_the_limit_of_fields(client: FlaskClient) -> None:
    """The forms are far below the limit for uploads."""
    many = {f"field{n}": 1 for n in range(200)}
    for lengths in ({"metadata": 600_000}, {"unknown": 600_000}, {"file": 2_000_000}, many):
        form = "".join(
            f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{"x" * length}\r\n'
            for name, length in lengths.items()
        )
        content_type = "multipart/form-data; boundary=b"
        response = client.post("/v1/transcriptions", data=form + "--b--\r\n", content_type=content_type)
        assert_problem(response, 413, "form_too_large", "A form field exceeds 500 kB, or the form has more")
    assert post(client, metadata='{"a": "' + "x" * 16_000 + '"}').status_code == 202


def test_windows_path_is_reduced_to_its_last_component() -> None:
    assert display_name("C:\\Music\\song.mp3") == "song.mp3"
    assert display_name(" ") is None


def test_repeated_request_with_the_same_key_creates_one_job(
    client: FlaskClient, queue: InMemoryQueue, settings: Settings
) -> None:
    headers = {"Idempotency-Key": "once"}
    first, second = accepted(client, headers=headers), accepted(client, headers=headers)
    assert first["id"] == second["id"]
    assert queue.notified == 1
    uploads = Path(settings.storage_url.removeprefix("file://")) / "uploads"
    assert len([path for path in uploads.rglob("*") if path.is_file()]) == 1
    assert_problem(post(client, b"other", headers=headers), 422, "idempotency_conflict", "Use a new key")


def test_concurrent_requests_with_the_same_key_create_one_job(client: FlaskClient) -> None:
    ids: list[str] = []

    def send() -> None:
        ids.append(accepted(client.application.test_client(), headers={"Idempotency-Key": "k"})["id"])

    threads = [threading.Thread(target=send) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 12
    assert len(set(ids)) == 1


def test_polling_uses_etag_and_retry_after(
    client: FlaskClient, sessions: Sessions, storage: ObjectStorage
) -> None:
    address = f"/v1/transcriptions/{accepted(client)['id']}"
    response = client.get(address)
    assert response.headers["Retry-After"] == "1"
    etag = response.headers["ETag"]
    assert client.get(address, headers={"If-None-Match": etag}).status_code == 304
    finish(sessions, storage, address.rsplit("/", 1)[1])
    done = client.get(address, headers={"If-None-Match": etag})
    assert done.status_code == 200
    assert "Retry-After" not in done.headers
    assert done.json["progress"] == {
        "audio_seconds_done": 2.0,
        "audio_seconds_total": 2.0,
        "fraction": 1.0,
        "eta_seconds": None,
        "download": None,
        "shards_done": None,
        "shards_total": None,
    }


def test_artifact_is_downloaded_under_the_name_of_the_recording(
    client: FlaskClient, sessions: Sessions, storage: ObjectStorage
) -> None:
    job_id = accepted(client, name="Für Elise.flac")["id"]
    address = f"/v1/transcriptions/{job_id}/artifacts/transcription.mid"
    assert_problem(client.get(address), 404, "not_found", "Its status is queued")
    finish(sessions, storage, job_id)
    response = client.get(address)
    assert (response.status_code, response.data, response.mimetype) == (200, b"MThd", "audio/midi")
    assert "filename*=UTF-8''F%C3%BCr%20Elise.mid" in response.headers["Content-Disposition"]
    assert response.headers["Content-Disposition"].startswith("attachment")
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert_problem(client.get(address.replace(".mid", ".exe")), 404, "not_found")
    assert_problem(client.get(f"/v1/transcriptions/{job_id}/artifacts/..%2f..%2fetc%2fpasswd"), 404, "not_found")


def test_files_are_sent_in_ranges(client: FlaskClient, sessions: Sessions, storage: ObjectStorage) -> None:
    job_id = accepted(client, content=bytes(range(200)), name="Für Elise.flac")["id"]
    whole = client.get(f"/v1/transcriptions/{job_id}/audio")
    assert (whole.status_code, whole.data, whole.mimetype) == (200, bytes(range(200)), "audio/flac")
    assert (whole.headers["Accept-Ranges"], whole.headers["Content-Length"]) == ("bytes", "200")
    assert whole.headers["Content-Disposition"].startswith('inline; filename="Fur Elise.flac"')
    etag = whole.headers["ETag"]
    for ranges, content, where in (
        ("bytes=10-19", range(10, 20), "10-19"),
        ("bytes=-5", range(195, 200), "195-199"),
    ):
        part = client.get(f"/v1/transcriptions/{job_id}/audio", headers={"Range": ranges, "If-Range": etag})
        assert (part.status_code, part.data) == (206, bytes(content))
        assert part.headers["Content-Range"] == f"bytes {where}/200"
        assert part.headers["Content-Length"] == str(len(content))
    stale = client.get(f"/v1/transcriptions/{job_id}/audio", headers={"Range": "bytes=1-2", "If-Range": '"other"'})
    assert (stale.status_code, len(stale.data)) == (200, 200)
    beyond = client.get(f"/v1/transcriptions/{job_id}/audio", headers={"Range": "bytes=500-"})
    assert beyond.status_code == 416
    assert client.get(f"/v1/transcriptions/{job_id}/audio", headers={"If-None-Match": etag}).status_code == 304
    finish(sessions, storage, job_id)
    midi = client.get(f"/v1/transcriptions/{job_id}/artifacts/transcription.mid", headers={"Range": "bytes=1-2"})
    assert (midi.status_code, midi.data) == (206, b"Th")
    page = accepted(client, name="page.html")["id"]
    assert client.get(f"/v1/transcriptions/{page}/audio").mimetype == "application/octet-stream"


def test_long_text_is_compressed_for_clients_that_accept_it(
    client: FlaskClient, sessions: Sessions, storage: ObjectStorage
) -> None:
    job_id = accepted(client)["id"]
    claim, key = must_claim(sessions, UUID(job_id)), f"results/{job_id}/1/notes.json"
    notes = json.dumps([{"pitch": n % 88} for n in range(10_000)]).encode()
    stored = storage.put(key, io.BytesIO(notes), content_type="application/json")
    artifact = {"name": "notes.json", "content_type": "application/json", "size": len(notes), "key": key}
    with sessions.begin() as session:
        result = Result(artifacts=[artifact | {"sha256": stored.sha256}], note_count=1, audio_seconds=2.0)
        assert work.complete(session, claim, result=result)
    address, accept = f"/v1/transcriptions/{job_id}/artifacts/notes.json", {"Accept-Encoding": "gzip"}
    packed = client.get(address, headers=accept)
    assert packed.headers["Content-Encoding"] == "gzip"
    assert "Accept-Encoding" in packed.headers["Vary"]
    assert len(packed.data) < len(notes) / 10
    assert gzip.decompress(packed.data) == notes
    assert client.get(address, headers=accept | {"If-None-Match": packed.headers["ETag"]}).status_code == 304
    assert client.get(address).data == notes
    part = client.get(address, headers=accept | {"Range": "bytes=0-9"})
    assert (part.status_code, part.data) == (206, notes[:10])
    models = client.get("/v1/models", headers=accept)
    assert models.headers["Content-Encoding"] == "gzip"
    assert json.loads(gzip.decompress(models.data)) == client.get("/v1/models").json
    assert "Content-Encoding" not in client.get(f"/v1/transcriptions/{job_id}", headers=accept).headers, "short"


def test_list_is_filtered_and_paginated(client: FlaskClient, sessions: Sessions, storage: ObjectStorage) -> None:
    ids = [accepted(client)["id"] for _ in range(5)]
    finish(sessions, storage, ids[0])
    page = client.get("/v1/transcriptions?limit=2")
    assert [job["id"] for job in page.json["items"]] == ids[:2:-1]
    following = re.match(r'<([^>]+)>; rel="next"', page.headers["Link"])
    assert following is not None
    assert [job["id"] for job in client.get(following[1]).json["items"]] == ids[2:0:-1]
    succeeded = client.get("/v1/transcriptions?status=succeeded&model=light").json
    assert ([job["id"] for job in succeeded["items"]], succeeded["next_cursor"]) == ([ids[0]], None)


def test_list_is_filtered_by_time_name_and_metadata(client: FlaskClient) -> None:
    odd = {"a b": "x", "$.path": "z", "n": 7, "o'k": "100%"}
    first = accepted(client, name="Nocturne_Op9.wav", metadata=json.dumps(odd))
    second = accepted(client, name="100% Étude.mp3", metadata='{"album": "Demo"}')

    def found(**query: str) -> list[str]:
        answer = client.get("/v1/transcriptions", query_string=query)
        assert answer.status_code == 200, answer.text
        return [job["id"] for job in answer.json["items"]]

    both = [second["id"], first["id"]]
    assert found(status="queued,processing") == found(status="failed, queued") == both
    assert found(status="failed,canceled") == []
    assert found(q="nocturne") == found(q="_op9") == [first["id"]]
    assert found(q="%") == [second["id"]], "no wildcard"
    for key, value in odd.items():
        assert found(**{f"metadata.{key}": str(value)}) == [first["id"]], key
    assert found(**{"metadata.album": "Demo", "metadata.n": "7"}) == found(**{"metadata.album": "demo"}) == []
    assert found(created_before=second["created_at"]) == [first["id"]]
    assert found(created_after=first["created_at"]) == [second["id"]]
    assert found(created_after="2020-01-01T00:00:00+02:00") == both
    assert found(created_after="9999-12-31T23:59:59Z") == found(created_before="0001-01-02T00:00:00Z") == []


def test_a_job_is_renamed_and_its_metadata_replaced(
    client: FlaskClient, sessions: Sessions, storage: ObjectStorage
) -> None:
    job = accepted(client, metadata='{"album": "Demo"}')
    address = f"/v1/transcriptions/{job['id']}"
    assert client.patch(address, json={"name": "folder/Prelude.wav"}).json["filename"] == "Prelude.wav"
    changed = client.patch(address, json={"metadata": {"take": 2}}).json
    assert (changed["filename"], changed["metadata"]) == ("Prelude.wav", {"take": 2})
    assert client.patch(address, json={}).json == changed
    finish(sessions, storage, job["id"])
    midi = client.get(f"{address}/artifacts/transcription.mid")
    assert "Prelude.mid" in midi.headers["Content-Disposition"]
    wrong: list[Any] = [{"status": "failed"}, {"name": ""}, {"name": "\x00"}, {"metadata": {"x": "\x00"}}, []]
    for body in [*wrong, {"metadata": 3}]:
        assert_problem(client.patch(address, json=body), 422, "invalid_request")
    assert_problem(client.patch(address, json={"metadata": {"x": "y" * 20_000}}), 422, "invalid_request", "16384")
    assert_problem(client.patch(f"/v1/transcriptions/{UUID(int=7)}", json={"name": "a"}), 404, "not_found")


def test_a_job_has_links_to_what_can_be_done(
    client: FlaskClient, sessions: Sessions, storage: ObjectStorage
) -> None:
    job = accepted(client)
    address = f"/v1/transcriptions/{job['id']}"
    same = {"self": address, "artifacts": f"{address}/artifacts", "events": f"{address}/events"}
    assert job["links"] == {**same, "cancel": f"{address}/cancel", "retry": None}
    assert client.get(job["links"]["artifacts"]).json == {"items": []}
    assert job["expires_at"] is None
    (listed,) = client.get("/v1/transcriptions").json["items"]
    assert listed["queue"]["position"] == 1
    canceled = client.post(job["links"]["cancel"]).json
    assert canceled["links"] == {**same, "cancel": None, "retry": f"{address}/retry"}
    client.post(canceled["links"]["retry"])
    finish(sessions, storage, job["id"])
    ended = client.get(address).json
    assert ended["links"] == {**same, "cancel": None, "retry": None}
    assert client.get(ended["links"]["artifacts"]).json["items"] == ended["artifacts"]
    assert [each["name"] for each in ended["artifacts"]] == ["transcription.mid"]
    kept = datetime.fromisoformat(ended["expires_at"]) - datetime.fromisoformat(ended["finished_at"])
    assert kept == timedelta(days=30)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("created_after=yesterday", "invalid_request"),
        ("created_after=2026-01-01T00:00:00", "invalid_request"),
        ("q=", "invalid_request"),
        ("metadata.%22=1", "invalid_request"),
        ("metadata.a=%00", "invalid_request"),
        ("status=", "invalid_request"),
        ("status=done", "invalid_request"),
        ("limit=0", "invalid_request"),
        ("cursor=x", "invalid_cursor"),
        ("model=nonesuch", "unknown_model"),
        ("model=%00", "unknown_model"),
    ],
)
def test_invalid_list_query_is_rejected(client: FlaskClient, query: str, code: str) -> None:
    assert_problem(client.get(f"/v1/transcriptions?{query}"), 422, code)


def test_wrong_value_of_several_is_named_by_its_parameter(client: FlaskClient) -> None:
    answer = client.get("/v1/transcriptions?status=failed,done,gone")
    assert_problem(answer, 422, "invalid_request", "status: Input should be 'queued', 'processing', 'succeeded'")
    assert answer.json["detail"].count("status: ") == 1
    assert set(answer.json["errors"]) == {"status.1", "status.2"}


def test_cancel_retry_and_delete(client: FlaskClient, queue: InMemoryQueue, settings: Settings) -> None:
    address = f"/v1/transcriptions/{accepted(client)['id']}"
    assert_problem(client.post(f"{address}/retry"), 409, "state_conflict", "This one is queued")
    canceled = client.post(f"{address}/cancel")
    assert (canceled.status_code, canceled.json["status"]) == (202, "canceled")
    assert client.post(f"{address}/cancel").status_code == 202
    retried = client.post(f"{address}/retry")
    assert (retried.status_code, retried.json["status"], queue.notified) == (202, "queued", 2)
    assert client.delete(address).status_code == 204
    assert_problem(client.get(address), 404, "not_found")
    assert_problem(client.delete(address), 404, "not_found")
    folder = Path(settings.storage_url.removeprefix("file://"))
    assert [path for path in folder.rglob("*") if path.is_file()] == []


def test_succeeded_job_cannot_be_canceled(client: FlaskClient, sessions: Sessions, storage: ObjectStorage) -> None:
    job_id = accepted(client)["id"]
    finish(sessions, storage, job_id)
    assert_problem(client.post(f"/v1/transcriptions/{job_id}/cancel"), 409, "state_conflict", "already succeeded")


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_unknown_or_malformed_id_is_not_found(client: FlaskClient, method: str) -> None:
    for job_id in ("01a204c3-1a0c-71ba-876d-62c31e0881c4", "1", "%00", "..%2f"):
        response = client.open(f"/v1/transcriptions/{job_id}", method=method)
        assert_problem(response, 404, "not_found")


def test_failed_job_has_an_error(client: FlaskClient, sessions: Sessions) -> None:
    job_id = accepted(client)["id"]
    claim = must_claim(sessions, UUID(job_id))
    with sessions.begin() as session:
        work.fail(session, claim, code="undecodable_audio", detail="No.", retry_after_seconds=None, max_attempts=3)
    job = client.get(f"/v1/transcriptions/{job_id}").json
    assert (job["status"], job["error"]) == ("failed", {"code": "undecodable_audio", "detail": "No."})


def test_a_job_says_why_its_last_attempt_failed_until_it_ends(
    client: FlaskClient, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.line.LINE_SECONDS", 0)
    job_id = accepted(client)["id"]
    error = {"code": "out_of_memory", "detail": "The worker ran out of memory."}
    claim = must_claim(sessions, UUID(job_id))
    with sessions.begin() as session:
        worker_registry.register(session, "host:1")
        code, detail = error.values()
        work.fail(session, claim, code=code, detail=detail, retry_after_seconds=0, max_attempts=3)
    job = client.get(f"/v1/transcriptions/{job_id}").json
    assert (job["status"], job["error"], job["last_error"], job["hint"]) == ("queued", None, error, None)
    assert client.get("/v1/transcriptions").json["items"][0]["last_error"] == error
    again = must_claim(sessions, UUID(job_id))
    assert client.get(f"/v1/transcriptions/{job_id}").json["last_error"] == error
    with sessions.begin() as session:
        work.complete(session, again, result=Result([], note_count=0, audio_seconds=1))
    assert client.get(f"/v1/transcriptions/{job_id}").json["last_error"] is None


def test_a_part_of_a_long_recording_says_why_its_last_attempt_failed(
    client: FlaskClient, sessions: Sessions
) -> None:
    job_id = add_split_job(sessions)
    for number in (0, 1):
        complete(sessions, must_claim(sessions, job_id, "shard", number))
    fail(sessions, must_claim(sessions, job_id, "shard", 2), retry_after=30)
    job = client.get(f"/v1/transcriptions/{job_id}").json
    assert (job["status"], job["last_error"]) == ("processing", {"code": "broken", "detail": "It broke."})


def test_a_job_that_no_worker_can_serve_has_a_hint(
    client: FlaskClient, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.line.LINE_SECONDS", 0)
    queued, split = UUID(accepted(client)["id"]), add_split_job(sessions)

    def hint(job_id: UUID) -> str | None:
        text: str | None = client.get(f"/v1/transcriptions/{job_id}").json["hint"]
        return text

    assert hint(queued) == hint(split) == NO_WORKER
    with sessions.begin() as session:
        worker_registry.register(session, "host:1")
    assert (hint(queued), hint(split)) == (None, PAUSED)
    must_claim(sessions, split, "shard", 0)
    assert hint(split) is None
    claim = must_claim(sessions, queued)
    with sessions.begin() as session:
        code = "checkpoint_download_failed"
        work.fail(session, claim, code=code, detail="No.", retry_after_seconds=60, max_attempts=3)
    assert hint(queued) == NO_WEIGHTS.format(model="basic_pitch")
    client.post(f"/v1/transcriptions/{queued}/cancel")
    assert hint(queued) is None


def test_models_include_what_workers_report(client: FlaskClient, sessions: Sessions) -> None:
    (model,) = (m for m in client.get("/v1/models").json["items"] if m["name"] == "basic_pitch")
    assert (model["installed"], model["default"], model["size"]) == (False, True, 230_444)
    assert model["license"] == "Apache-2.0"
    assert model["options"]["onset_threshold"]["default"] == 0.6
    assert list(model["options"])[:2] == ["single_instrument", "onset_threshold"], "in the order of the table"
    with sessions.begin() as session:
        report_model(session, "basic_pitch", installed=True, realtime_factor=48.123)
    model = client.get("/v1/models/light").json
    assert (model["name"], model["installed"], model["realtime_factor"]) == ("basic_pitch", True, 48.1)
    assert model["variant_of"] is None
    assert client.get("/v1/models/yourmt3_plus").json["variant_of"] == "yourmt3"
    assert_problem(client.get("/v1/models/nonesuch"), 404, "unknown_model")


def test_auto_is_mt3_as_soon_as_its_weights_are_installed(client: FlaskClient, sessions: Sessions) -> None:
    def models() -> dict[str, Any]:
        return {model["name"]: model for model in client.get("/v1/models").json["items"]}

    first = accepted(client, headers={"Idempotency-Key": "one"})
    assert first["model"] == accepted(client, model="auto")["model"] == "basic_pitch"
    download = {"bytes_done": 5, "bytes_total": 10, "bytes_per_second": 1, "waiting": False}
    with sessions.begin() as session:
        report_model(session, "mt3_pytorch", installed=False, download=download)
    assert accepted(client)["model"] == "basic_pitch"
    assert (models()["mt3_pytorch"]["download"], models()["basic_pitch"]["default"]) == (download, True)
    with sessions.begin() as session:
        report_model(session, "mt3_pytorch", installed=True)
    assert accepted(client)["model"] == accepted(client, model="auto")["model"] == "mt3_pytorch"
    assert (models()["mt3_pytorch"]["download"], models()["mt3_pytorch"]["default"]) == (None, True)
    assert client.get("/v1/models").json["default"] == "auto"
    assert client.get(f"/v1/transcriptions/{first['id']}").json["model"] == "basic_pitch", "decided once"
    assert accepted(client, headers={"Idempotency-Key": "one"})["id"] == first["id"], "the same request"
    with sessions.begin() as session:
        report_model(session, "mt3_pytorch", installed=False, error="The download failed.")
    assert accepted(client)["model"] == "basic_pitch"
    assert models()["mt3_pytorch"]["error"] == "The download failed."


def test_only_models_for_commercial_use_are_admitted_if_the_operator_asks(
    settings: Settings, sessions: Sessions, storage: ObjectStorage, tmp_path: Path
) -> None:
    text = BUILT_IN.read_text()
    start = text.index("[mt3_pytorch]")
    text = text[:start] + text[start:].replace('license = "Apache-2.0"', 'license = "CC-BY-NC-4.0"', 1)
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(text)
    commercial = settings.model_copy(update={"checkpoint_catalog": catalog, "licenses": "commercial"})
    client = make_client(commercial, sessions=sessions, storage=storage, queue=InMemoryQueue())
    assert_problem(post(client, model="mt3_pytorch"), 422, "license_not_admitted", "mt3_pytorch (CC-BY-NC-4.0)")
    assert_problem(
        post(client, model="accurate"), 422, "license_not_admitted", "Available models: auto, basic_pitch"
    )
    assert "mt3_pytorch" not in {model["name"] for model in client.get("/v1/models").json["items"]}
    with sessions.begin() as session:
        report_model(session, "mt3_pytorch", installed=True)
    assert accepted(client)["model"] == "basic_pitch", "auto chooses among those admitted"
    any_license = make_client(
        settings.model_copy(update={"checkpoint_catalog": catalog}), sessions=sessions, storage=storage
    )
    (model,) = [m for m in any_license.get("/v1/models").json["items"] if m["name"] == "mt3_pytorch"]
    assert (model["license"], model["commercial_use"]) == ("CC-BY-NC-4.0", False)
    with pytest.raises(LicenseNotAdmitted, match="mt3_pytorch"):
        create_app(commercial.model_copy(update={"default_model": "mt3_pytorch"}), queue=InMemoryQueue())


def test_readiness_names_the_unavailable_dependency(client: FlaskClient) -> None:
    response = client.get("/readyz")
    assert response.status_code == 503
    assert response.json["checks"] == {"database": "ok", "queue": "unavailable", "storage": "ok"}
    assert client.get("/livez").json == {"status": "alive"}


def test_readiness_lists_workers_but_does_not_require_them(client: FlaskClient, sessions: Sessions) -> None:
    assert client.get("/readyz").json["workers"] == {"present": 0, "last_seen_at": None}
    with sessions.begin() as session:
        worker_registry.register(session, "host:1")
        session.execute(insert(Worker).values(name="host:2", seen_at=now_plus(-3600)))
    workers = client.get("/readyz").json["workers"]
    assert workers["present"] == 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", workers["last_seen_at"])


def test_unavailable_database_is_a_503_with_retry_after(settings: Settings, tmp_path: Path) -> None:
    settings = settings.model_copy(update={"database_url": f"sqlite:///{tmp_path / 'not-migrated.sqlite3'}"})
    client = make_client(settings, queue=InMemoryQueue())
    response = client.get("/v1/transcriptions")
    assert_problem(response, 503, "unavailable", "Try again")
    assert response.headers["Retry-After"] == "5"


@pytest.mark.integration
def test_missing_tables_on_postgresql_are_a_503(settings: Settings, postgres_url: str) -> None:
    engine = make_engine(settings.model_copy(update={"database_url": postgres_url.replace("://", "+psycopg://")}))
    sessions = make_sessions(engine.execution_options(schema_translate_map={None: "empty"}))
    client = make_client(settings, sessions=sessions, queue=InMemoryQueue())
    assert_problem(client.get("/v1/transcriptions"), 503, "unavailable", "Try again")
    engine.dispose()


def test_unavailable_storage_is_a_503_and_no_job_is_created(
    client: FlaskClient, storage: ObjectStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(*_: object, **__: object) -> None:
        raise StorageUnavailable("The storage folder /srv/secret is not writable.")

    monkeypatch.setattr(storage, "put", put)
    response = post(client)
    assert_problem(response, 503, "unavailable", "The storage is unavailable. Try again")
    assert "secret" not in response.text
    assert client.get("/v1/transcriptions").json["items"] == []


def test_result_missing_from_the_storage_is_a_410_without_internals(
    client: FlaskClient, sessions: Sessions, storage: ObjectStorage
) -> None:
    job_id = accepted(client)["id"]
    finish(sessions, storage, job_id)
    storage.delete_prefix("results/")
    response = client.get(f"/v1/transcriptions/{job_id}/artifacts/transcription.mid")
    assert_problem(response, 410, "object_missing", "Upload the recording again.")
    assert "results/" not in response.text


def test_bug_is_a_500_without_internals(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.transcriptions.jobs.list_jobs", lambda *_, **__: 1 / 0)
    response = client.get("/v1/transcriptions")
    assert_problem(response, 500, "internal_error")
    assert "ZeroDivision" not in response.text


def test_wrong_method_is_a_405_with_the_allowed_methods(client: FlaskClient) -> None:
    response = client.put("/v1/transcriptions")
    assert_problem(response, 405, "method_not_allowed", "PUT is not allowed at this address. Allowed: GET, POST.")
    assert "POST" in response.headers["Allow"]


def test_documentation_describes_every_endpoint_and_loads_nothing_from_elsewhere(client: FlaskClient) -> None:
    spec = client.get("/openapi.json").json
    assert set(spec["paths"]) == {
        "/v1/transcriptions",
        "/v1/transcriptions/archive",
        "/v1/transcriptions/{job_id}",
        "/v1/transcriptions/{job_id}/corrections",
        "/v1/transcriptions/{job_id}/cancel",
        "/v1/transcriptions/{job_id}/retry",
        "/v1/transcriptions/{job_id}/artifacts/{name}",
        "/v1/transcriptions/{job_id}/artifacts",
        "/v1/transcriptions/{job_id}/audio",
        "/v1/transcriptions/{job_id}/events",
        "/v1/transcriptions/{job_id}/deliveries",
        "/v1/transcriptions/{job_id}/deliveries/{delivery_id}/redeliver",
        "/v1/webhook-secret",
        "/v1/webhook-secret/rotate",
        "/v1/transcriptions/{job_id}/notes",
        "/v1/transcriptions/{job_id}/exports",
        "/v1/transcriptions/{job_id}/exports/{export_id}",
        "/v1/uploads",
        "/v1/uploads/{upload_id}",
        "/v1/uploads/{upload_id}/parts/{number}",
        "/v1/uploads/{upload_id}/complete",
        "/v1/transcriptions/{job_id}/shares",
        "/v1/transcriptions/{job_id}/shares/{token}",
        "/v1/shared/{token}",
        "/v1/shared/{token}/artifacts",
        "/v1/shared/{token}/artifacts/{name}",
        "/v1/shared/{token}/audio",
        "/v1/shared/{token}/events",
        "/v1/shared/{token}/exports",
        "/v1/shared/{token}/exports/{export_id}",
        "/v1/shared/{token}/notes",
        "/v1/session",
        "/v1/models",
        "/v1/models/{name}",
        "/livez",
        "/readyz",
        "/metrics",
    }
    form = spec["paths"]["/v1/transcriptions"]["post"]["requestBody"]["content"]
    assert "multipart/form-data" in form
    for path in spec["paths"].values():
        for call in path.values():
            assert any(status < "400" for status in call["responses"]), call
            assert call["summary"]
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(spec)))
    assert references <= set(spec["components"]["schemas"])
    assert spec["components"]["schemas"]["Problem"]["required"] == ["type", "title", "status", "detail", "code"]
    docs = client.get("/docs").text
    for address in re.findall(r'(?:src|href)="([^"]+)"', docs):
        assert address.startswith("/")
        assert client.get(address).status_code == 200, address


def test_responses_have_the_declared_content_types(
    client: FlaskClient, sessions: Sessions, storage: ObjectStorage
) -> None:
    spec = client.get("/openapi.json").json
    done = accepted(client)["id"]
    finish(sessions, storage, done)
    token = client.post(f"/v1/transcriptions/{done}/shares").json["token"]
    requests: list[tuple[str, str, dict[str, str]]] = [
        (method.upper(), path, ids)
        for path, operations in spec["paths"].items()
        for method in sorted(operations)
        for ids in (
            {"job_id": accepted(client)["id"], "name": "light", "token": token},
            {"job_id": done, "name": "transcription.mid", "token": token},
            {"job_id": "01a204c3-1a0c-71ba-876d-62c31e0881c4", "name": "nonesuch", "token": "mt3s_"},
        )
    ]
    requests += [("POST", "/v1/transcriptions/{job_id}/retry", {"job_id": accepted(client)["id"]})]
    requests += [("GET", "/v1/transcriptions?limit=0", {})]
    requests.sort(key=lambda request: request[0] == "DELETE")
    statuses = set()
    for method, path, ids in requests:
        response = client.open(
            path.format(**ids, export_id=uuid7(), delivery_id=uuid7(), upload_id=uuid7(), number=1), method=method
        )
        declared = spec["paths"][path.split("?")[0]][method.lower()]["responses"]
        assert str(response.status_code) in declared, (method, path, ids, response.text)
        answer = declared[str(response.status_code)]
        if "$ref" in answer:
            answer = spec["components"]["responses"][answer["$ref"].rpartition("/")[2]]
        content = answer.get("content", {})
        assert response.mimetype in content or "*/*" in content or not response.data, (method, path, ids)
        statuses.add(response.status_code)
    assert statuses == {200, 201, 202, 204, 404, 409, 410, 422, 503}


def test_every_response_has_the_security_headers(client: FlaskClient) -> None:
    for path in ("/", "/docs", "/v1/transcriptions", "/nope"):
        headers = client.get(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert "unsafe-inline" not in client.get("/").headers["Content-Security-Policy"]


def test_unknown_default_model_prevents_the_start(settings: Settings) -> None:
    with pytest.raises(UnknownModel, match="Available models: auto, basic_pitch"):
        create_app(settings.model_copy(update={"default_model": "nonesuch"}), queue=InMemoryQueue())


def test_queued_jobs_have_positions(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.line.LINE_SECONDS", 0)
    ids = [accepted(client)["id"] for _ in range(3)]
    client.post(f"/v1/transcriptions/{ids[0]}/cancel")
    positions = [client.get(f"/v1/transcriptions/{i}").json["queue"] for i in ids]
    assert [p and p["position"] for p in positions] == [None, 1, 2]


def test_queued_jobs_know_when_they_start_also_in_the_list(
    client: FlaskClient, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.line.LINE_SECONDS", 0)
    with sessions.begin() as session:
        worker_registry.register(session, "host:1")
        report_model(session, "basic_pitch", installed=True, realtime_factor=1e-8)
    first = UUID(accepted(client)["id"])
    must_claim(sessions, first)
    job = client.get(f"/v1/transcriptions/{accepted(client)['id']}").json
    (listed,) = (item for item in client.get("/v1/transcriptions").json["items"] if item["id"] == job["id"])
    assert job["queue"]["position"] == listed["queue"]["position"] == 1
    assert job["queue"]["eta_seconds"] > 0
    assert listed["queue"]["eta_seconds"] > 0


def test_recording_that_was_removed_early_is_a_410_and_its_results_stay(
    client: FlaskClient, sessions: Sessions, storage: ObjectStorage
) -> None:
    job_id = accepted(client)["id"]
    finish(sessions, storage, job_id)
    with sessions.begin() as session:
        session.execute(update(Job).where(Job.id == UUID(job_id)).values(upload_removed_at=now_plus()))
    answer = client.get(f"/v1/transcriptions/{job_id}/audio")
    assert (answer.status_code, answer.json["code"]) == (410, "recording_removed")
    assert "Upload it again" in answer.json["detail"]
    assert client.get(f"/v1/transcriptions/{job_id}/artifacts/transcription.mid").status_code == 200
