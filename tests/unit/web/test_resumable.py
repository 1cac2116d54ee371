"""Uploads in parts: the same protocol whether parts go to the service or straight to a bucket."""

from __future__ import annotations

import base64
import hashlib
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import urllib3
from flask.testing import FlaskClient
from sqlalchemy import select, text, update

from shared import uploads
from shared.config import Settings
from shared.db import Sessions, now_plus
from shared.errors import StorageUnavailable
from shared.locks import DatabaseLock
from shared.parts import parts_prefix
from shared.queue import InMemoryQueue
from shared.s3_storage import S3Storage
from shared.storage import LocalStorage, ObjectStorage, make_storage
from shared.tables import Upload
from shared.watches import trust_all
from tests import servers
from web import create_app
from worker.sweeper import Sweeper

PART = 64 * 1024
Content = bytes


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.integration)])
def settings(request: pytest.FixtureRequest, settings: Settings, tmp_path: Path) -> Settings:
    """Return settings with small parts, of a folder and of a bucket."""
    small = {"upload_part_bytes": PART, "max_recording_bytes": 10 * PART}
    if request.param == "local":
        return settings.model_copy(update=small)
    bucket = {
        "storage_url": f"s3://{servers.S3_BUCKET}/{tmp_path.name}",
        "s3_endpoint_url": request.getfixturevalue("s3_url"),
        "s3_access_key_id": servers.S3_KEY,
        "s3_secret_access_key": servers.S3_SECRET,
    }
    return Settings(**{**settings.model_dump(), **small, **bucket})


@pytest.fixture
def storage(settings: Settings) -> ObjectStorage:
    return make_storage(settings)


@pytest.fixture
def client(settings: Settings, sessions: Sessions, storage: ObjectStorage) -> FlaskClient:
    return create_app(settings, sessions=sessions, storage=storage, queue=InMemoryQueue()).test_client()


@pytest.fixture
def content() -> Content:
    """Three parts, of which the last one is short."""
    return random.Random(13).randbytes(2 * PART + 1000)


def begin(client: FlaskClient, content: Content, **more: Any) -> dict[str, Any]:
    answer = client.post("/v1/uploads", json={"name": "song.wav", "size": len(content), **more})
    assert answer.status_code == 201, answer.text
    assert answer.headers["Location"] == f"/v1/uploads/{answer.json['id']}"
    return dict(answer.json or {})


def send(client: FlaskClient, content: Content, part: dict[str, Any]) -> None:
    """Send a part to its URL, as any client does."""
    body = content[part["offset"] : part["offset"] + part["size"]]
    if part["url"].startswith("/"):
        answer = client.put(part["url"], data=body)
        status, etag = answer.status_code, answer.headers["ETag"]
    else:
        sent = urllib3.request("PUT", part["url"], body=body)
        status, etag = sent.status, sent.headers["ETag"]
    assert status in (200, 204)
    assert etag.strip('"') == hashlib.md5(body).hexdigest()


def show(client: FlaskClient, upload: dict[str, Any]) -> dict[str, Any]:
    return dict(client.get(f"/v1/uploads/{upload['id']}").json or {})


def complete(client: FlaskClient, upload: dict[str, Any], **body: Any) -> Any:
    return client.post(f"/v1/uploads/{upload['id']}/complete", json=body)


def stored(storage: ObjectStorage, upload: dict[str, Any]) -> bytes:
    return b"".join(storage.stream(f"uploads/{upload['id']}/audio"))


def assert_problem(answer: Any, status: int, code: str, words: str = "") -> None:
    assert (answer.status_code, answer.json["code"]) == (status, code), answer.text
    assert words in answer.json["detail"]


def test_parts_in_any_order_make_the_file(client: FlaskClient, storage: ObjectStorage, content: Content) -> None:
    sha256 = hashlib.sha256(content).hexdigest()
    upload = begin(client, content, sha256=sha256.upper(), content_type="audio/wav")
    assert (upload["status"], upload["part_size"], upload["part_count"]) == ("uploading", PART, 3)
    assert [(p["number"], p["offset"], p["size"]) for p in upload["missing"]] == [
        (1, 0, PART),
        (2, PART, PART),
        (3, 2 * PART, 1000),
    ]
    for part in reversed(upload["missing"]):
        send(client, content, part)
    answer = complete(client, upload)
    assert answer.status_code == 200, answer.text
    done = answer.json
    assert (done["status"], done["sha256"], done["received"], done["missing"]) == (
        "completed",
        sha256,
        [1, 2, 3],
        [],
    )
    assert stored(storage, upload) == content
    assert list(storage.list_objects(parts_prefix(UUID(upload["id"])))) == []


