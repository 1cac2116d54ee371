"""S3 servers without DeleteObjects: objects are deleted all the same, and nothing else stops."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from uuid6 import uuid7

from shared import jobs
from shared.config import Settings
from shared.db import Sessions
from shared.errors import StorageUnavailable
from shared.locks import DatabaseLock
from shared.queue import InMemoryQueue
from shared.s3_storage import S3Storage
from shared.storage import make_storage
from shared.watches import trust_all
from tests import servers
from tests.chaos.s3_proxy import S3Proxy
from web import create_app
from worker.sweeper import Sweeper

pytestmark = pytest.mark.integration

ERROR = b"<?xml version='1.0'?><Error><Code>%s</Code><Message>planted</Message></Error>"
BATCH = "POST delete"
REFUSALS = {
    "wants a Content-MD5": (400, ERROR % b"MissingContentMD5"),
    "wants a Content-MD5, as older MinIO": (400, ERROR % b"InvalidRequest"),
    "does not know the call": (501, ERROR % b"NotImplemented"),
    "knows no POST": (405, ERROR % b"MethodNotAllowed"),
    "finds no such thing": (404, b""),
    "forbids it": (403, ERROR % b"SignatureDoesNotMatch"),
    "has no XML": (400, b"<html>no</html>"),
    "takes it for something else": (200, b""),
    "deletes nothing and reports nothing": (200, b"<DeleteResult/>"),
}


@pytest.fixture
def proxy(s3_url: str) -> Iterator[S3Proxy]:
    behind = urlsplit(s3_url).port
    assert behind is not None
    with S3Proxy(0, behind, stall_seconds=1) as proxy:
        yield proxy


@pytest.fixture
def settings(settings: Settings, proxy: S3Proxy, tmp_path: Path) -> Settings:
    host, port = proxy.address
    return settings.model_copy(
        update={
            "storage_url": f"s3://{servers.S3_BUCKET}/{tmp_path.name}",
            "s3_endpoint_url": f"http://{host}:{port}",
            "s3_access_key_id": servers.S3_KEY,
            "s3_secret_access_key": Settings(s3_secret_access_key=servers.S3_SECRET).s3_secret_access_key,  # type: ignore[arg-type]
            "lease_seconds": 1e-9,
        }
    )


@pytest.fixture
def storage(settings: Settings) -> S3Storage:
    storage = make_storage(settings)
    assert isinstance(storage, S3Storage)
    return storage


def put(storage: S3Storage, key: str) -> None:
    storage.put(key, io.BytesIO(b"x"), content_type="audio/wav")


def keys(storage: S3Storage, prefix: str = "") -> list[str]:
    return [entry.key for entry in storage.list_objects(prefix)]


@pytest.mark.parametrize("refusal", REFUSALS)
def test_objects_left_by_a_batch_are_deleted_one_by_one(proxy: S3Proxy, storage: S3Storage, refusal: str) -> None:
    proxy.refusals[BATCH] = REFUSALS[refusal]
    for name in ("a", "b", "ü &<é>"):
        put(storage, f"results/1/{name}")
    put(storage, "results/2/kept")
    storage.delete_prefix("results/1/")
    assert keys(storage) == ["results/2/kept"]
    storage.delete_prefix("results/2/")
    assert keys(storage) == []


def test_transient_error_is_not_a_rejection(proxy: S3Proxy, storage: S3Storage) -> None:
    put(storage, "results/1/a")
    proxy.refusals[BATCH] = (500, ERROR % b"InternalError")
    with pytest.raises(StorageUnavailable):
        storage.delete_prefix("results/1/")
    proxy.refusals.clear()
    storage.delete_prefix("results/1/")
    assert keys(storage) == []


def test_missing_object_counts_as_deleted(proxy: S3Proxy, storage: S3Storage) -> None:
    """Some servers answer 404 to the deletion of what another process has just deleted."""
    put(storage, "results/1/a")
    proxy.refusals[BATCH] = REFUSALS["does not know the call"]
    proxy.refusals["DELETE results/1/a"] = (404, ERROR % b"NoSuchKey")
    storage.delete_prefix("results/1/")


def test_readiness_tries_a_deletion_until_one_succeeds(proxy: S3Proxy, storage: S3Storage) -> None:
    proxy.refusals["DELETE "] = (403, ERROR % b"AccessDenied")
    for _ in range(2):
        with pytest.raises(StorageUnavailable, match="AccessDenied"):
            storage.check()
    proxy.refusals.clear()
    storage.check()
    proxy.refusals["DELETE "] = (403, ERROR % b"AccessDenied")
    storage.check()
    assert keys(storage) == []


def post(client: FlaskClient, content: bytes) -> tuple[int, dict[str, object]]:
    form = {"file": (io.BytesIO(content), "a.wav")}
    response = client.post("/v1/transcriptions", data=form, headers={"Idempotency-Key": "k"})
    return response.status_code, dict(response.get_json(force=True))


def test_repeated_request_succeeds_even_if_its_upload_cannot_be_removed(
    proxy: S3Proxy, storage: S3Storage, settings: Settings, sessions: Sessions
) -> None:
    client = create_app(settings, sessions=sessions, storage=storage, queue=InMemoryQueue()).test_client()
    first = post(client, b"RIFF")
    proxy.refusals |= {BATCH: (403, ERROR % b"AccessDenied"), "DELETE ": (403, ERROR % b"AccessDenied")}
    again = post(client, b"RIFF")
    assert (again[0], again[1]["id"]) == (202, first[1]["id"])
    status, problem = post(client, b"another")
    assert (status, problem["code"]) == (422, "idempotency_conflict")


def sweep(settings: Settings, sessions: Sessions, storage: S3Storage) -> None:
    with sessions.begin() as session:
        trust_all(session)
    Sweeper(settings, sessions, storage, DatabaseLock(sessions, "sweeper", holder="a", lease_seconds=60)).tick()


def test_sweeper_continues_after_a_prefix_it_cannot_delete(
    proxy: S3Proxy, storage: S3Storage, settings: Settings, sessions: Sessions
) -> None:
    ids = [UUID(str(uuid7())) for _ in range(3)]
    for job_id in ids:
        put(storage, f"uploads/{job_id}/audio")
        new = jobs.NewJob(job_id, "public", "basic_pitch", {}, {}, None, f"uploads/{job_id}/audio", 1)
        jobs.create_job(sessions, new)
        with sessions.begin() as session:
            jobs.delete_job(session, "public", job_id)
    orphans = [UUID(str(uuid7())) for _ in range(3)]
    for job_id in orphans:
        put(storage, f"uploads/{job_id}/audio")
        put(storage, f"results/{job_id}/1/notes.json")
    storage.check()
    denied = (403, ERROR % b"AccessDenied")
    stuck = f"uploads/{ids[0]}/audio", f"uploads/{orphans[0]}/audio"
    proxy.refusals[BATCH] = REFUSALS["does not know the call"]
    proxy.refusals |= {f"DELETE {key}": denied for key in stuck}
    # The server may not list unfinished uploads either.
    proxy.refusals["GET uploads="] = REFUSALS["does not know the call"]
    sweep(settings.model_copy(update={"orphan_hours": 1e-9}), sessions, storage)
    assert sorted(keys(storage)) == sorted(stuck)
    proxy.refusals.clear()
    sweep(settings, sessions, storage)
    assert keys(storage) == [stuck[1]], "what was refused is tried again"
