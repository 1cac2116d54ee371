"""Several hosts whose network is cut, partly or wholly, for 5 to 60 seconds: no job is lost or done twice."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.chaos import hosts
from tests.chaos.hosts import DATA, HostsStack
from tests.chaos.runs import SCALE, conclude, running, submissions, times

pytestmark = [pytest.mark.e2e, pytest.mark.soak, pytest.mark.timeout(3600)]

FAULTS: dict[str, Callable[[HostsStack], AbstractContextManager[None]]] = {
    "silent partition of a worker": lambda stack: stack.partitioned("w0"),
    "silent partition of web and scheduler": lambda stack: stack.partitioned("web"),
    "silent partition of the database": lambda stack: stack.partitioned("postgres"),
    "silent partition of Redis": lambda stack: stack.partitioned("redis"),
    "silent partition of the storage": lambda stack: stack.partitioned("s3"),
    "what a worker sends is lost": lambda stack: stack.losing(["w0"], DATA),
    "what a worker should receive is lost": lambda stack: stack.losing(DATA, ["w0"]),
    "what the storage sends is lost": lambda stack: stack.losing(["s3"], ["web", "w0", "w1"]),
    "Redis reachable from web only": lambda stack: stack.losing(["w0", "w1"], ["redis"]),
    "the database reachable from one worker only": lambda stack: stack.losing(["web", "w1"], ["postgres"]),
    "a slow link to a worker": lambda stack: stack.slow("w0", "200kbit"),
    "a slow link to the storage": lambda stack: stack.slow("s3", "2mbit"),
}


@pytest.mark.parametrize("title", FAULTS)
def test_a_network_is_cut(tmp_path: Path, clips: list[bytes], title: str) -> None:
    if reason := hosts.unavailable():
        pytest.skip(reason)
    chance = random.Random(title)
    segments = {"MT3_TEST_SEGMENT_SECONDS": "0.05"}
    with running(tmp_path, clips, HostsStack, **segments) as ledger:
        stack, began = ledger.stack, time.monotonic()
        assert isinstance(stack, HostsStack)
        cuts = []
        with submissions(ledger, pause=0.3):
            for _ in range(times(3)):
                time.sleep(3)
                seconds = chance.uniform(5, max(10, 60 * min(1.0, SCALE)))
                with FAULTS[title](stack):
                    time.sleep(seconds)
                cuts.append(seconds)
        ledger.wait_for_all()
        lengths = ", ".join(f"{seconds:.0f} s" for seconds in cuts)
        conclude(ledger, f"{title}, for {lengths}", began)
