"""The client and its commands against a real web server, and against one that fails in every way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from click.testing import CliRunner

from mt3_infer.cli import main
from mt3_infer.client import (
    Client,
    ClientError,
    ConflictError,
    InvalidRequestError,
    JobFailedError,
    NotFoundError,
    UnauthorizedError,
    UnavailableError,
    UnreachableError,
    WaitTimeoutError,
)
from mt3_infer.client.uploading import Journal
from shared import work
from shared.config import Settings
from shared.db import Sessions, make_engine, make_sessions
from shared.kinds import Result
from shared.storage import LocalStorage, make_storage, result_prefix
from tests import servers
from tests.web_server import Reply, Request, Site, as_json, in_turn, status, web_server
from tests.work import must_claim

pytestmark = pytest.mark.integration
MIDI = b"MThd" + bytes(range(256)) * 1000


class Service:
    """A web process, and what a worker does for it."""

    def __init__(self, url: str, folder: Path) -> None:
        settings = Settings(database_url=f"sqlite:///{folder}/mt3.sqlite3", storage_url=f"file://{folder}/storage")
        self.url = url
        self.sessions: Sessions = make_sessions(make_engine(settings))
        storage = make_storage(settings)
        assert isinstance(storage, LocalStorage)
        self.storage = storage

    def finish(self, job_id: str) -> None:
        claim = must_claim(self.sessions, UUID(job_id))
        key = result_prefix(claim.job_id, 1) + "transcription.mid"
        (self.storage.root / key).parent.mkdir(parents=True, exist_ok=True)
        (self.storage.root / key).write_bytes(MIDI)
        artifact = {
            "name": "transcription.mid",
            "content_type": "audio/midi",
            "size": len(MIDI),
            "sha256": hashlib.sha256(MIDI).hexdigest(),
            "key": key,
        }
        with self.sessions.begin() as session:
            notes = artifact | {"name": "notes.json", "content_type": "application/json"}
            work.complete(session, claim, result=Result([artifact, notes], note_count=3, audio_seconds=2))

    def fail(self, job_id: str) -> None:
        claim = must_claim(self.sessions, UUID(job_id))
        with self.sessions.begin() as session:
            code, detail = "undecodable_audio", "Unsupported or corrupt audio file."
            work.fail(session, claim, code=code, detail=detail, retry_after_seconds=None, max_attempts=3)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("web")
    with servers.web_process(folder) as url:
        yield Service(url, folder)


@pytest.fixture
def client(service: Service, tmp_path: Path) -> Iterator[Client]:
    with Client(service.url, patience=5, journal=Journal(tmp_path / "journal")) as client:
        yield client


@pytest.fixture
def song(tmp_path: Path) -> Path:
    file = tmp_path / "A song.wav"
    file.write_bytes(b"RIFF" + bytes(100_000))
    return file


def test_a_recording_is_submitted_waited_for_and_downloaded(
    service: Service, client: Client, song: Path, tmp_path: Path
) -> None:
    sent: list[tuple[int, int]] = []
    job = client.submit(
        song,
        model="light",
        options={"onset_threshold": 0.4},
        metadata={"album": "Demo"},
        progress=lambda done, total: sent.append((done, total)),
    )
    assert (job.model, job.filename, job.metadata) == ("basic_pitch", "A song.wav", {"album": "Demo"})
    assert job.options == {"onset_threshold": 0.4}
    assert sent[-1] == (100_004, 100_004)
    with pytest.raises(WaitTimeoutError):
        client.wait(job.id, timeout=0.2)
    service.finish(job.id)
    seen: list[str] = []
    done = client.wait(job.id, progress=lambda job: seen.append(job.status))
    assert (done.status, done.note_count, seen) == ("succeeded", 3, ["succeeded"])
    path = client.download(done, target=tmp_path / "out.mid")
    assert path.read_bytes() == MIDI
    with pytest.raises(NotFoundError, match="score"):
        client.download(done, "score.musicxml", tmp_path / "score.musicxml")
    assert not (tmp_path / "score.musicxml").exists()


def test_the_same_key_creates_one_job(client: Client) -> None:
    first, second = (client.submit(b"RIFF", name="a.wav", idempotency_key="once") for _ in range(2))
    assert first.id == second.id
    with pytest.raises(InvalidRequestError) as error:
        client.submit(b"RIFX", name="a.wav", idempotency_key="once")
    assert error.value.code == "idempotency_conflict"


def test_jobs_are_listed_canceled_retried_and_deleted(service: Service, client: Client) -> None:
    ids = [client.submit(b"RIFF", name=f"{number}.wav", metadata={"set": "listed"}).id for number in range(3)]
    listed = [job.id for job in client.list({"metadata.set": "listed"})]
    assert listed == ids[::-1]
    assert [job.id for job in client.list(limit=2)] == ids[:0:-1]
    assert client.cancel(ids[0]).status == "canceled"
    assert [job.id for job in client.list({"status": "canceled", "metadata.set": "listed"})] == ids[:1]
    assert client.retry(ids[0]).status == "queued"
    with pytest.raises(ConflictError, match="Only a failed or canceled"):
        client.retry(ids[0])
    client.delete(ids[0])
    with pytest.raises(NotFoundError):
        client.get(ids[0])


def test_a_job_that_fails_raises_its_error(service: Service, client: Client) -> None:
    job = client.submit(b"RIFF")
    service.fail(job.id)
    with pytest.raises(JobFailedError, match="corrupt") as error:
        client.wait(job.id)
    assert error.value.code == "undecodable_audio"


def test_exports_are_requested_and_listed(service: Service, client: Client) -> None:
    job = client.submit(b"RIFF")
    with pytest.raises(ConflictError):
        client.export(job.id, "csv")
    service.finish(job.id)
    with pytest.raises(WaitTimeoutError):
        client.export(job.id, "csv", timeout=0)
    (export,) = client.exports(job.id)
    assert (export.format, export.status) == ("csv", "queued")


def test_errors_of_the_service_are_typed(client: Client) -> None:
    with pytest.raises(InvalidRequestError, match="Unknown model") as error:
        client.submit(b"RIFF", model="nonesuch")
    assert (error.value.status, error.value.code) == (422, "unknown_model")


def job_json(**changes: Any) -> dict[str, Any]:
    """Return a job as a service shows it, with a field that this client does not know."""
    progress = {"audio_seconds_done": 0, "audio_seconds_total": None, "fraction": None, "eta_seconds": None}
    nothing = ("phase", "queue", "filename", "started_at", "finished_at", "note_count", "error")
    return {
        **dict.fromkeys(nothing),
        "id": "1",
        "status": "queued",
        "progress": progress,
        "model": "m",
        "options": {},
        "metadata": {},
        "created_at": "2026-01-01T00:00:00Z",
        "attempts": 0,
        "field_of_a_later_version": 1,
        **changes,
    }


@pytest.fixture
def site() -> Iterator[Site]:
    with web_server() as site:
        yield site


def problem(code: int, name: str, **headers: str) -> Callable[[Request], Reply]:
    body = json.dumps({"code": name, "detail": "Not now.", "status": code}).encode()
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return lambda _: Reply(code, body, {"Content-Type": "application/problem+json", **named})


def test_requests_are_repeated_as_the_service_asks_with_the_same_key(site: Site, song: Path) -> None:
    site.routes["/v1/transcriptions"] = in_turn(
        problem(503, "unavailable", Retry_After="0"),
        problem(429, "rate_limited", Retry_After="0"),
        lambda _: Reply(200, b"x" * 10, {"Content-Length": "10"}, drop_after=1),
        lambda _: as_json(job_json(), 202),
    )
    with Client(site.url) as client:
        assert client.submit(song).id == "1"
    keys = {request.headers["idempotency-key"] for request in site.requests}
    assert (len(site.requests), len(keys)) == (4, 1)
    assert all(b"RIFF" in request.body and len(request.body) > 100_000 for request in site.requests)


def test_patience_ends_with_the_error_of_the_service(site: Site) -> None:
    site.missing = problem(503, "unavailable", Retry_After="30")
    with Client(site.url, patience=5) as client, pytest.raises(UnavailableError, match="Not now") as error:
        client.get("1")
    assert (error.value.retry_after, len(site.requests)) == (30, 1)


def test_requests_that_may_have_had_an_effect_are_not_repeated(site: Site) -> None:
    site.missing = lambda _: Reply(200, b"x" * 10, {"Content-Length": "10"}, drop_after=1)
    with Client(site.url) as client, pytest.raises(UnreachableError):
        client.retry("1")
    assert len(site.requests) == 1


def test_answers_that_are_no_problem_documents_are_errors_too(site: Site) -> None:
    site.missing = status(401)
    with Client(site.url) as client, pytest.raises(UnauthorizedError, match="401") as error:
        client.get("1")
    assert error.value.code == "http_401"


def test_a_service_that_is_not_there_is_named() -> None:
    url = f"http://127.0.0.1:{servers.free_port()}"
    with Client(url, patience=0) as client, pytest.raises(UnreachableError, match=url):
        client.get("1")


def test_a_key_is_sent_but_not_to_other_hosts(site: Site, tmp_path: Path) -> None:
    with web_server() as bucket:
        bucket.routes["/file"] = lambda _: Reply(200, MIDI)
        site.missing = lambda _: Reply(
            303, b"", {"Location": f"{bucket.url.replace('127.0.0.1', 'localhost')}/file"}
        )
        artifact = {
            "name": "transcription.mid",
            "content_type": "audio/midi",
            "size": len(MIDI),
            "sha256": hashlib.sha256(MIDI).hexdigest(),
            "href": "/file",
        }
        site.routes["/v1/transcriptions/1"] = lambda _: as_json(job_json(artifacts=[artifact]))
        with Client(site.url, api_key="mt3_secret") as client:
            path = client.download("1", target=tmp_path / "out.mid")
    assert path.read_bytes() == MIDI
    assert {request.headers["authorization"] for request in site.requests} == {"Bearer mt3_secret"}
    assert all("authorization" not in request.headers for request in bucket.requests)


def test_a_download_goes_on_after_an_interruption_and_is_checked(site: Site, tmp_path: Path) -> None:
    def serve(content: bytes) -> Callable[[Request], Reply]:
        def rest(request: Request) -> Reply:
            start = int(request.headers["range"].removeprefix("bytes=").rstrip("-"))
            bounds = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
            return Reply(206, content[start:], bounds)

        return in_turn(lambda _: Reply(200, content, drop_after=150_000), rest)

    artifact = {"name": "a", "content_type": "x/y", "size": len(MIDI), "href": "/file"}
    right = {**artifact, "sha256": hashlib.sha256(MIDI).hexdigest()}
    site.routes["/v1/transcriptions/1"] = lambda _: as_json(job_json(artifacts=[right]))
    site.routes["/file"] = serve(MIDI)
    with Client(site.url) as client:
        assert client.download("1", "a", tmp_path / "a").read_bytes() == MIDI
        assert site.served < 1.7 * len(MIDI)
        site.routes["/file"] = serve(MIDI[::-1])
        (tmp_path / "b").write_bytes(b"before")
        with pytest.raises(ClientError, match="damaged"):
            client.download("1", "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"before"


class Uploads:
    """Uploads in parts, in memory; every third part is lost on its way."""

    def __init__(self, site: Site, part_size: int) -> None:
        self.part_size = part_size
        self.parts: dict[int, bytes] = {}
        self.created = self.sent = 0
        self.size = 0
        site.routes["/v1/uploads"] = self.create
        site.routes["/v1/uploads/u1"] = lambda _: as_json(self.view())
        site.routes["/v1/uploads/u1/complete"] = self.complete
        site.routes["/v1/transcriptions"] = self.submit
        for number in range(1, 20):
            site.routes[f"/v1/uploads/u1/parts/{number}"] = self.put
        self.site = site

    def create(self, request: Request) -> Reply:
        self.created += 1
        self.size = json.loads(request.body)["size"]
        return as_json(self.view(), 201)

    def view(self) -> dict[str, Any]:
        numbers = range(1, -(-self.size // self.part_size) + 1)
        missing = [
            {
                "number": number,
                "offset": (number - 1) * self.part_size,
                "size": min(self.part_size, self.size - (number - 1) * self.part_size),
                "url": f"/v1/uploads/u1/parts/{number}",
            }
            for number in numbers
            if number not in self.parts
        ]
        counted = {"missing_count": len(missing), "missing": missing[:3]}
        return {"id": "u1", "status": "uploading", "size": self.size, **counted}

    def put(self, request: Request) -> Reply:
        self.sent += 1
        if self.sent % 3 == 0:
            return Reply(200, b"x" * 10, {"Content-Length": "10"}, drop_after=1)
        self.parts[int(request.path.rpartition("/")[2])] = request.body
        return Reply(204, b"")

    def complete(self, request: Request) -> Reply:
        whole = b"".join(self.parts[number] for number in sorted(self.parts))
        assert json.loads(request.body)["sha256"] == hashlib.sha256(whole).hexdigest()
        return as_json(self.view())

    def submit(self, request: Request) -> Reply:
        assert json.loads(request.body) == {"upload_id": "u1", "model": "light"}
        return as_json(job_json(), 202)


def test_large_recordings_are_sent_in_parts_and_go_on_in_another_client(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mt3_infer.client.client.IN_PARTS", 1000)
    monkeypatch.setattr("mt3_infer.client.transport.FIRST_PAUSE", 0.0)
    song = tmp_path / "song.wav"
    song.write_bytes(bytes(range(256)) * 40)
    uploads, journal = Uploads(site, 1000), Journal(tmp_path / "journal")
    uploads_put = uploads.put
    for number in range(6, 20):  # the first client gets no further
        site.routes[f"/v1/uploads/u1/parts/{number}"] = problem(403, "forbidden")
    with Client(site.url, patience=0.5, journal=journal) as client, pytest.raises(ClientError):
        client.submit(song, model="light")
    for number in range(6, 20):
        site.routes[f"/v1/uploads/u1/parts/{number}"] = uploads_put
    sent: list[tuple[int, int]] = []
    with Client(site.url, journal=journal) as client:
        assert client.submit(song, model="light", progress=lambda *at: sent.append(at)).id == "1"
    assert uploads.created == 1
    assert uploads.sent <= 17, "11 parts, each third one twice"
    assert b"".join(uploads.parts[number] for number in sorted(uploads.parts)) == song.read_bytes()
    assert sent[-1] == (10_240, 10_240)
    assert not list((tmp_path / "journal").iterdir())


def run(*arguments: str | Path, code: int = 0) -> str:
    """Run the command, and return what it printed."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_commands_submit_list_show_and_download(service: Service, song: Path, tmp_path: Path) -> None:
    server = ("--server", service.url)
    job_id = run("submit", song, *server, "-m", "light").split()[0]
    assert job_id in run("jobs", "list", *server)
    assert "basic_pitch" in run("jobs", "show", job_id, *server)
    assert run("jobs", "cancel", job_id, *server) == f"{job_id}: canceled\n"
    assert run("jobs", "retry", job_id, *server) == f"{job_id}: queued\n"
    service.finish(job_id)
    out = tmp_path / "out"
    assert run("jobs", "download", job_id, "-o", out, *server).strip() == str(out / "transcription.mid")
    assert (out / "transcription.mid").read_bytes() == MIDI
    assert "already exists" in run("jobs", "download", job_id, "-o", out, *server, code=1)
    (job,) = json.loads(run("jobs", "list", "-n", "1", "--json", *server))
    assert (job["id"], job["status"]) == (job_id, "succeeded")
    run("jobs", "delete", job_id, *server)
    assert "does not exist" in run("jobs", "show", job_id, *server, code=1)


def test_submit_waits_and_writes_a_file_for_each_recording(
    service: Service, song: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, out = tmp_path / "bad.wav", tmp_path / "out"
    bad.write_bytes(b"bad")
    submit = Client.submit

    def and_finish(self: Client, recording: Any, **more: Any) -> Any:
        job = submit(self, recording, **more)
        (service.fail if recording == bad else service.finish)(job.id)
        return job

    monkeypatch.setattr(Client, "submit", and_finish)
    output = run("submit", song, bad, "--server", service.url, "-o", out, code=1)
    assert (out / "A song.mid").read_bytes() == MIDI
    assert f"{bad}: Unsupported or corrupt" in output
    assert "already exists" in run("submit", song, "--server", service.url, "-o", out, code=1)


def test_commands_name_what_is_wrong(song: Path) -> None:
    assert "must be an address" in run("jobs", "list", "--server", "localhost:8000", code=2)
