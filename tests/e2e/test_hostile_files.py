"""Bad files harm neither the worker nor the jobs behind them, and repairs are reported as warnings."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests import servers
from tests.chaos.runs import SCALE
from tests.client import ServiceClient
from tests.fuzz.mutants import mutate
from tests.recordings import tone, write
from tests.servers import process_of
from tests.unit.mt3_infer.audio.test_containers import KINDS
from tests.unit.mt3_infer.audio.test_isolation import tagged_matroska

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def own_service(tmp_path_factory: pytest.TempPathFactory, checkpoint_dir: Path) -> Iterator[servers.Service]:
    """Run one worker that splits recordings of more than 10 s."""
    environment = {"MT3_CHECKPOINT_DIR": str(checkpoint_dir), "MT3_SHARD_SECONDS": "10"}
    with servers.whole_service(tmp_path_factory.mktemp("service"), environment) as service:
        yield service


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("clip") / "clip.wav", tone(3.0, 44100), 44100)


def test_costly_file_delays_a_clip_behind_it_by_less_than_ten_seconds(
    own_service: servers.Service, clip: Path, tmp_path: Path
) -> None:
    client = ServiceClient(own_service.url)
    assert client.transcribe(clip)["status"] == "succeeded"
    began = time.monotonic()
    client.transcribe(clip)
    usual = time.monotonic() - began

    costly = client.submit(tagged_matroska(clip, tmp_path / "a.mka", 200_000)).json["id"]
    began = time.monotonic()
    job = client.wait(client.submit(clip).json["id"])

    assert job["status"] == "succeeded"
    assert time.monotonic() - began - usual < 10
    job = client.wait(costly)
    assert (job["status"], job["error"]["code"], job["attempts"]) == ("failed", "audio_too_costly", 1)


@pytest.mark.parametrize("seconds", [4.0, 24.0])
def test_warnings_are_in_the_job_and_in_its_notes_with_and_without_shards(
    own_service: servers.Service, tmp_path: Path, seconds: float
) -> None:
    path = write(tmp_path / "damaged.mp3", tone(seconds, 44100), 44100, "libmp3lame", bit_rate=128_000)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 5000] = random.Random(1).randbytes(5000)
    path.write_bytes(data)

    client = ServiceClient(own_service.url)
    job = client.transcribe(path)

    assert job["status"] == "succeeded", job["error"]
    assert [warning["code"] for warning in job["warnings"]] == ["damaged"]
    assert "silence" in job["warnings"][0]["detail"]
    assert json.loads(client.artifact(job, "notes.json"))["warnings"] == job["warnings"]


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_memory_of_the_worker_after_a_thousand_hostile_files(
    own_service: servers.Service, clip: Path, tmp_path: Path
) -> None:
    client = ServiceClient(own_service.url)
    stereo = tone(1.5, 44100)
    originals = [write(tmp_path / n, stereo, *kind[1::-1], **kind[2]).read_bytes() for n, kind in KINDS.items()]

    def submit_mutants(count: int, seed: int) -> Counter[str]:
        outcomes: Counter[str] = Counter()
        waiting: list[str] = []
        for number in range(count):
            data = mutate(originals[number % len(originals)], random.Random(seed + number))
            answer = client.submit(data)
            if answer.status == 202:
                waiting.append(answer.json["id"])
            else:
                outcomes[answer.json["code"]] += 1
        for job_id in waiting:
            job = client.wait(job_id)
            outcomes[job["error"]["code"] if job["error"] else job["status"]] += 1
        return outcomes

    for _ in range(5):
        client.transcribe(clip)
    submit_mutants(100, 10_000)
    worker = process_of(own_service, "worker.app")
    before = worker.memory_info().rss
    outcomes = submit_mutants(max(100, round(1000 * SCALE)), 0)
    after = psutil.Process(worker.pid).memory_info().rss
    print(f"\noutcomes: {dict(outcomes)}; memory of the worker: {before / 1e6:.0f} -> {after / 1e6:.0f} MB")
    assert "internal_error" not in outcomes
    assert "worker_lost" not in outcomes
    assert after - before < 50e6