def test_repeated_request_returns_the_same_upload_with_what_has_arrived(
    client: FlaskClient, content: Content, sessions: Sessions
) -> None:
    body, header = {"name": "song.wav", "size": len(content)}, {"Idempotency-Key": "one"}
    first = client.post("/v1/uploads", json=body, headers=header)
    send(client, content, first.json["missing"][0])
    again = client.post("/v1/uploads", json=body, headers=header)
    assert (again.status_code, again.headers["Location"]) == (201, first.headers["Location"])
    assert (again.json["id"], again.json["received"]) == (first.json["id"], [1])
    other = client.post("/v1/uploads", json=body | {"size": 1}, headers=header)
    assert_problem(other, 422, "idempotency_conflict", "Use a new key")
    assert begin(client, content)["id"] != first.json["id"]
    with sessions.begin() as session:
        earlier: UUID = UUID(first.json["id"])
        session.execute(update(Upload).where(Upload.id == earlier).values(expires_at=now_plus(-1)))
    new = client.post("/v1/uploads", json=body, headers=header)
    assert (new.status_code, new.json["received"]) == (201, [])
    assert new.json["id"] != first.json["id"]


def test_same_request_many_times_at_once_begins_one_upload(
    client: FlaskClient, sessions: Sessions, storage: ObjectStorage, content: Content
) -> None:
    barrier = threading.Barrier(6)

    def request(_: int) -> tuple[int, str]:
        barrier.wait()
        body, header = {"name": "song.wav", "size": len(content)}, {"Idempotency-Key": "one"}
        answer = client.application.test_client().post("/v1/uploads", json=body, headers=header)
        return answer.status_code, answer.json["id"]

    with ThreadPoolExecutor(6) as pool:
        (answer,) = set(pool.map(request, range(6)))
    assert answer[0] == 201
    with sessions() as session:
        (upload,) = session.scalars(select(Upload))
    assert str(upload.id) == answer[1]
    if isinstance(storage, S3Storage):
        assert storage.delete_unfinished(older_than=datetime.now(UTC) + timedelta(hours=1)) == 1


def test_what_is_missing_is_sent_later_by_another_process(
    client: FlaskClient, settings: Settings, sessions: Sessions, storage: ObjectStorage, content: Content
) -> None:
    upload = begin(client, content)
    send(client, content, upload["missing"][1])
    assert_problem(complete(client, upload), 409, "upload_incomplete", "2 of 3 parts are missing (1, 3)")
    other = create_app(settings, sessions=sessions, queue=InMemoryQueue()).test_client()
    later = show(other, upload)
    assert (later["status"], later["received"], later["missing_count"]) == ("uploading", [2], 2)
    for part in later["missing"]:
        send(other, content, part)
    for part in later["missing"]:
        send(other, content, part)  # again: its answer was lost
    assert show(other, upload)["missing"] == []
    answer = complete(other, upload, sha256=hashlib.sha256(content).hexdigest())
    assert answer.json["status"] == "completed"
    assert stored(storage, upload) == content


def test_completing_again_gives_the_same_result(client: FlaskClient, content: Content) -> None:
    upload = begin(client, content)
    for part in upload["missing"]:
        send(client, content, part)
    sha256 = hashlib.sha256(content).hexdigest()
    first = client.post(f"/v1/uploads/{upload['id']}/complete")  # without a body
    assert first.status_code == 200, first.text
    assert complete(client, upload, sha256=sha256).json["status"] == "completed"
    assert_problem(complete(client, upload, sha256="0" * 64), 422, "checksum_mismatch")
    assert show(client, upload)["status"] == "completed"
    part = client.put(f"/v1/uploads/{upload['id']}/parts/1", data=content[:PART])
    assert_problem(part, 409, "upload_incomplete", "complete")


def test_wrong_hash_of_the_file_removes_the_upload(
    client: FlaskClient, storage: ObjectStorage, content: Content
) -> None:
    upload = begin(client, content, sha256="0" * 64)
    for part in upload["missing"]:
        send(client, content, part)
    assert_problem(complete(client, upload), 422, "checksum_mismatch", "begin the upload again")
    assert client.get(f"/v1/uploads/{upload['id']}").status_code == 404
    assert list(storage.list_objects(parts_prefix(UUID(upload["id"])))) == []


