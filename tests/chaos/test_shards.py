"""Long recordings on several workers, for `make soak`: the same notes after a kill, and nobody waits for them.

Workers are limited to one core each. `MT3_TEST_SOAK_MODEL` names another model than Basic Pitch, of which the
checkpoint folder must hold the weights or the network must give them. Figures are printed; what is asserted does
not depend on the machine's speed.
"""

from __future__ import annotations

import json
import os
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from mt3_infer.audio import open_audio
from tests import servers
from tests.client import ServiceClient
from tests.e2e.test_lifecycle import process_of
from tests.recordings import write

pytestmark = [pytest.mark.e2e, pytest.mark.soak, pytest.mark.timeout(7200)]
MODEL = os.environ.get("MT3_TEST_SOAK_MODEL", "basic_pitch")
MINUTES = float(os.environ.get("MT3_TEST_SOAK_MINUTES", "60"))
HOURS = float(os.environ.get("MT3_TEST_SOAK_HOURS", "3"))


@dataclass
class Cluster:
    """A service whose own worker is one of several."""

    service: servers.Service
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def client(self) -> ServiceClient:
        return ServiceClient(self.service.url)

    def rows(self, query: str, *values: Any) -> list[Any]:
        database = self.service.folder / "var" / "mt3.sqlite3"
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)) as connection:
            return connection.execute(query, values).fetchall()

    def shards(self, job_id: str) -> list[tuple[str, int, str | None]]:
        query = "SELECT status, attempt, worker FROM shards WHERE job_id = ? ORDER BY number"
        return self.rows(query, UUID(job_id).hex)

    def notes(self, job: dict[str, Any]) -> list[Any]:
        notes: list[Any] = json.loads(self.client.artifact(job, "notes.json"))["notes"]
        return notes


@contextmanager
def cluster(folder: Path, workers: int, environment: Mapping[str, str]) -> Iterator[Cluster]:
    """A service with so many workers, each on a core of its own as long as there are any."""
    cores = sorted(os.sched_getaffinity(0))
    folder.mkdir()
    with ExitStack() as stack:
        redis_url = stack.enter_context(servers.redis_server())
        environment = {**environment, "MT3_REDIS_URL": redis_url, "OMP_NUM_THREADS": "1"}
        service = stack.enter_context(servers.whole_service(folder, environment))
        own = process_of(service, "worker.app")
        own.cpu_affinity([cores[0]])
        for thread in own.threads():
            os.sched_setaffinity(thread.id, {cores[0]})
        environment |= {
            "MT3_DATABASE_URL": f"sqlite:///{folder / 'var' / 'mt3.sqlite3'}",
            "MT3_STORAGE_URL": (folder / "var" / "storage").as_uri(),
        }
        running = Cluster(service)
        for number in range(1, workers):
            celery = [sys.executable, "-m", "celery", "--quiet", "--app", "worker.app", "worker"]
            limited = ["taskset", "--cpu-list", str(cores[number % len(cores)]), *celery, "--without-gossip"]
            log = folder / f"worker{number}.log"
            running.workers.append(stack.enter_context(servers.running(limited, environment=environment, log=log)))
        yield running


@pytest.fixture(scope="module")
def environment(checkpoint_dir: Path) -> dict[str, str]:
    return {"MT3_CHECKPOINT_DIR": str(checkpoint_dir), "MT3_LEASE_SECONDS": "5", "MT3_SCHEDULER_SECONDS": "0.2"}


