"""Exports by the whole service: with the weights gone, by equal requests at once, and when a worker is killed."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import pytest

from tests import servers
from tests.client import Answer, ServiceClient
from tests.sound_fonts import write_sound_font

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[servers.Service]:
    """A service with checkpoints and a sound font of its own."""
    environment = {
        "MT3_CHECKPOINT_DIR": str(folder / "checkpoints"),
        "MT3_SOUND_FONT": str(write_sound_font(folder / "tone.sf2")),
        "MT3_DEFAULT_MODEL": "basic_pitch",
        "MT3_LEASE_SECONDS": "3",
    }
    with servers.whole_service(folder, environment) as service:
        yield service


@pytest.fixture
def client(service: servers.Service) -> ServiceClient:
    return ServiceClient(service.url)


@pytest.fixture(scope="module")
def job(service: servers.Service, folder: Path, bach: Path) -> dict[str, Any]:
    """A transcription whose weights have been removed since."""
    job = ServiceClient(service.url).transcribe(bach)
    assert job["status"] == "succeeded"
    shutil.rmtree(folder / "checkpoints" / "basic_pitch")
    return job


def request(client: ServiceClient, job: dict[str, Any], format: str, *, wait: int = 20, **options: Any) -> Answer:
    body = json.dumps({"format": format, "options": options}).encode()
    path = f"/v1/transcriptions/{job['id']}/exports"
    return client.call("POST", path, data=body, Content_Type="application/json", Prefer=f"wait={wait}")


def download(client: ServiceClient, job: dict[str, Any], format: str, **options: Any) -> bytes:
    answer = request(client, job, format, **options)
    assert answer.status == 200, answer.body
    export = answer.json
    assert (export["status"], export["error"]) == ("succeeded", None)
    content = client.artifact(job, export["artifact"]["name"])
    assert len(content) == export["artifact"]["size"]
    return content


def test_exports_are_made_without_the_weights(client: ServiceClient, job: dict[str, Any]) -> None:
    notes = json.loads(client.artifact(job, "notes.json"))["notes"]
    assert download(client, job, "midi").startswith(b"MThd")
    rows = list(csv.DictReader(io.StringIO(download(client, job, "csv").decode())))
    assert [int(row["pitch"]) for row in rows] == [note["pitch"] for note in notes]
    with av.open(io.BytesIO(download(client, job, "audio"))) as container:
        assert (container.duration or 0) / 1e6 == pytest.approx(24.5, abs=3)
    with zipfile.ZipFile(io.BytesIO(download(client, job, "stems.zip", sound="opus"))) as archive:
        assert len(archive.namelist()) == 2
    peaks = json.loads(download(client, job, "peaks"))
    assert max(peaks["levels"][0]["max"]) > 10
    names = [artifact["name"] for artifact in client.job(job["id"])["artifacts"]]
    assert len(names) == len(set(names)) == 2 + 5


def test_equal_requests_at_once_make_one_artifact(client: ServiceClient, job: dict[str, Any]) -> None:
    before = len(client.job(job["id"])["artifacts"])
    answers: list[Answer] = []

    def ask() -> None:
        answers.append(request(client, job, "audio", encoding="mp3"))

    asking = [threading.Thread(target=ask) for _ in range(12)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert {answer.status for answer in answers} == {200}
    assert len({answer.json["id"] for answer in answers}) == 1
    assert len(client.job(job["id"])["artifacts"]) == before + 1


@contextmanager
def unreadable(file: Path) -> Iterator[None]:
    """Make every reader of a file wait until the end of the block."""
    aside = file.with_suffix(".aside")
    file.rename(aside)
    os.mkfifo(file)
    try:
        yield
    finally:
        file.unlink()
        aside.rename(file)


def test_an_export_whose_worker_is_killed_is_made_by_the_next_one(
    service: servers.Service, client: ServiceClient, job: dict[str, Any], folder: Path
) -> None:
    (notes,) = (folder / "var" / "storage" / "results" / job["id"]).rglob("notes.json")
    worker = servers.process_of(service, "worker.app")
    with unreadable(notes):
        answer = request(client, job, "audio", wait=0, encoding="wav")
        assert answer.status == 202
        place = answer.headers["Location"]
        servers.wait_until(lambda: client.get(place).json["status"] == "processing", what="the export to begin")
        worker.kill()
        servers.wait_until(
            lambda: servers.process_of(service, "worker.app").pid != worker.pid, what="another worker"
        )
    servers.wait_until(lambda: client.get(place).json["status"] == "succeeded", seconds=40, what="the export")
    name = client.get(place).json["artifact"]["name"]
    assert client.artifact(job, name).startswith(b"RIFF")
    assert client.job(job["id"])["status"] == "succeeded"


def test_exports_are_deleted_with_their_transcription(
    client: ServiceClient, job: dict[str, Any], folder: Path
) -> None:
    stored = folder / "var" / "storage" / "exports" / job["id"]
    assert any(stored.rglob("*.wav"))
    assert client.call("DELETE", f"/v1/transcriptions/{job['id']}").status == 204
    assert client.get(f"/v1/transcriptions/{job['id']}/exports").status == 404
    servers.wait_until(lambda: not stored.exists() or not any(stored.rglob("*.*")), what="files to go")