def test_damaged_part_is_refused(client: FlaskClient, content: Content) -> None:
    upload = begin(client, content)
    url = f"/v1/uploads/{upload['id']}/parts/1"
    part = content[:PART]
    md5, sha256 = (base64.b64encode(make(part).digest()).decode() for make in (hashlib.md5, hashlib.sha256))
    damaged = bytes([part[0] ^ 1]) + part[1:]
    for headers in ({"Content-MD5": md5}, {"Content-Digest": f"sha-256=:{sha256}:"}, {"Content-MD5": "?"}):
        assert_problem(client.put(url, data=damaged, headers=headers), 422, "checksum_mismatch")
    assert_problem(client.put(url, data=part[:-1]), 422, "invalid_request", "65,535 bytes instead of 65,536")
    assert_problem(client.put(url, data=part + b"x"), 422, "invalid_request")
    for number in (0, 4):
        wrong = client.put(f"/v1/uploads/{upload['id']}/parts/{number}", data=part)
        assert_problem(wrong, 422, "invalid_request", "from 1 to 3")
    assert show(client, upload)["received"] == []
    headers = {"Content-MD5": md5, "Content-Digest": f"sha-512=:AA==:, sha-256=:{sha256}:"}
    # whatever a client calls the type of the bytes, such as curl --data-binary
    sent = client.put(url, data=part, headers=headers, content_type="application/x-www-form-urlencoded")
    assert sent.status_code == 204, sent.text
    assert show(client, upload)["received"] == [1]


def test_part_of_another_size_does_not_reach_the_bucket(
    client: FlaskClient, storage: ObjectStorage, content: Content
) -> None:
    upload = begin(client, content)
    part = upload["missing"][0]
    if isinstance(storage, S3Storage):
        assert urllib3.request("PUT", part["url"], body=content[:1000]).status == 403
    assert show(client, upload)["received"] == []


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"name": "a.wav", "size": 0}, 422, "empty_upload"),
        ({"name": "a.wav", "size": 10 * PART + 1}, 413, "upload_too_large"),
        ({"name": "a.wav", "size": -1}, 422, "invalid_request"),
        ({"name": "a.wav", "size": 5, "sha256": "xyz"}, 422, "invalid_request"),
        ({"name": "", "size": 5}, 422, "invalid_request"),
        ({"size": 5}, 422, "invalid_request"),
        ({"name": "a.wav", "size": 5, "content_type": "audio"}, 422, "invalid_request"),
        ({"name": "a.wav", "size": 5, "sha265": "0"}, 422, "invalid_request"),
    ],
)
def test_invalid_upload_is_refused(client: FlaskClient, body: dict[str, Any], status: int, code: str) -> None:
    assert_problem(client.post("/v1/uploads", json=body), status, code)


def test_upload_is_removed_with_its_parts(client: FlaskClient, storage: ObjectStorage, content: Content) -> None:
    upload = begin(client, content)
    send(client, content, upload["missing"][0])
    assert client.delete(f"/v1/uploads/{upload['id']}").status_code == 204
    assert client.get(f"/v1/uploads/{upload['id']}").status_code == 404
    assert client.delete(f"/v1/uploads/{upload['id']}").status_code == 404
    assert complete(client, upload).status_code == 404
    assert unfinished(storage) == []


def unfinished(storage: ObjectStorage) -> list[str]:
    """Return the parts that storage keeps, of any upload."""
    if isinstance(storage, S3Storage):
        try:
            answer = storage.client.list_multipart_uploads(
                Bucket=storage.at("")["Bucket"], Prefix=storage.at("")["Key"]
            )
        except storage.client.exceptions.ClientError:  # this server's answer to an empty list
            return []
        return [found["Key"] for found in answer.get("Uploads", [])]
    return [entry.key for entry in storage.list_objects("parts/")]


def sweep(settings: Settings, sessions: Sessions, storage: ObjectStorage) -> Sweeper:
    return Sweeper(settings, sessions, storage, DatabaseLock(sessions, "sweeper", holder="a", lease_seconds=60))


def test_abandoned_upload_is_removed_with_its_parts(
    client: FlaskClient, settings: Settings, sessions: Sessions, storage: ObjectStorage, content: Content
) -> None:
    abandoned, live = begin(client, content), begin(client, content)
    for upload in (abandoned, live):
        send(client, content, upload["missing"][0])
    assert len(unfinished(storage)) == 2
    old = datetime.now(UTC) - timedelta(hours=1)
    with sessions.begin() as session:
        session.get_one(Upload, UUID(abandoned["id"])).expires_at = old
    assert client.get(f"/v1/uploads/{abandoned['id']}").status_code == 404
    sweep(settings, sessions, storage).expire_uploads()
    assert len(unfinished(storage)) == 1
    assert show(client, live)["received"] == [1]


