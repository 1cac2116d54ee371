"""Keys and clients for tests of access control."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from shared import keys, work
from shared.config import Settings
from shared.db import Sessions
from shared.kinds import Result
from shared.queue import InMemoryQueue
from shared.storage import ObjectStorage, make_storage, result_prefix
from tests.work import must_claim
from web import create_app
from web.services import EXTENSION, Services


class Client(FlaskClient):
    """Reads every response to its end, so that no file stays open."""

    def open(self, *args: Any, buffered: bool = True, **kwargs: Any) -> TestResponse:
        return super().open(*args, buffered=buffered, **kwargs)


@dataclass
class KeyService:
    """An application that needs keys, and what its tests do to it."""

    app: Flask
    sessions: Sessions
    storage: ObjectStorage
    owners: dict[str, str] = field(default_factory=dict)  # by secret
    ids: dict[str, UUID] = field(default_factory=dict)

    @property
    def services(self) -> Services:
        services: Services = self.app.extensions[EXTENSION]
        return services

    def key(self, name: str = "a key", **more: Any) -> str:
        """Make a key and return it."""
        with self.sessions.begin() as session:
            row, secret = keys.create_key(session, name, **more)
        self.owners[secret], self.ids[secret] = row.owner, row.id
        return secret

    def browser(self) -> FlaskClient:
        """Return a client without a key, which keeps cookies."""
        return self.app.test_client()

    def call(self, key: str | None, method: str, path: str, **more: Any) -> TestResponse:
        """Send a request with a key."""
        headers = dict(more.pop("headers", {}))
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        return self.app.test_client(use_cookies=False).open(path, method=method, headers=headers, **more)

    def submit(self, key: str | None, content: bytes = b"RIFF", **more: Any) -> TestResponse:
        """Upload a recording."""
        if len(content) > 100_000:  # a form of that size would go to a temporary file of the test client
            path = "/v1/transcriptions?filename=song.wav"
            return self.call(key, "POST", path, data=content, content_type="audio/wav", **more)
        data = {"file": (io.BytesIO(content), "song.wav"), **more.pop("form", {})}
        return self.call(key, "POST", "/v1/transcriptions", data=data, **more)

    def job(self, key: str) -> str:
        """Upload a recording and return the id of its job."""
        answer = self.submit(key)
        assert answer.status_code == 202, answer.text
        return str((answer.json or {})["id"])

    def finish(self, job_id: str) -> None:
        """Complete a job as a worker does, without a model."""
        claim = must_claim(self.sessions, UUID(job_id))
        artifacts = []
        for name, kind, content in (
            ("transcription.mid", "audio/midi", b"MThd"),
            ("notes.json", "application/json", b"{}"),
        ):
            key = result_prefix(claim.job_id, claim.attempt) + name
            stored = self.storage.put(key, io.BytesIO(content), content_type=kind)
            row = {"name": name, "content_type": kind, "size": len(content), "sha256": stored.sha256, "key": key}
            artifacts.append(row)
        with self.sessions.begin() as session:
            result = Result(artifacts=artifacts, note_count=1, audio_seconds=2.0)
            assert work.complete(session, claim, result=result)

    def finished_job(self, key: str) -> str:
        """Upload a recording, complete its job and return its id."""
        job_id = self.job(key)
        self.finish(job_id)
        return job_id


@contextmanager
def key_service(settings: Settings, sessions: Sessions, **changed: Any) -> Iterator[KeyService]:
    """Make an application that needs keys; changed settings are passed by name."""
    settings = settings.model_copy(update={"auth": "keys", **changed})
    storage = make_storage(settings)
    app = create_app(settings, sessions=sessions, storage=storage, queue=InMemoryQueue())
    app.test_client_class = Client
    yield KeyService(app, sessions, storage)
    app.extensions[EXTENSION].credentials.close()


def assert_problem(response: TestResponse, status: int, code: str, words: str = "") -> None:
    """Check a problem document."""
    problem = response.get_json(force=True, silent=True) or {}
    assert (response.status_code, problem.get("code")) == (status, code), response.text
    assert words in problem["detail"]
