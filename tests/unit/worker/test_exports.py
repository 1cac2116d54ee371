"""Exports by the runner: made from stored notes without any network, whatever happens to an attempt."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from sqlalchemy import update
from uuid6 import uuid7

from checkpoints.errors import DownloadError
from mt3_infer.audio import AudioStream
from mt3_infer.exports import FORMATS
from shared import jobs
from shared.config import Settings
from shared.db import Sessions
from shared.errors import StorageUnavailable
from shared.jobs import NewJob
from shared.locks import DatabaseLock
from shared.queue import InMemoryQueue
from shared.storage import ObjectStorage, content_disposition, make_storage, upload_prefix
from shared.tables import WorkItem, WorkStatus
from shared.watches import trust_all
from tests.fakes import FakeEngine
from tests.sound_fonts import write_sound_font
from tests.work import expire_lease, item, items, must_claim, rescue
from web import create_app
from worker.context import Services
from worker.engine import TranscriptionEngine
from worker.runner import Outcome, Runner
from worker.sweeper import Sweeper


class ExportEngine(FakeEngine):
    """An engine without any network: it can only open recordings and find the sound font."""

    def __init__(self, sound_font: Path) -> None:
        super().__init__()
        self._sound_font = sound_font

    def sound_font(self) -> Path:
        return self._sound_font

    def fetch(self, name: str, progress: object) -> None:
        raise AssertionError("An export needs no weights.")

    def open(self, name: str, recording: object, sample_rate: int | None = None) -> AudioStream:
        engine = TranscriptionEngine(cast(Any, None), device="cpu", max_audio_seconds=60)
        return engine.open(name, cast(Any, recording), sample_rate)


@pytest.fixture
def storage(settings: Settings) -> ObjectStorage:
    return make_storage(settings)


@pytest.fixture
def queue() -> InMemoryQueue:
    return InMemoryQueue()


@pytest.fixture
def client(settings: Settings, sessions: Sessions, storage: ObjectStorage, queue: InMemoryQueue) -> FlaskClient:
    return create_app(settings, sessions=sessions, storage=storage, queue=queue).test_client()


@pytest.fixture
def make_runner(
    settings: Settings, sessions: Sessions, storage: ObjectStorage, queue: InMemoryQueue, tmp_path: Path
) -> Callable[..., Runner]:
    def make(engine: FakeEngine | None = None, **changes: Any) -> Runner:
        engine = engine or ExportEngine(write_sound_font(tmp_path / "tone.sf2"))
        parts: dict[str, Any] = {
            "settings": settings,
            "sessions": sessions,
            "storage": storage,
            "engine": engine.as_engine(),
            "queue": queue,
            "worker": "host:1",
            "stopping": threading.Event(),
        }
        return Runner(Services(**(parts | changes)))

    return make


@pytest.fixture
def job(sessions: Sessions, storage: ObjectStorage, make_runner: Callable[..., Runner], bach: Path) -> UUID:
    """A job that succeeded, with its recording in storage."""
    job_id = UUID(str(uuid7()))
    key = upload_prefix(job_id) + "audio"
    storage.put(key, io.BytesIO(bach.read_bytes()), content_type="audio/flac")
    jobs.create_job(sessions, NewJob(job_id, "public", "basic_pitch", {}, {}, "song.wav", key, 5))
    assert make_runner(FakeEngine()).run_next() is Outcome.SUCCEEDED
    return job_id


def ask(client: FlaskClient, job: UUID, format: str, **options: Any) -> dict[str, Any]:
    body = {"format": format, "options": options}
    answer = client.post(f"/v1/transcriptions/{job}/exports", json=body)
    assert answer.status_code in (200, 202), answer.text
    assert answer.headers["Location"] == f"/v1/transcriptions/{job}/exports/{answer.json['id']}"
    return dict(answer.json or {})


def look(client: FlaskClient, export: dict[str, Any], job: UUID) -> dict[str, Any]:
    answer = client.get(f"/v1/transcriptions/{job}/exports/{export['id']}")
    assert answer.status_code == 200, answer.text
    assert ("Retry-After" in answer.headers) == (answer.json["status"] in ("queued", "processing"))
    return dict(answer.json or {})


def stored(storage: ObjectStorage, job: UUID) -> list[str]:
    return [entry.key for entry in storage.list_objects(f"exports/{job}/")]


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_every_format_is_made_downloaded_and_made_once(
    client: FlaskClient, job: UUID, make_runner: Callable[..., Runner], queue: InMemoryQueue, format: str
) -> None:
    notified = queue.notified
    export = ask(client, job, format)
    assert export["status"] == "queued"
    assert queue.notified == notified + 1
    assert make_runner().run_next() is Outcome.SUCCEEDED
    made = look(client, export, job)
    assert (made["status"], made["fraction"], made["error"]) == ("succeeded", 1.0, None)
    name, kind = made["artifact"]["name"], made["artifact"]["content_type"]
    with client.get(made["artifact"]["href"]) as answer:
        assert len(answer.data) == made["artifact"]["size"] > 0
        assert answer.mimetype == kind
        row = FORMATS[format]
        file_name = row.file_name(row.check_options({}))
        expected = "song.mid" if file_name.endswith(".mid") else f"song.{file_name}"
        assert answer.headers["Content-Disposition"] == content_disposition(expected, as_attachment=True)
    shown = client.get(f"/v1/transcriptions/{job}").json
    assert shown["status"] == "succeeded"
    assert [a["name"] for a in shown["artifacts"]] == ["transcription.mid", "notes.json", name]
    assert ask(client, job, format) == made
    assert make_runner().run_next() is None, "There is nothing left to do."


def test_two_sets_of_options_are_two_artifacts(
    client: FlaskClient, job: UUID, make_runner: Callable[..., Runner]
) -> None:
    first, same = ask(client, job, "audio"), ask(client, job, "audio", encoding="opus")
    other = ask(client, job, "audio", encoding="mp3")
    assert first["id"] == same["id"] != other["id"]
    make_runner().drain()
    names = {look(client, export, job)["artifact"]["name"] for export in (first, other)}
    assert len(names) == 2
    listed = client.get(f"/v1/transcriptions/{job}/exports").json["items"]
    assert [(export["id"], export["status"]) for export in listed] == [
        (first["id"], "succeeded"),
        (other["id"], "succeeded"),
    ]


def test_an_export_that_dies_with_its_worker_is_made_again_and_leaves_no_rest(
    client: FlaskClient,
    sessions: Sessions,
    storage: ObjectStorage,
    job: UUID,
    settings: Settings,
    make_runner: Callable[..., Runner],
) -> None:
    export = ask(client, job, "csv")
    lost = must_claim(sessions, job, "export")
    storage.put(f"exports/{job}/0/1/{lost.payload['artifact']}", io.BytesIO(b"half"), content_type="text/csv")
    expire_lease(sessions, lost)
    assert rescue(sessions) == ([("export", 0)], [])
    assert make_runner().run_next() is Outcome.SUCCEEDED
    made = look(client, export, job)
    assert made["status"] == "succeeded"
    eager = settings.model_copy(update={"lease_seconds": -1})
    Sweeper(
        eager, sessions, storage, DatabaseLock(sessions, "sweeper", holder="x", lease_seconds=60)
    ).remove_garbage()
    assert stored(storage, job) == [f"exports/{job}/0/2/{made['artifact']['name']}"]


def test_a_sweep_keeps_exports_and_removes_those_of_jobs_that_are_gone(
    client: FlaskClient,
    sessions: Sessions,
    storage: ObjectStorage,
    job: UUID,
    settings: Settings,
    make_runner: Callable[..., Runner],
) -> None:
    ask(client, job, "csv")
    make_runner().drain()
    gone = UUID(str(uuid7()))
    storage.put(f"exports/{gone}/0/1/notes.csv", io.BytesIO(b"x"), content_type="text/csv")
    with sessions.begin() as session:
        trust_all(session)
    eager = settings.model_copy(update={"orphan_hours": -1})
    Sweeper(
        eager, sessions, storage, DatabaseLock(sessions, "sweeper", holder="x", lease_seconds=60)
    ).remove_orphans()
    assert stored(storage, gone) == []
    assert len(stored(storage, job)) == 1
    assert len(list(storage.list_objects(f"results/{job}/"))) == 2


def test_a_job_that_is_deleted_in_the_middle_takes_its_exports_with_it(
    client: FlaskClient, storage: ObjectStorage, sessions: Sessions, job: UUID, make_runner: Callable[..., Runner]
) -> None:
    ask(client, job, "csv")
    engine = ExportEngine(Path("none"))

    class Deleting:
        """Storage in which the job disappears when its export is stored."""

        def __getattr__(self, name: str) -> Any:
            return getattr(storage, name)

        def put(self, key: str, *args: Any, **more: Any) -> Any:
            with sessions.begin() as session:
                jobs.delete_job(session, "public", job)
            return storage.put(key, *args, **more)

    assert make_runner(engine, storage=Deleting()).run_next() is Outcome.LOST
    assert client.get(f"/v1/transcriptions/{job}/exports").status_code == 404
    assert stored(storage, job) == []


def test_failures_are_shown_and_the_export_can_be_asked_for_again(
    client: FlaskClient, sessions: Sessions, job: UUID, make_runner: Callable[..., Runner], tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong.sf2"
    wrong.write_text("no sound")
    export = ask(client, job, "audio")
    assert make_runner(ExportEngine(wrong)).run_next() is Outcome.FAILED
    failed = look(client, export, job)
    assert (failed["status"], failed["error"]["code"]) == ("failed", "missing_sound_font")
    assert "no SF2 or SF3 sound font" in failed["error"]["detail"]
    assert client.get(f"/v1/transcriptions/{job}").json["status"] == "succeeded"
    again = ask(client, job, "audio")
    assert (again["id"], again["status"], again["error"]) == (export["id"], "queued", None)
    assert make_runner().run_next() is Outcome.SUCCEEDED
    assert look(client, export, job)["status"] == "succeeded"


def test_what_may_pass_is_tried_again_and_outages_are_waited_for(
    client: FlaskClient, sessions: Sessions, storage: ObjectStorage, job: UUID, make_runner: Callable[..., Runner]
) -> None:
    ask(client, job, "audio")

    class Offline(ExportEngine):
        def sound_font(self) -> Path:
            raise DownloadError("The checkpoint sound_font cannot be downloaded.", [])

    class Away:
        def __getattr__(self, name: str) -> Any:
            return getattr(storage, name)

        def open(self, key: str) -> Any:
            raise StorageUnavailable("Storage does not answer.")

    assert make_runner(Offline(Path("none"))).run_next() is Outcome.FAILED
    first = item(sessions, job, "export")
    assert (first.status, first.error_code) == (WorkStatus.QUEUED, "checkpoint_download_failed")
    assert first.attempts_counted == 1
    with sessions.begin() as session:
        session.execute(update(WorkItem).values(run_after=first.started_at))
    assert make_runner(storage=Away()).run_next() is Outcome.FAILED
    assert item(sessions, job, "export").attempts_counted == 1


def test_a_recording_that_is_gone_is_reported(
    client: FlaskClient, storage: ObjectStorage, job: UUID, make_runner: Callable[..., Runner]
) -> None:
    export = ask(client, job, "peaks")
    storage.delete_prefix(upload_prefix(job))
    assert make_runner().run_next() is Outcome.FAILED
    assert look(client, export, job)["error"]["code"] == "object_missing"
    answer = client.post(f"/v1/transcriptions/{job}/exports", json={"format": "peaks"})
    assert (answer.status_code, json.loads(answer.text)["code"]) == (410, "object_missing")
    ask(client, job, "csv")


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ({"format": "doc"}, "unknown_format", "available formats: midi"),
        ({"format": "audio", "options": {"encodin": 1}}, "invalid_option", "it takes: encoding"),
        ({"format": "audio", "options": {"encoding": "flac"}}, "invalid_option", "'opus', 'mp3' or 'wav'"),
        ({"format": "audio", "options": {"encoding": "\0"}}, "invalid_request", "NUL"),
        ({"format": "audio", "option": {}}, "invalid_request", "option"),
        ({"format": "x" * 40}, "invalid_request", "format"),
        ({"format": 7}, "invalid_request", "format"),
        ({}, "invalid_request", "format"),
        ([], "invalid_request", ""),
        ("csv", "invalid_request", ""),
    ],
)
def test_wrong_requests_are_refused_by_name(
    client: FlaskClient, job: UUID, sessions: Sessions, body: object, code: str, message: str
) -> None:
    answer = client.post(f"/v1/transcriptions/{job}/exports", json=body)
    problem = json.loads(answer.text)
    assert (answer.status_code, problem["code"]) == (422, code)
    assert message in problem["detail"]
    assert answer.content_type == "application/problem+json"
    assert items(sessions, job, "export") == []


def test_a_body_that_is_no_json_is_refused(client: FlaskClient, job: UUID) -> None:
    for body, words in ((b"", "format: Field required"), (b"{", "not valid JSON"), (b"\xff", "not valid JSON")):
        answer = client.post(f"/v1/transcriptions/{job}/exports", data=body, content_type="application/json")
        assert (answer.status_code, json.loads(answer.text)["code"]) == (422, "invalid_request")
        assert words in json.loads(answer.text)["detail"]


def test_a_job_that_has_not_succeeded_and_one_that_is_not_there(
    client: FlaskClient, sessions: Sessions, job: UUID
) -> None:
    waiting = UUID(str(uuid7()))
    jobs.create_job(sessions, NewJob(waiting, "public", "basic_pitch", {}, {}, "song.wav", "uploads/x/audio", 5))
    for format in ("csv", "peaks"):
        answer = client.post(f"/v1/transcriptions/{waiting}/exports", json={"format": format})
        assert (answer.status_code, json.loads(answer.text)["code"]) == (409, "state_conflict")
        nobody = client.post(f"/v1/transcriptions/{uuid7()}/exports", json={"format": format})
        assert (nobody.status_code, json.loads(nobody.text)["code"]) == (404, "not_found")
    assert client.get(f"/v1/transcriptions/{job}/exports/{uuid7()}").status_code == 404


def test_the_documentation_lists_formats_and_options(client: FlaskClient) -> None:
    paths = client.get("/openapi.json").json["paths"]
    create = paths["/v1/transcriptions/{job_id}/exports"]["post"]
    assert all(f"`{name}`" in create["description"] for name in FORMATS)
    assert "`encoding`" in create["description"]
    assert {"202", "404", "409", "410", "422"} <= set(create["responses"])