def test_parts_without_an_upload_are_orphans_but_not_those_of_an_old_one(
    client: FlaskClient, settings: Settings, sessions: Sessions, storage: ObjectStorage, content: Content
) -> None:
    lost, live = begin(client, content), begin(client, content)
    for upload in (lost, live):
        send(client, content, upload["missing"][0])
    with sessions.begin() as session:
        session.execute(text("DELETE FROM uploads WHERE id = :id"), {"id": UUID(lost["id"]).hex})
        trust_all(session)
    all_are_old = settings.model_copy(update={"orphan_hours": -1.0})
    sweep(all_are_old, sessions, storage).remove_orphans()
    assert len(unfinished(storage)) == 1
    assert show(client, live)["received"] == [1]


def test_file_of_an_upload_is_kept_as_long_as_it_lives(
    client: FlaskClient, settings: Settings, sessions: Sessions, storage: ObjectStorage, content: Content
) -> None:
    upload = begin(client, content)
    for part in upload["missing"]:
        send(client, content, part)
    assert complete(client, upload).status_code == 200
    sweeper = sweep(settings.model_copy(update={"orphan_hours": -1.0, "lease_seconds": -1.0}), sessions, storage)
    sweeper.remove_orphans()
    assert stored(storage, upload) == content
    with sessions.begin() as session:
        session.get_one(Upload, UUID(upload["id"])).expires_at = datetime.now(UTC) - timedelta(hours=1)
    sweeper.expire_uploads()
    sweeper.remove_garbage()
    assert list(storage.list_objects("uploads/")) == []


def test_only_one_request_verifies_an_upload(
    client: FlaskClient, sessions: Sessions, storage: ObjectStorage, content: Content
) -> None:
    upload = begin(client, content)
    for part in upload["missing"]:
        send(client, content, part)
    with sessions.begin() as session:
        assert uploads.hold(session, UUID(upload["id"]))
    waits = complete(client, upload)
    assert (waits.status_code, waits.headers["Retry-After"], waits.json["status"]) == (202, "2", "verifying")
    assert show(client, upload)["status"] == "verifying"
    with sessions.begin() as session:  # that process died
        session.get_one(Upload, UUID(upload["id"])).verifying_until = datetime.now(UTC)
    assert complete(client, upload).json["status"] == "completed"


def fails_after(times: int, call: Callable[..., Any]) -> Callable[..., Any]:
    calls = 0

    def failing(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > times:
            raise StorageUnavailable("Storage does not answer.")
        return call(*args, **kwargs)

    return failing


@pytest.mark.parametrize("times", range(4))
def test_completion_that_is_interrupted_is_continued(
    client: FlaskClient,
    storage: ObjectStorage,
    content: Content,
    monkeypatch: pytest.MonkeyPatch,
    times: int,
) -> None:
    upload = begin(client, content)
    for part in upload["missing"]:
        send(client, content, part)
    sha256 = hashlib.sha256(content).hexdigest()
    kind = S3Storage if isinstance(storage, S3Storage) else LocalStorage
    with monkeypatch.context() as patched:
        patched.setattr(kind, "size", fails_after(times, kind.size))
        patched.setattr(kind, "stream", fails_after(times, kind.stream))
        interrupted = complete(client, upload, sha256=sha256)
        assert interrupted.status_code == 503 or times > 1
    assert complete(client, upload, sha256=sha256).json["status"] == "completed"
    assert stored(storage, upload) == content


def test_database_that_fails_after_the_parts_were_joined(
    client: FlaskClient, storage: ObjectStorage, content: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = begin(client, content)
    for part in upload["missing"]:
        send(client, content, part)
    with monkeypatch.context() as patched:
        patched.setattr(uploads, "complete", fails_after(0, uploads.complete))
        assert complete(client, upload).status_code == 503
    assert show(client, upload)["missing"] == []
    with_hash = complete(client, upload, sha256=hashlib.sha256(content).hexdigest())
    assert with_hash.status_code in (200, 202), with_hash.text
    assert stored(storage, upload) == content


def test_parts_are_at_most_a_thousand() -> None:
    smallest = 5 * 1024**2
    assert uploads.part_size_of(1, smallest) == smallest
    assert uploads.part_size_of(1000 * smallest, smallest) == smallest
    for size in (1000 * smallest + 1, 50 * 1024**3):
        part = uploads.part_size_of(size, smallest)
        assert part % 1024**2 == 0
        assert 800 < -(-size // part) <= 1000
