"""For `make soak`: an S3 server whose responses are errors, truncated, late, or missing."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.chaos.ledger import Ledger
from tests.chaos.runs import SCALE, calls_during, conclude, statuses, times
from tests.chaos.s3_proxy import FAULTS, LIES, STORM, Fault, S3Proxy, behind_proxy
from tests.chaos.stack import NO_ANSWER, Call

pytestmark = [pytest.mark.e2e, pytest.mark.soak, pytest.mark.timeout(3600)]

STALL_SECONDS = max(2.0, 30 * min(1.0, SCALE))


@contextmanager
def spoiled(folder: Path, clips: list[bytes], **environment: str) -> Iterator[tuple[Ledger, S3Proxy]]:
    with behind_proxy(folder, stall_seconds=STALL_SECONDS, **environment) as (stack, proxy):
        ledger = Ledger(stack, clips)
        ledger.learn()
        yield ledger, proxy


@contextmanager
def downloads(ledger: Ledger) -> Iterator[list[str]]:
    """Download results continuously; yield the jobs whose downloads differ from their description."""
    client, ending, wrong = ledger.stack.client, threading.Event(), list[str]()

    def keep_downloading() -> None:
        while not ending.wait(0.2):
            with suppress(*NO_ANSWER):
                jobs = client.get("/v1/transcriptions?status=succeeded").json["items"]
                job = random.choice(jobs)
                artifact = random.choice(job["artifacts"])
                answer = client.get(f"{artifact['href']}?redirect=false")
                if answer.status == 200 and hashlib.sha256(answer.body).hexdigest() != artifact["sha256"]:
                    wrong.append(job["id"])

    downloading = threading.Thread(target=keep_downloading, daemon=True)
    downloading.start()
    try:
        yield wrong
    finally:
        ending.set()
        downloading.join()


def spoil_and_conclude(
    ledger: Ledger, proxy: S3Proxy, faults: Mapping[Fault, int], jobs: int, *, passes: bool = False
) -> list[Call]:
    """Submit jobs during faults; every listed artifact must exist. Return the clients' calls.

    Args:
        passes: so much fails that hardly a job ends; it does for a while, and then no more.
    """
    began = time.monotonic()
    proxy.spoil(faults)
    with calls_during(ledger) as calls, downloads(ledger) as wrong:
        ledger.submit_many(jobs).join()
        if passes:
            time.sleep(2 * STALL_SECONDS)
            planted = proxy.heal()
        ledger.wait_for_all()
    if not passes:
        planted = proxy.heal()
    mismatches = ledger.mismatches()
    counts = ", ".join(f"{fault}: {count}" for fault, count in sorted(planted.items()))
    conclude(ledger, f"S3 faults {counts}, answers {statuses(calls)}, mismatches {len(mismatches)}", began)
    assert (mismatches, wrong) == ([], [])
    assert {call.status for call in calls} <= {200, 202, 503, None}
    assert planted.keys() == faults.keys(), "not every fault has come: the run proved nothing"
    return calls


def test_requests_to_the_s3_server_fail(tmp_path: Path, clips: list[bytes]) -> None:
    with spoiled(tmp_path, clips) as (ledger, proxy):
        spoil_and_conclude(ledger, proxy, FAULTS, max(15, times(50)))
        calls = spoil_and_conclude(ledger, proxy, STORM, max(15, times(50)), passes=True)
        ((failed,),) = ledger.stack.sql("SELECT count(*) FROM attempts WHERE error_code = 'unavailable'")
        refused = sum(call.status == 503 for call in calls)
        print(f"\nattempts that failed without storage {failed}, clients asked to retry {refused}")
        assert failed or refused, "no fault broke through: the run proved nothing"


def test_uploads_reported_as_stored_are_lost_or_truncated(tmp_path: Path, clips: list[bytes]) -> None:
    with spoiled(tmp_path, clips) as (ledger, proxy):
        calls = spoil_and_conclude(ledger, proxy, LIES, max(30, times(100)))
        ((failed,),) = ledger.stack.sql("SELECT count(*) FROM attempts WHERE error_code = 'unavailable'")
        refused = sum(call.status == 503 for call in calls)
        print(f"\nlies that workers found out {failed}, and web {refused}")
        assert failed, "no worker lost an upload: the run proved nothing"
        assert refused, "web lost no upload: the run proved nothing"


def test_without_reading_back_workers_list_artifacts_that_do_not_exist(tmp_path: Path, clips: list[bytes]) -> None:
    """Negative control."""
    with spoiled(tmp_path, clips, MT3_TEST_TRUSTING="1") as (ledger, proxy):
        proxy.spoil(LIES)
        ledger.submit_many(30).join()
        ledger.wait_for_all()
        proxy.heal()
        mismatches = ledger.mismatches()
        print(f"\nwithout looking, of 30 jobs {len(mismatches)} promise what is not there")
        assert mismatches