def tiled(bach: Path, path: Path, seconds: float) -> bytes:
    """The chorale again and again, until it lasts so long."""
    with open_audio(bach, sample_rate=16000) as audio:
        once = np.concatenate(list(audio))
    times = -(-round(seconds * 16000) // len(once))
    return write(path, np.tile(once, times)[: round(seconds * 16000)], 16000, "flac").read_bytes()


def test_an_hour_on_three_workers_of_which_one_is_killed(
    tmp_path: Path, environment: dict[str, str], bach: Path
) -> None:
    recording = tiled(bach, tmp_path / "long.flac", 60 * MINUTES)
    environment["MT3_SHARD_SECONDS"] = str(max(30.0, 60 * MINUTES / 12))
    took: dict[int, float] = {}
    notes: dict[int, list[Any]] = {}
    for count in (1, 2):
        with cluster(tmp_path / f"workers{count}", count, environment) as running:
            running.client.transcribe(bach, model=MODEL)  # weights are there and loaded, at least in one
            began = time.monotonic()
            job = running.client.wait(submit(running, recording, MODEL), seconds=7000)
            took[count] = time.monotonic() - began
            assert job["status"] == "succeeded"
            notes[count] = running.notes(job)
    with cluster(tmp_path / "workers3", 3, environment) as running:
        job_id = submit(running, recording, MODEL)
        victim = running.workers[0]

        def is_half_way() -> bool:
            shards = running.shards(job_id)
            done = sum(status == "succeeded" for status, _, _ in shards)
            at_one = any(s == "processing" and (w or "").endswith(f":{victim.pid}") for s, _, w in shards)
            return at_one and done >= len(shards) / 2

        servers.wait_until(is_half_way, seconds=7000, what="half of the shards, and the victim at one")
        in_flight = sum(status == "processing" for status, _, _ in running.shards(job_id))
        victim.kill()
        job = running.client.wait(job_id, seconds=7000)
        again = sum(attempt - 1 for _, attempt, _ in running.shards(job_id))
        assert job["status"] == "succeeded"
        killed = running.notes(job)
    print(
        f"\n{MODEL}, {MINUTES:g} min in {job['progress']['shards_total']} shards: 1 worker {took[1]:.1f} s,"
        f" 2 workers {took[2]:.1f} s, {took[1] / took[2]:.2f} times as fast; after a kill with {in_flight} in"
        f" flight {again} done again; {len(killed)} notes"
    )
    assert notes[1] == notes[2] == killed
    assert again <= in_flight


def test_a_hundred_short_jobs_behind_one_of_three_hours(
    tmp_path: Path, environment: dict[str, str], bach: Path
) -> None:
    long = tiled(bach, tmp_path / "long.flac", 3600 * HOURS)
    environment["MT3_SHARD_SECONDS"] = "600"
    waits: dict[bool, list[float]] = {}
    for is_behind in (False, True):
        with cluster(tmp_path / f"behind{is_behind}", 1, environment) as running:
            running.client.transcribe(bach)
            if is_behind:
                long_id = submit(running, long, "basic_pitch")
                servers.wait_until(lambda: running.shards(long_id), seconds=600, what="its shards")  # noqa: B023
            ids = [running.client.submit(bach).json["id"] for _ in range(100)]
            jobs = [running.client.wait(job_id, seconds=1800) for job_id in ids]
            assert {job["status"] for job in jobs} == {"succeeded"}
            waits[is_behind] = [seconds(job["finished_at"]) - seconds(job["created_at"]) for job in jobs]
            if is_behind:
                assert running.client.job(long_id)["status"] == "processing", "it was not long enough"
                running.client.call("POST", f"/v1/transcriptions/{long_id}/cancel")
    alone, behind = statistics.median(waits[False]), statistics.median(waits[True])
    print(
        f"\nmedian wait of 100 short jobs: {alone:.1f} s alone, {behind:.1f} s behind {HOURS:g} h"
        f" ({behind / alone:.2f} times); longest {max(waits[False]):.1f} and {max(waits[True]):.1f} s"
    )
    assert behind <= 2 * alone


def submit(running: Cluster, recording: bytes, model: str) -> str:
    job_id: str = running.client.submit(recording, model=model).json["id"]
    return job_id


def seconds(time_of: str) -> float:
    return datetime.fromisoformat(time_of).timestamp()
