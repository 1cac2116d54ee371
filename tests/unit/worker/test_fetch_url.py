"""Fetching recordings from URLs: resumed, bounded, and from public addresses only."""

from __future__ import annotations

import http.server
import io
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest
from uuid6 import uuid7

from shared import jobs
from shared.config import Settings
from shared.db import Sessions
from shared.jobs import NewJob
from shared.public_address import PublicHttp
from shared.queue import InMemoryQueue
from shared.storage import ObjectStorage, make_storage, upload_prefix
from shared.tables import Job, Phase, Status
from tests.dns import DnsServer
from tests.fakes import FakeEngine
from tests.servers import wait_until
from tests.sites import Answer, running, sends
from worker.context import Services
from worker.handlers import fetch_url
from worker.runner import Runner

SOUND = random.Random(5).randbytes(700_000)
Handler = http.server.BaseHTTPRequestHandler


@pytest.fixture
def settings(settings: Settings) -> Settings:
    limits = {
        "allowed_networks": frozenset({"127.0.0.2"}),
        "max_recording_bytes": 1_000_000,
        "fetch_seconds": 30.0,
    }
    return settings.model_copy(update={**limits, "retry_seconds": 0.001, "max_attempts": 1})


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_url, "PAUSE_SECONDS", 0.001)


class World:
    """A service without web: jobs of URLs, and a worker."""

    def __init__(self, settings: Settings, sessions: Sessions) -> None:
        self.settings, self.sessions = settings, sessions
        self.storage: ObjectStorage = make_storage(settings)
        self.engine = FakeEngine()
        self.stopping = threading.Event()

    def add(self, url: str) -> UUID:
        job_id = UUID(str(uuid7()))
        key = upload_prefix(job_id) + "audio"
        new = NewJob(job_id, "public", "basic_pitch", {}, {}, "song.wav", key, 0, source_url=url)
        return jobs.create_job(self.sessions, new)[0].id

    def add_recording(self, content: bytes) -> UUID:
        job_id = UUID(str(uuid7()))
        key = upload_prefix(job_id) + "audio"
        self.storage.put(key, io.BytesIO(content), content_type="audio/wav")
        new = NewJob(job_id, "public", "basic_pitch", {}, {}, "song.wav", key, len(content))
        return jobs.create_job(self.sessions, new)[0].id

    def runner(self) -> Runner:
        return Runner(
            Services(
                settings=self.settings,
                sessions=self.sessions,
                storage=self.storage,
                engine=self.engine.as_engine(),
                queue=InMemoryQueue(),
                worker="host:1",
                stopping=self.stopping,
            )
        )

    def job(self, job_id: UUID) -> Job:
        with self.sessions() as session:
            return jobs.get_job(session, "public", job_id)

    def fetch(self, url: str) -> Job:
        """Run the first item of a job of this URL; return the job."""
        job_id = self.add(url)
        self.runner().run_next()
        return self.job(job_id)


@pytest.fixture
def world(settings: Settings, any_sessions: Sessions) -> World:
    return World(settings, any_sessions)


@contextmanager
def site(answer: Answer) -> Iterator[tuple[Any, str]]:
    with running("127.0.0.2", answer) as server:
        yield server, f"http://127.0.0.2:{server.port}/song.wav"


def test_recording_is_fetched_and_transcribed(world: World) -> None:
    with site(sends(SOUND)) as (server, url):
        job = world.fetch(url)
        assert (job.status, job.phase, job.download, job.attempts) == (Status.QUEUED, None, None, 0)
        assert job.upload_bytes == len(SOUND)
        assert b"".join(world.storage.stream(job.upload_key)) == SOUND
    assert world.runner().run_next() == "succeeded"
    job = world.job(job.id)
    assert (job.status, job.attempts) == (Status.SUCCEEDED, 1)
    assert world.engine.recordings == [SOUND]
    assert len(server.requests) == 1


