"""A long recording on two workers: after one is killed, only the shards in progress are repeated."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import psutil
import pytest

from mt3_infer.audio import open_audio
from tests import servers
from tests.client import ServiceClient
from tests.recordings import write

pytestmark = pytest.mark.e2e
SHARD_SECONDS = 10


@dataclass
class TwoWorkers:
    service: servers.Service
    second: psutil.Process

    @property
    def client(self) -> ServiceClient:
        return ServiceClient(self.service.url)

    def shards(self, job_id: str) -> list[tuple[str, int, str | None]]:
        """Return status, attempt and worker of each shard."""
        database = self.service.folder / "var" / "mt3.sqlite3"
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            query = "SELECT status, attempt, worker FROM work_items WHERE kind = 'shard' AND job_id = ?"
            return connection.execute(f"{query} ORDER BY number", (UUID(job_id).hex,)).fetchall()

    def notes(self, job_id: str) -> list[object]:
        notes: list[object] = json.loads(self.client.artifact(self.client.job(job_id), "notes.json"))["notes"]
        return notes


@pytest.fixture(scope="module")
def recording(bach: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A recording of 75 s."""
    with open_audio(bach, sample_rate=22050) as audio:
        once = np.concatenate(list(audio))
    path = tmp_path_factory.mktemp("long") / "long.flac"
    return write(path, np.tile(once, 3), 22050, "flac").read_bytes()


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory, checkpoint_dir: Path) -> Iterator[TwoWorkers]:
    folder = tmp_path_factory.mktemp("two")
    with ExitStack() as stack:
        redis_url = stack.enter_context(servers.redis_server())
        environment = {
            "MT3_CHECKPOINT_DIR": str(checkpoint_dir),
            "MT3_WORKER_CONCURRENCY": "1",
            "MT3_LEASE_SECONDS": "3",
            "MT3_SHARD_SECONDS": str(SHARD_SECONDS),
            "MT3_REDIS_URL": redis_url,
        }
        service = stack.enter_context(servers.whole_service(folder, environment))
        environment |= {
            "MT3_DATABASE_URL": f"sqlite:///{folder / 'var' / 'mt3.sqlite3'}",
            "MT3_STORAGE_URL": (folder / "var" / "storage").as_uri(),
        }
        celery = [sys.executable, "-m", "celery", "--quiet", "--app", "worker.app", "worker", "--without-gossip"]
        second = stack.enter_context(servers.running(celery, environment=environment, log=folder / "second.log"))
        yield TwoWorkers(service, psutil.Process(second.pid))


def test_only_shards_in_progress_are_repeated_after_a_kill(two_workers: TwoWorkers, recording: bytes) -> None:
    client = two_workers.client
    undisturbed = client.transcribe(recording)
    assert undisturbed["attempts"] == 1
    assert undisturbed["progress"]["shards_total"] >= 7
    assert undisturbed["progress"]["shards_done"] == undisturbed["progress"]["shards_total"]
    second = f":{two_workers.second.pid}"
    job_id = client.submit(recording).json["id"]

    def is_in_the_middle() -> bool:
        """Return True if the second worker has a shard and another shard is done."""
        shards = two_workers.shards(job_id)
        done = sum(status == "succeeded" for status, _, _ in shards)
        return done >= 1 and any(status == "processing" and (w or "").endswith(second) for status, _, w in shards)

    servers.wait_until(is_in_the_middle, seconds=60, what="the second worker at a shard")
    os.kill(two_workers.second.pid, signal.SIGKILL)
    job = client.wait(job_id, seconds=120)
    assert (job["status"], job["error"]) == ("succeeded", None)
    attempts = [attempt for _, attempt, _ in two_workers.shards(job_id)]
    assert sum(attempts) - len(attempts) <= 1, "the one that the killed worker was at"
    assert two_workers.notes(job_id) == two_workers.notes(undisturbed["id"])


def test_notes_sent_while_a_worker_dies_are_the_final_ones(two_workers: TwoWorkers, recording: bytes) -> None:
    """One client polls the notes, one follows the events; the second worker, if it still runs, dies meanwhile."""
    client = two_workers.client
    job_id = client.submit(recording).json["id"]
    events: list[tuple[str, dict[str, Any]]] = []
    following = threading.Thread(target=follow, args=(two_workers.service.url, job_id, events))
    following.start()
    polled: dict[int, dict[str, Any]] = {}
    cursor, is_complete, before_the_end = "0", False, 0
    while not is_complete:
        page = client.get(f"/v1/transcriptions/{job_id}/notes?after={cursor}").json
        for note_id in page["withdrawn"]:
            del polled[note_id]
        polled |= {note.pop("id"): note for note in page["notes"]}
        cursor, is_complete = page["cursor"], page["complete"]
        if page["status"] == "processing":
            before_the_end = max(before_the_end, len(polled))
        if before_the_end and two_workers.second.is_running():
            two_workers.second.kill()
        time.sleep(0.1)
    following.join(60)
    followed: dict[int, dict[str, Any]] = {}
    for kind, data in events:
        if kind == "notes_withdrawn":
            for note_id in data["ids"]:
                del followed[note_id]
        elif kind == "notes":
            followed |= {note.pop("id"): note for note in data["notes"]}
    final = sorted(map(str, two_workers.notes(job_id)))
    assert before_the_end > 10
    assert events[-1] == ("end", {"status": "succeeded", "note_count": len(final), "error": None})
    assert {"status", "progress", "notes"} <= {kind for kind, _ in events}
    assert sorted(map(str, polled.values())) == sorted(map(str, followed.values())) == final


def follow(url: str, job_id: str, events: list[tuple[str, dict[str, Any]]]) -> None:
    """Append the kind and the data of all events."""
    with urllib.request.urlopen(f"{url}/v1/transcriptions/{job_id}/events", timeout=60) as stream:
        kind = ""
        for line in stream:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                events.append((kind, json.loads(value)))


def test_cancel_stops_a_shard_and_delete_leaves_no_object(two_workers: TwoWorkers, recording: bytes) -> None:
    client = two_workers.client
    job_id = client.submit(recording).json["id"]
    servers.wait_until(
        lambda: any(status == "processing" for status, _, _ in two_workers.shards(job_id)),
        seconds=60,
        what="a shard in hand",
    )
    log = two_workers.service.log
    let_go = log.read_text().count("outcome=lost")
    assert client.call("POST", f"/v1/transcriptions/{job_id}/cancel").status == 202
    servers.wait_until(lambda: log.read_text().count("outcome=lost") > let_go, seconds=20, what="letting go")
    assert client.call("DELETE", f"/v1/transcriptions/{job_id}").status == 204
    storage = two_workers.service.folder / "var" / "storage"
    assert [path for path in storage.rglob(f"*{job_id}*/**/*") if path.is_file()] == []
