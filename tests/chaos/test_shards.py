"""Long recordings on several workers, for `make soak`: same tokens after a kill, and no short job waits.

Workers are limited to one core each. The network is MT3 where its weights are at hand (MT3_TEST_WEIGHTS names the
folder above them), else Basic Pitch; `MT3_TEST_SOAK_MODEL` names another one whose weights can be fetched. Figures
are printed; what is asserted does not depend on the machine's speed.
"""

from __future__ import annotations

import os
import statistics
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from mt3_infer.audio import open_audio
from tests import servers
from tests.chaos.stack import Stack, worker_name
from tests.recordings import write

pytestmark = [pytest.mark.e2e, pytest.mark.soak, pytest.mark.timeout(7200)]
ROOT = Path(__file__).parents[2]
WEIGHTS = Path(os.environ.get("MT3_TEST_WEIGHTS", ROOT.parent / "shared" / "weights")) / "mt3"
MODEL = os.environ.get("MT3_TEST_SOAK_MODEL", "mt3_pytorch" if WEIGHTS.is_dir() else "basic_pitch")
MINUTES = float(os.environ.get("MT3_TEST_SOAK_MINUTES", "60"))
HOURS = float(os.environ.get("MT3_TEST_SOAK_HOURS", "3"))
AGAIN = "SELECT sum(attempt - 1) FROM work_items WHERE kind = 'shard' AND job_id = %s"


@pytest.fixture
def environment(checkpoint_dir: Path) -> dict[str, str]:
    """Return the environment of workers with real networks, which take seconds for a step."""
    weights = {"MT3_TEST_MODEL": "mt3_pytorch", "MT3_TEST_MODEL_PATH": str(WEIGHTS)} if WEIGHTS.is_dir() else {}
    return {
        "MT3_CHECKPOINT_DIR": str(checkpoint_dir),
        "MT3_TEST_NETWORK": "real",
        "MT3_LEASE_SECONDS": "10",
        **weights,
    }


def make_stack(folder: Path, workers: int, environment: dict[str, str]) -> Stack:
    folder.mkdir()
    return Stack(folder, workers=workers, environment=environment, cores=sorted(os.sched_getaffinity(0)))


def tiled(bach: Path, path: Path, seconds: float) -> bytes:
    """Return the chorale repeated to this length."""
    with open_audio(bach, sample_rate=16000) as audio:
        once = np.concatenate(list(audio))
    times = -(-round(seconds * 16000) // len(once))
    return write(path, np.tile(once, times)[: round(seconds * 16000)], 16000, "flac").read_bytes()


def tokens(stack: Stack, job_id: str) -> list[bytes]:
    """Return the network's results of each shard, which stay in storage for a while after the job's end."""
    rows = stack.sql(
        "SELECT result_key FROM work_items WHERE kind = 'shard' AND job_id = %s ORDER BY number", job_id
    )
    return [(stack.folder / "s3" / servers.S3_BUCKET / str(key)).read_bytes() for (key,) in rows]


def run_whole(stack: Stack, recording: bytes, bach: Path) -> tuple[float, list[bytes]]:
    """Return the duration and the network's results of undisturbed workers."""
    short = bach.read_bytes()
    first = [stack.submit(short, f"first{n}", model=MODEL) for n, _ in enumerate(stack.workers)]
    for job_id in first:  # weights are installed and loaded in each worker
        assert stack.client.wait(job_id)["status"] == "succeeded"
    began = time.monotonic()
    job = stack.client.wait(stack.submit(recording, "long", model=MODEL), seconds=7000)
    assert job["status"] == "succeeded", job
    return time.monotonic() - began, tokens(stack, job["id"])


def test_hour_on_three_workers_with_one_killed(tmp_path: Path, environment: dict[str, str], bach: Path) -> None:
    recording = tiled(bach, tmp_path / "long.flac", 60 * MINUTES)
    environment["MT3_SHARD_SECONDS"] = str(max(30.0, 60 * MINUTES / 12))
    took: dict[int, float] = {}
    results: dict[int, list[bytes]] = {}
    for count in (1, 2):
        with make_stack(tmp_path / f"workers{count}", count, environment) as stack:
            took[count], results[count] = run_whole(stack, recording, bach)
    with make_stack(tmp_path / "workers3", 3, environment) as stack:
        job_id, victim = stack.submit(recording, "long", model=MODEL), stack.workers[0]
        states = "SELECT status, worker FROM work_items WHERE kind = 'shard' AND job_id = %s"

        def is_half_way() -> bool:
            shards = stack.sql(states, job_id)
            done = sum(status == "succeeded" for status, _ in shards)
            return done >= len(shards) / 2 > 0 and ("processing", worker_name(victim)) in shards

        stack.wait(is_half_way, "half of the shards, and the victim at one", seconds=7000)
        in_flight = sum(status == "processing" for status, _ in stack.sql(states, job_id))
        stack.kill_worker(victim)
        job = stack.client.wait(job_id, seconds=7000)
        assert job["status"] == "succeeded", job
        results[3] = tokens(stack, job_id)
        ((again,),) = stack.sql(AGAIN, job_id)
    print(
        f"\n{MODEL}, {MINUTES:g} min in {len(results[1])} shards: 1 worker {took[1]:.1f} s, 2 workers "
        f"{took[2]:.1f} s, {took[1] / took[2]:.2f} times; after a kill with {in_flight} running {again} repeated;"
        f" {job['note_count']} notes, {sum(map(len, results[1]))} bytes of tokens, the same in all runs"
    )
    assert results[1] == results[2] == results[3]
    assert int(str(again)) <= in_flight


def test_a_hundred_short_jobs_behind_one_of_three_hours(
    tmp_path: Path, environment: dict[str, str], bach: Path
) -> None:
    """One worker: jobs after the long recording wait while it is split, and for one of its shards."""
    long = tiled(bach, tmp_path / "long.flac", 3600 * HOURS)
    environment["MT3_SHARD_SECONDS"] = "600"
    waits: dict[bool, list[float]] = {}
    for is_behind in (False, True):
        with make_stack(tmp_path / f"behind{is_behind}", 1, environment) as stack:
            assert stack.client.transcribe(bach, model="basic_pitch")["status"] == "succeeded"
            long_id = stack.submit(long, "long", model="basic_pitch") if is_behind else None
            short = bach.read_bytes()
            ids = [stack.submit(short, f"short{number}", model="basic_pitch") for number in range(100)]
            jobs = [stack.client.wait(job_id, seconds=1800) for job_id in ids]
            assert {job["status"] for job in jobs} == {"succeeded"}
            waits[is_behind] = [moment(job["finished_at"]) - moment(job["created_at"]) for job in jobs]
            if long_id is not None:
                assert stack.client.job(long_id)["status"] == "processing", "it was not long enough"
    alone, behind = statistics.median(waits[False]), statistics.median(waits[True])
    print(
        f"\nmedian wait of 100 short jobs: {alone:.1f} s alone, {behind:.1f} s behind {HOURS:g} h"
        f" ({behind / alone:.2f} times); longest {max(waits[False]):.1f} and {max(waits[True]):.1f} s"
    )
    assert behind <= 2 * alone


def moment(time_of: str) -> float:
    return datetime.fromisoformat(time_of).timestamp()