class Cutting:
    """Answers with the rest of the sound, but cuts each connection after some bytes."""

    def __init__(
        self, size: int, *, etag: str | None = '"one"', resumes: bool = True, states: bool = True
    ) -> None:
        self.size, self.etag, self.resumes, self.states = size, etag, resumes, states
        self.ranges: list[str | None] = []
        self.sent = 0

    def __call__(self, handler: Handler) -> None:
        asked = handler.headers["Range"]
        self.ranges.append(asked)
        start = 0
        if asked and self.resumes and handler.headers["If-Range"] == self.etag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{len(SOUND) - 1}/{len(SOUND)}")
        else:
            handler.send_response(200)
        if self.etag:
            handler.send_header("ETag", self.etag)
        handler.send_header("Content-Length", str(len(SOUND) - start))
        handler.end_headers()
        piece = SOUND[start : start + self.size]
        self.sent += len(piece)
        handler.wfile.write(piece)


def test_connection_that_breaks_off_is_resumed(world: World) -> None:
    cutting = Cutting(100_000)
    with site(cutting) as (_, url):
        job = world.fetch(url)
    assert b"".join(world.storage.stream(job.upload_key)) == SOUND
    assert cutting.sent == len(SOUND)
    assert len(cutting.ranges) == 7
    assert cutting.ranges[0] is None
    assert None not in cutting.ranges[1:]


@pytest.mark.parametrize("options", [{"etag": None}, {"etag": 'W/"weak"'}, {"resumes": False}])
def test_server_that_cannot_resume_is_asked_again_from_the_start(world: World, options: dict[str, Any]) -> None:
    cutting = Cutting(300_000, **options)

    def patient(handler: Handler) -> None:
        cutting.size = 300_000 * (len(cutting.ranges) + 1)
        cutting(handler)

    with site(patient) as (_, url):
        job = world.fetch(url)
    assert b"".join(world.storage.stream(job.upload_key)) == SOUND


def test_file_that_changed_meanwhile_is_fetched_from_the_start(world: World) -> None:
    other = bytes(reversed(SOUND))

    def changing(handler: Handler) -> None:
        if handler.headers["Range"] is None:
            Cutting(200_000)(handler)
        else:
            sends(other, ETag='"two"')(handler)

    with site(changing) as (_, url):
        job = world.fetch(url)
    assert b"".join(world.storage.stream(job.upload_key)) == other


def test_server_that_resumes_at_another_place_is_not_believed(world: World) -> None:
    count = 0

    def lying(handler: Handler) -> None:
        nonlocal count
        count += 1
        if handler.headers["Range"] is None:
            Cutting(200_000 if count == 1 else len(SOUND))(handler)
        else:
            headers = {"ETag": '"one"', "Content-Range": f"bytes 5-{len(SOUND) - 1}/{len(SOUND)}"}
            sends(SOUND[5:], 206, **headers)(handler)

    with site(lying) as (_, url):
        job = world.fetch(url)
    assert b"".join(world.storage.stream(job.upload_key)) == SOUND


def endless(handler: Handler) -> None:
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(bytes(65536))
    except OSError:
        pass


def nothing(handler: Handler) -> None:
    handler.close_connection = True


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (sends(b"no", 404), "source_unavailable", "status 404: there is no such file"),
        (sends(b"no", 401), "source_unavailable", "it needs a log-in"),
        (sends(b"no", 503), "source_unavailable", "status 503: try again later"),
        (sends(b"", 204), "source_unavailable", "status 204"),
        (sends(b"", 302, Location="http://127.0.0.1/"), "address_refused", "127.0.0.1 is not a public address"),
        (sends(b"", 302, Location="/song.wav"), "source_unavailable", "status 302"),
        (sends(b"<html>", 200, **{"Content-Type": "text/html; charset=utf-8"}), "source_not_audio", "a web page"),
        (sends(b""), "source_not_audio", "an empty file"),
        (sends(bytes(1_000_001)), "source_too_large", "the limit of 1 MB"),
        (endless, "source_too_large", "the limit of 1 MB"),
        (nothing, "request_failed", "127.0.0.2 failed or broke off"),
    ],
)
def test_failure_has_a_code_and_a_sentence(world: World, answer: Answer, code: str, words: str) -> None:
    with site(answer) as (_, url):
        job = world.fetch(f"{url}?token=secret")
    assert (job.status, job.error_code) == (Status.FAILED, code)
    assert words in (job.error_detail or "")
    assert "secret" not in (job.error_detail or "")
    assert list(world.storage.list_objects("uploads/")) == []


