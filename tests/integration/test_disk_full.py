"""A full disk: clients and jobs are retried later, nothing is left over, and with free space everything continues.

No file may grow beyond a limit, which is as a disk that is full, for this process alone. All goes into files that
are larger than what pytest itself writes meanwhile.
"""

from __future__ import annotations

import errno
import gc
import io
import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from pydantic import SecretStr
from uuid6 import uuid7
from werkzeug.datastructures import Headers
from werkzeug.test import EnvironBuilder, TestResponse
from werkzeug.wrappers import Request

from mt3_infer.symbolic.notes import Note
from mt3_infer.transcription import Transcription
from shared import jobs
from shared.config import Settings
from shared.db import Sessions
from shared.jobs import NewJob
from shared.queue import InMemoryQueue
from shared.storage import ObjectStorage, make_storage, upload_prefix
from shared.tables import Job, Status
from tests import servers
from tests.fakes import FakeEngine, transcription
from tests.work import item
from web import create_app
from worker.context import Services
from worker.errors import Failure, classify
from worker.runner import Runner

KB = 1024
# Libraries drop files and connections after errors without closing them; these tests collect them.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@contextmanager
def no_room_beyond(size: int) -> Iterator[None]:
    """Limit the size of files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        gc.collect()


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.fixture
def client(settings: Settings, sessions: Sessions) -> FlaskClient:
    app = create_app(settings, sessions=sessions, storage=make_storage(settings), queue=InMemoryQueue())
    return app.test_client()


def recording(size: int) -> Request:
    """Return an upload of this size, made beforehand because that takes space, too."""
    form = {"file": (io.BytesIO(os.urandom(size)), "song.wav")}
    headers = {"Idempotency-Key": f"{size} bytes"}
    return EnvironBuilder("/v1/transcriptions", method="POST", data=form, headers=Headers(headers)).get_request()


def post(client: FlaskClient, size: int, *, room: int | None = None) -> TestResponse:
    request = recording(size)
    with no_room_beyond(room) if room is not None else nullcontext():
        return client.open(request)


@pytest.mark.parametrize(
    ("size", "room"),
    [
        pytest.param(400 * KB, 200 * KB, id="in the storage folder"),
        pytest.param(2000 * KB, 1000 * KB, id="in the temporary folder"),
    ],
)
def test_upload_to_a_full_disk_can_be_repeated(client: FlaskClient, tmp_path: Path, size: int, room: int) -> None:
    refused = post(client, size, room=room)
    assert (refused.status_code, (refused.json or {})["code"]) == (503, "unavailable")
    assert refused.headers["Retry-After"]
    assert files(tmp_path / "storage") == []
    assert post(client, size).status_code == 202
    assert [path.stat().st_size for path in files(tmp_path / "storage")] == [size]


def test_database_on_a_full_disk_accepts_nothing(client: FlaskClient, tmp_path: Path) -> None:
    assert post(client, 1 * KB).status_code == 202
    log = tmp_path / "mt3.sqlite3-wal"
    refused = post(client, 2 * KB, room=log.stat().st_size)
    assert (refused.status_code, (refused.json or {})["code"]) == (503, "unavailable")
    assert len((client.get("/v1/transcriptions").json or {})["items"]) == 1
    assert post(client, 2 * KB).status_code == 202


class LoudEngine(FakeEngine):
    """Returns so many notes that they fill a file."""

    def transcribe(self, *args: Any, **kwargs: Any) -> Transcription:
        super().transcribe(*args, **kwargs)
        return transcription([Note(n / 100, n / 100 + 0.5, 60, 90) for n in range(10_000)], duration=100)


def add_job(sessions: Sessions, storage: ObjectStorage, content: bytes) -> UUID:
    job_id = UUID(str(uuid7()))
    key = upload_prefix(job_id) + "audio"
    storage.put(key, io.BytesIO(content), content_type="audio/wav")
    new = NewJob(job_id, "public", "basic_pitch", {}, {}, "song.wav", key, len(content))
    return jobs.create_job(sessions, new)[0].id


def get(sessions: Sessions, job_id: UUID) -> Job:
    with sessions() as session:
        return jobs.get_job(session, "public", job_id)


def s3_settings(settings: Settings, url: str) -> Settings:
    s3 = {"storage_url": f"s3://{servers.S3_BUCKET}/disk-full", "s3_endpoint_url": url}
    keys = {"s3_access_key_id": servers.S3_KEY, "s3_secret_access_key": SecretStr(servers.S3_SECRET)}
    return settings.model_copy(update=s3 | keys)


@pytest.mark.integration
@pytest.mark.parametrize("where", ["the storage folder", "the temporary folder"])
def test_attempt_on_a_full_disk_is_retried_uncounted(
    settings: Settings,
    postgres_sessions: Sessions,
    request: pytest.FixtureRequest,
    where: str,
) -> None:
    if where == "the temporary folder":
        settings = s3_settings(settings, request.getfixturevalue("s3_url"))
    storage = make_storage(settings)
    services = Services(
        settings=settings.model_copy(update={"max_attempts": 1}),
        sessions=postgres_sessions,
        storage=storage,
        engine=LoudEngine().as_engine(),
        queue=InMemoryQueue(),
        worker="host:1",
        stopping=threading.Event(),
    )
    runner = Runner(services)
    size = 800 * KB if where == "the temporary folder" else 1 * KB
    job_id = add_job(postgres_sessions, storage, os.urandom(size))
    with no_room_beyond(200 * KB):
        assert runner.run_next() == "failed"
    job = get(postgres_sessions, job_id)
    assert (job.status, job.error_code) == (Status.QUEUED, "unavailable")
    assert item(postgres_sessions, job_id).attempts_counted == 0
    assert list(storage.list_objects("results/")) == []
    servers.wait_until(lambda: runner.run_next() == "succeeded", what="the job's end")
    assert len(list(storage.list_objects("results/"))) == 2
    if where == "the storage folder":
        assert not any(path.name.startswith(".part") for path in files(Path(settings.storage_url[7:])))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_full_disk_for_temporary_files_is_not_counted(number: int) -> None:
    failure = classify(OSError(number, os.strerror(number)))
    assert failure == Failure("unavailable", "The worker's disk is full.", retryable=True, is_counted=False)
