"""Transcriptions of an upload, of a URL, and of another transcription's recording."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select
from uuid6 import uuid7

from shared import jobs, work
from shared.config import Settings
from shared.db import Sessions
from shared.kinds import FETCH_URL, TRANSCRIBE, NewItem
from shared.locks import DatabaseLock
from shared.queue import InMemoryQueue
from shared.quotas import count_stored_bytes
from shared.storage import ObjectStorage, make_storage
from shared.tables import Job, Status, Upload, WorkItem, WorkStatus
from tests.work import must_claim
from web import create_app
from worker.sweeper import Sweeper

CONTENT = b"RIFF sound"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"orphan_hours": -1.0, "lease_seconds": -1.0})  # everything is old at once


@pytest.fixture
def storage(settings: Settings) -> ObjectStorage:
    return make_storage(settings)


@pytest.fixture
def queue() -> InMemoryQueue:
    return InMemoryQueue()


@pytest.fixture
def client(
    settings: Settings, any_sessions: Sessions, storage: ObjectStorage, queue: InMemoryQueue
) -> FlaskClient:
    return create_app(settings, sessions=any_sessions, storage=storage, queue=queue).test_client()


@pytest.fixture
def sweeper(settings: Settings, any_sessions: Sessions, storage: ObjectStorage) -> Sweeper:
    return Sweeper(settings, any_sessions, storage, DatabaseLock(any_sessions, "s", holder="a", lease_seconds=60))


@pytest.fixture
def upload(client: FlaskClient) -> str:
    """Return the id of a complete upload."""
    begun = client.post("/v1/uploads", json={"name": "a/Lied ü.wav", "size": len(CONTENT)}).json
    assert client.put(begun["missing"][0]["url"], data=CONTENT).status_code == 204
    assert client.post(f"/v1/uploads/{begun['id']}/complete").status_code == 200
    return str(begun["id"])


def post(client: FlaskClient, headers: dict[str, str] | None = None, **body: Any) -> Any:
    return client.post("/v1/transcriptions", json=body, headers=headers)


def accepted(client: FlaskClient, **body: Any) -> dict[str, Any]:
    answer = post(client, **body)
    assert answer.status_code == 202, answer.text
    assert answer.headers["Location"] == f"/v1/transcriptions/{answer.json['id']}"
    return dict(answer.json)


def sound(client: FlaskClient, job_id: str) -> bytes | int:
    with client.get(f"/v1/transcriptions/{job_id}/audio") as answer:
        return answer.data if answer.status_code == 200 else answer.status_code


def stored(storage: ObjectStorage) -> list[str]:
    return [entry.key for entry in storage.list_objects("uploads/")]


def sweep(sweeper: Sweeper) -> None:
    sweeper.remove_garbage()
    sweeper.remove_orphans()


def assert_problem(answer: Any, status: int, code: str, words: str = "") -> None:
    assert (answer.status_code, answer.json["code"]) == (status, code), answer.text
    assert words in answer.json["detail"]


def test_upload_serves_several_jobs(client: FlaskClient, upload: str, queue: InMemoryQueue) -> None:
    first = accepted(
        client, upload_id=upload, model="light", options={"onset_threshold": 0.4}, metadata={"a": [1, "b"]}
    )
    assert (first["filename"], first["model"], first["metadata"]) == ("Lied ü.wav", "basic_pitch", {"a": [1, "b"]})
    assert first["options"] == {"onset_threshold": 0.4}
    second = accepted(client, upload_id=upload, name="other.wav")
    assert second["filename"] == "other.wav"
    assert queue.notified == 2
    assert sound(client, first["id"]) == sound(client, second["id"]) == CONTENT


def test_recording_is_kept_until_its_last_user_is_gone(
    client: FlaskClient, upload: str, any_sessions: Sessions, storage: ObjectStorage, sweeper: Sweeper
) -> None:
    first = accepted(client, upload_id=upload)["id"]
    second = accepted(client, transcription_id=first)["id"]
    third = accepted(client, transcription_id=second)["id"]
    with any_sessions.begin() as session:
        session.get_one(Upload, UUID(upload)).expires_at = datetime.now(UTC) - timedelta(hours=1)
    sweeper.expire_uploads()
    for gone, left in ((first, second), (third, second)):
        assert client.delete(f"/v1/transcriptions/{gone}").status_code == 204
        sweep(sweeper)
        assert sound(client, left) == CONTENT
    assert client.delete(f"/v1/transcriptions/{second}").status_code == 204
    assert stored(storage) == []
    sweep(sweeper)


def test_recording_of_a_form_is_shared_as_well(
    client: FlaskClient, any_sessions: Sessions, storage: ObjectStorage, sweeper: Sweeper
) -> None:
    form = {"file": (io.BytesIO(CONTENT), "a.wav")}
    first = client.post("/v1/transcriptions", data=form).json["id"]
    second = accepted(client, transcription_id=first)["id"]
    assert client.delete(f"/v1/transcriptions/{first}").status_code == 204
    sweep(sweeper)
    assert stored(storage) == [f"uploads/{first}/audio"]
    assert sound(client, second) == CONTENT
    with any_sessions.begin() as session:
        job = session.get_one(Job, UUID(second))
        job.finished_at, job.status = datetime.now(UTC) - timedelta(days=400), Status.CANCELED
    sweeper.expire_jobs()
    sweep(sweeper)
    assert stored(storage) == []


def test_recording_of_a_deleted_job_cannot_be_used(client: FlaskClient, upload: str) -> None:
    first = accepted(client, upload_id=upload)["id"]
    client.delete(f"/v1/transcriptions/{first}")
    assert_problem(post(client, transcription_id=first), 404, "not_found")
    client.delete(f"/v1/uploads/{upload}")
    assert_problem(post(client, upload_id=upload), 404, "not_found")
    assert_problem(post(client, upload_id=str(uuid7())), 404, "not_found")


def test_recording_that_is_deleted_in_between_is_refused(
    client: FlaskClient, upload: str, any_sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_job = jobs.create_job

    def after_deletion(*args: Any) -> Any:
        client.delete(f"/v1/uploads/{upload}")
        return create_job(*args)

    monkeypatch.setattr(jobs, "create_job", after_deletion)
    assert_problem(post(client, upload_id=upload), 404, "not_found", "has been deleted")
    assert client.get("/v1/transcriptions").json["items"] == []


def test_incomplete_upload_is_refused(client: FlaskClient) -> None:
    begun = client.post("/v1/uploads", json={"name": "a.wav", "size": 10}).json
    assert_problem(post(client, upload_id=begun["id"]), 409, "upload_incomplete", "is not complete")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "exactly one of upload_id, source_url and transcription_id"),
        ({"model": "light"}, "exactly one"),
        ({"upload_id": str(UUID(int=1)), "source_url": "https://example.org/"}, "exactly one"),
        ({"file": "song.wav"}, "Unknown field 'file'"),
        ({"upload_ids": "1"}, "Did you mean 'upload_id'?"),
        ({"upload_id": "1"}, "upload_id"),
        ({"source_url": 5}, "source_url"),
        ({"source_url": "https://example.org/", "options": "{}"}, "options"),
        ({"source_url": "https://example.org/", "metadata": {"a": "x" * 20_000}}, "metadata"),
        ({"source_url": "https://example.org/", "metadata": {"a": "\0"}}, "NUL"),
    ],
)
def test_invalid_body_is_refused(client: FlaskClient, body: dict[str, Any], words: str) -> None:
    assert_problem(post(client, **body), 422, "invalid_request", words)
    assert client.get("/v1/transcriptions").json["items"] == []


def test_body_that_is_no_object_is_refused(client: FlaskClient) -> None:
    for body in ("[]", "5", "{", '"a"', "null"):
        answer = client.post("/v1/transcriptions", data=body, content_type="application/json")
        assert_problem(answer, 422, "invalid_request")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/a.wav", "http://user:x@example.org/", "ftp://example.org/", "http://2130706433/", ""]
)
def test_url_that_is_not_public_is_refused_at_once(client: FlaskClient, url: str) -> None:
    assert_problem(post(client, source_url=url), 422, "address_refused")


def test_same_key_gives_the_same_job(client: FlaskClient, upload: str) -> None:
    key = {"Idempotency-Key": "once"}
    first = post(client, key, upload_id=upload).json["id"]
    client.delete(f"/v1/uploads/{upload}")  # long after
    assert post(client, key, upload_id=upload).json["id"] == first
    assert_problem(post(client, key, upload_id=upload, name="b"), 422, "idempotency_conflict")
    assert_problem(post(client, key, source_url="https://example.org/"), 422, "idempotency_conflict")


def test_job_of_a_url_begins_with_fetching_it(
    client: FlaskClient, any_sessions: Sessions, queue: InMemoryQueue
) -> None:
    job = accepted(client, source_url="https://example.org/a/My%20song.mp3?token=secret")
    assert (job["filename"], job["status"]) == ("My song.mp3", "queued")
    assert "secret" not in client.get(f"/v1/transcriptions/{job['id']}").text
    assert accepted(client, source_url="https://example.org")["filename"] == "example.org"
    assert queue.notified == 2
    with any_sessions() as session:
        items = session.scalars(select(WorkItem).where(WorkItem.job_id == UUID(job["id"]))).all()
    assert [item.kind for item in items] == [FETCH_URL]
    assert sound(client, job["id"]) == 404
    assert_problem(post(client, transcription_id=job["id"]), 409, "state_conflict", "has not been fetched yet")


def items(sessions: Sessions, job_id: str) -> list[tuple[str, WorkStatus, int]]:
    with sessions() as session:
        found = session.scalars(select(WorkItem).where(WorkItem.job_id == UUID(job_id)).order_by(WorkItem.id))
        return [(item.kind, item.status, item.attempt) for item in found]


def test_retry_does_not_fetch_again_what_is_there(
    client: FlaskClient, any_sessions: Sessions, settings: Settings
) -> None:
    job_id = accepted(client, source_url="https://example.org/a.mp3")["id"]
    must_claim(any_sessions, UUID(job_id), FETCH_URL)
    assert client.post(f"/v1/transcriptions/{job_id}/cancel").status_code == 202
    assert client.post(f"/v1/transcriptions/{job_id}/retry").status_code == 202
    assert items(any_sessions, job_id) == [(FETCH_URL, WorkStatus.QUEUED, 1)]
    claim = must_claim(any_sessions, UUID(job_id), FETCH_URL)
    with any_sessions.begin() as session:
        work.complete(session, claim, then=[NewItem(TRANSCRIBE, input_key="uploads/x")], job={"upload_bytes": 5})
    for attempt in (1, 2):
        transcribing = must_claim(any_sessions, UUID(job_id))
        assert transcribing.kind == TRANSCRIBE
        assert client.post(f"/v1/transcriptions/{job_id}/cancel").status_code == 202
        assert client.post(f"/v1/transcriptions/{job_id}/retry").status_code == 202
        kept = items(any_sessions, job_id)
        assert [(kind, status) for kind, status, _ in kept] == [
            (FETCH_URL, WorkStatus.SUCCEEDED),
            (TRANSCRIBE, WorkStatus.QUEUED),
        ]
        assert kept[1][2] >= attempt


def test_openapi_declares_both_kinds_of_body(client: FlaskClient) -> None:
    spec = client.get("/openapi.json").json
    content = spec["paths"]["/v1/transcriptions"]["post"]["requestBody"]["content"]
    assert set(content) == {"multipart/form-data", "application/json", "application/octet-stream"}
    name = content["application/json"]["schema"]["$ref"].rpartition("/")[2]
    assert "upload_id" in spec["components"]["schemas"][name]["properties"]


def test_shared_recording_counts_once_for_the_quota(
    client: FlaskClient, upload: str, any_sessions: Sessions, settings: Settings, storage: ObjectStorage
) -> None:
    def count() -> int:
        with any_sessions() as session:
            return count_stored_bytes(session, "public")

    assert count() == len(CONTENT)
    first = accepted(client, upload_id=upload)["id"]
    accepted(client, transcription_id=first)
    assert count() == len(CONTENT)
    form = {"file": (io.BytesIO(b"12345"), "a.wav")}
    client.post("/v1/transcriptions", data=form)
    client.post("/v1/uploads", json={"name": "a.wav", "size": 1000})
    assert count() == len(CONTENT) + 5 + 1000
    limited = settings.model_copy(update={"quota_stored_bytes": count() + 1})
    other = create_app(limited, sessions=any_sessions, storage=storage, queue=InMemoryQueue()).test_client()
    assert other.post("/v1/uploads", json={"name": "a.wav", "size": 1}).status_code == 201
    refused = other.post("/v1/uploads", json={"name": "a.wav", "size": 1})
    assert_problem(refused, 403, "quota_exceeded")