def test_busy_server_is_tried_again(world: World) -> None:
    answers = [sends(b"", 503), sends(b"", 429), sends(SOUND)]
    with site(lambda handler: answers.pop(0)(handler)) as (_, url):
        assert world.fetch(url).upload_bytes == len(SOUND)


def test_slow_server_is_given_up_at_the_limit(settings: Settings, any_sessions: Sessions) -> None:
    ended = threading.Event()

    def slow(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not ended.wait(0.02):
            try:
                handler.wfile.write(b"x")
            except OSError:
                return

    world = World(settings.model_copy(update={"fetch_seconds": 0.3}), any_sessions)
    with site(slow) as (_, url):
        job = world.fetch(url)
        ended.set()
    assert (job.status, job.error_code) == (Status.FAILED, "source_too_slow")


def test_progress_is_visible_and_a_cancel_ends_it(world: World) -> None:
    go_on = threading.Event()

    def halting(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(SOUND)))
        handler.end_headers()
        handler.wfile.write(SOUND[:300_000])
        go_on.wait(30)
        handler.wfile.write(SOUND[300_000:])

    with site(halting) as (_, url):
        job_id = world.add(url)
        thread = threading.Thread(target=world.runner().run_next)
        thread.start()
        wait_until(lambda: (world.job(job_id).download or {}).get("bytes_done"), what="progress")
        job = world.job(job_id)
        assert (job.status, job.phase) == (Status.PROCESSING, Phase.FETCHING_SOURCE)
        assert job.download["bytes_total"] == len(SOUND)
        with world.sessions.begin() as session:
            jobs.cancel_job(session, "public", job_id)
        go_on.set()
        thread.join()
    assert world.job(job_id).status is Status.CANCELED
    assert list(world.storage.list_objects("uploads/")) == []


def test_slow_servers_leave_threads_to_other_work(world: World) -> None:
    world.settings = world.settings.model_copy(update={"worker_concurrency": 4})
    go_on = threading.Event()

    def halting(handler: Handler) -> None:
        go_on.wait(30)
        sends(SOUND)(handler)

    with site(halting) as (_, url):
        slow = [world.add(url) for _ in range(3)]
        runner = world.runner()
        threads = [threading.Thread(target=runner.run_next) for _ in range(2)]
        for thread in threads:
            thread.start()
        wait_until(lambda: runner.services.fetches.count == 2, what="two fetches")
        assert runner.run_next() is None  # the third one waits, and this thread is free for other work
        job_id = world.add_recording(SOUND)
        assert runner.run_next() == "succeeded"
        assert world.job(job_id).status is Status.SUCCEEDED
        go_on.set()
        for thread in threads:
            thread.join()
        runner.drain()
    assert all(world.job(job_id).upload_bytes for job_id in slow)


def test_name_whose_address_changes_to_an_internal_one_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    cutting = Cutting(100_000)
    with (
        DnsServer() as dns,
        running("127.0.0.2", cutting) as public,
        running("127.0.0.1", sends(SOUND), public.port) as inside,
    ):
        dns.answers["rebind.example"] = [["127.0.0.2"], ["127.0.0.1"]]

        def admitted(_settings: Settings) -> PublicHttp:
            return PublicHttp(["127.0.0.2/32"], dns.resolve)

        monkeypatch.setattr(fetch_url, "make_http", admitted)
        job = world.fetch(f"http://rebind.example:{public.port}/")
        assert (job.status, job.error_code) == (Status.FAILED, "address_refused")
        assert (public.connections, inside.connections) == (1, 0)


def test_worker_that_died_is_replaced(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with site(sends(SOUND)) as (_, url):
        world.settings = world.settings.model_copy(update={"max_attempts": 3})
        job_id = world.add(url)
        with monkeypatch.context() as patched:
            patched.setattr(
                type(world.storage), "put", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("died"))
            )
            assert world.runner().run_next() == "failed"
        assert world.job(job_id).status is Status.QUEUED
        wait_until(lambda: world.runner().run_next(), what="the next attempt")
    job = world.job(job_id)
    assert job.upload_key == f"uploads/{job_id}/2/audio"
    assert b"".join(world.storage.stream(job.upload_key)) == SOUND
