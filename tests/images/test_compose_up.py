"""The whole Compose file on a real engine: jobs go through while parts are killed and restarted."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from tests.client import ServiceClient
from tests.images.stack import Stack

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]


def test_a_job_goes_through(stack: Stack, bach: Path) -> None:
    began = time.monotonic()
    answer = stack.client.submit(bach)
    assert answer.status == 202, answer.body
    done = stack.client.wait(answer.json["id"], seconds=240)
    assert done["status"] == "succeeded", done
    print(f"\nthe first job took {time.monotonic() - began:.1f} s, with its checkpoint")
    assert stack.client.artifact(done, "transcription.mid")[:4] == b"MThd"


def test_every_line_that_our_containers_log_is_json(stack: Stack) -> None:
    for service in ("migrate", "web", "scheduler", "worker"):
        lines = stack.compose("logs", "--no-color", "--no-log-prefix", service).splitlines()
        assert lines, service
        for line in lines:
            assert isinstance(json.loads(line), dict), f"{service}: {line}"


class Load:
    """Jobs submitted all the time, until they are counted."""

    def __init__(self, client: ServiceClient, recording: Path) -> None:
        self._client, self._recording = client, recording
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.accepted: list[str] = []
        self.refused = 0

    def _run(self) -> None:
        while not self._ended.wait(1):
            try:
                answer = self._client.submit(self._recording)
            except OSError:  # nobody listens while web restarts: a client would try again
                self.refused += 1
                continue
            if answer.status == 202:
                self.accepted.append(answer.json["id"])
            else:
                assert answer.status == 503, answer.body
                self.refused += 1

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def outcome(self) -> list[str]:
        """Return the final status of each accepted job."""
        return [self._client.wait(job_id, seconds=300)["status"] for job_id in self.accepted]


@pytest.mark.parametrize("service", ["worker", "scheduler", "web", "redis", "s3", "postgres"])
def test_a_part_that_is_killed_comes_back_and_no_job_is_lost(stack: Stack, bach: Path, service: str) -> None:
    with Load(stack.client, bach) as load:
        time.sleep(3)
        stack.compose("kill", service)
        time.sleep(3)
        stack.compose("up", "--detach", "--no-build", "--no-recreate", "--scale", "worker=2", timeout=600)
        stack.wait_until_ready()
        time.sleep(3)
    outcome = load.outcome()
    print(f"\n{service} killed: {len(outcome)} jobs accepted, {load.refused} requests refused meanwhile")
    assert len(outcome) >= 2
    assert set(outcome) == {"succeeded"}


def test_a_rolling_restart_loses_no_job(stack: Stack, bach: Path) -> None:
    with Load(stack.client, bach) as load:
        time.sleep(2)
        for service in ("scheduler", "worker", "web"):
            began = time.monotonic()
            stack.compose("restart", service)
            print(f"\n{service}: restarted in {time.monotonic() - began:.1f} s")
        stack.wait_until_ready()
        time.sleep(3)
    outcome = load.outcome()
    assert outcome
    assert set(outcome) == {"succeeded"}


def test_running_services_end_within_their_grace(stack: Stack) -> None:
    for service in ("scheduler", "worker", "web"):
        began = time.monotonic()
        stack.compose("stop", service)
        took = time.monotonic() - began
        ids = stack.compose("ps", "--all", "--quiet", service).split()
        codes = {stack.engine.run("inspect", "--format", "{{.State.ExitCode}}", one) for one in ids}
        print(f"\n{service}: stopped in {took:.1f} s, exit codes {sorted(codes)}")
        assert codes <= {"0", "143"}
        assert took < 25
