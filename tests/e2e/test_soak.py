"""Long runs, for `make soak`: jobs while workers are killed; each must end, once, with the same notes."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest

from tests import servers
from tests.client import ServiceClient
from tests.e2e.test_lifecycle import process_of

pytestmark = [pytest.mark.e2e, pytest.mark.soak, pytest.mark.timeout(1800)]
JOBS, KILLS = 60, 20


def test_jobs_outlive_their_workers(tmp_path: Path, checkpoint_dir: Path, bach: Path) -> None:
    environment = {
        "MT3_CHECKPOINT_DIR": str(checkpoint_dir),
        "MT3_LEASE_SECONDS": "2",
        "MT3_MAX_ATTEMPTS": "20",
        "MT3_WORKER_CONCURRENCY": "2",
    }
    chance = random.Random(20)
    with servers.whole_service(tmp_path, environment) as service:
        client = ServiceClient(service.url)
        undisturbed = json.loads(client.artifact(client.transcribe(bach), "notes.json"))["notes"]
        ids = [client.submit(bach).json["id"] for _ in range(JOBS)]
        began = time.monotonic()
        for _ in range(KILLS):
            time.sleep(chance.uniform(1, 6))
            process_of(service, "worker.app").kill()
        jobs = [client.wait(job_id, seconds=600) for job_id in ids]
        notes = [json.loads(client.artifact(job, "notes.json"))["notes"] for job in jobs]
        log = service.log.read_text()
    lost = [job for job in jobs if job["status"] != "succeeded"]
    completed = {job_id: log.count(f"job_id={job_id} outcome=succeeded") for job_id in ids}
    doubled = [job_id for job_id, count in completed.items() if count > 1]
    attempts = [job["attempts"] for job in jobs]
    print(
        f"\njobs {JOBS}  kills {KILLS}  lost {len(lost)}  doubled {len(doubled)}  "
        f"attempts {sum(attempts)} (most {max(attempts)})  seconds {time.monotonic() - began:.0f}"
    )
    assert lost == []
    assert doubled == []
    assert all(each == undisturbed for each in notes)
    assert sum(attempts) > JOBS, "no kill hit a job: the run proved nothing"
