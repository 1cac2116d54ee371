"""For `make soak`: many clients at once. Requests start at a fixed rate however long others take (open loop).

No worker runs: what is measured is what clients wait for. A request's time counts from the moment at which it was
due, so that one that had to wait for a free connection is not reported as a fast one.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from tests.chaos.runs import SCALE
from tests.chaos.stack import Stack

pytestmark = [pytest.mark.e2e, pytest.mark.soak, pytest.mark.timeout(3600)]

SECONDS = max(20.0, 300 * min(1.0, SCALE))
POLLS, SUBMISSIONS = 400, 50  # a second
CONNECTIONS = 24  # of clients, for each kind of request


@dataclass
class Stream:
    """Requests of one kind at a fixed rate; `ask` makes one and returns its status."""

    rate: float
    ask: Callable[[http.client.HTTPConnection], int]
    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    _next: int = 0
    _taking: threading.Lock = field(default_factory=threading.Lock)

    def run(self, address: str, began: float) -> None:
        """Run one of many clients, each with its own connection."""
        connection = http.client.HTTPConnection(address, timeout=60)
        while True:
            with self._taking:
                due, self._next = began + self._next / self.rate, self._next + 1
            if due > began + SECONDS:
                break
            time.sleep(max(0.0, due - time.monotonic()))
            status = self.ask(connection)
            took = time.monotonic() - due
            with self._taking:
                self.seconds.append(took)
                self.statuses[status] += 1
        connection.close()

    def __str__(self) -> str:
        half, most, worst = np.percentile(self.seconds, [50, 99, 100]) * 1000
        counted = ", ".join(f"{status}: {count}" for status, count in sorted(self.statuses.items()))
        times = f"p50 {half:.1f} ms, p99 {most:.1f}, worst {worst:.1f}"
        return f"{self.rate:g} a second for {SECONDS:g} s: {times}; {counted}"


def test_many_clients_poll_and_submit(tmp_path: Path, clips: list[bytes]) -> None:
    usual = {"WEB_CONCURRENCY": "2", "MT3_SCHEDULER_SECONDS": "1"}
    with Stack(tmp_path, workers=0, schedulers=1, environment=usual) as stack:
        ids = [stack.submit(clips[0], f"first{number}") for number in range(50)]

        def poll(connection: http.client.HTTPConnection) -> int:
            connection.request("GET", f"/v1/transcriptions/{random.choice(ids)}")
            return read(connection)[0]

        def submit(connection: http.client.HTTPConnection) -> int:
            connection.request("POST", "/v1/transcriptions", BODY % clips[0], HEADERS)
            status, body = read(connection)
            if status == 202:
                ids.append(json.loads(body)["id"])
            return status

        polls, submissions = Stream(POLLS, poll), Stream(SUBMISSIONS, submit)
        address, began = urlsplit(stack.client.url).netloc, time.monotonic() + 0.5
        clients = [
            threading.Thread(target=partial(stream.run, address, began), daemon=True)
            for stream in (polls, submissions)
            for _ in range(CONNECTIONS)
        ]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        ((rows,),) = stack.sql("SELECT count(*) FROM jobs")
        print(f"\npolls {polls}\nsubmissions {submissions}; {rows} jobs in the database")
        assert polls.statuses.keys() == {200}
        assert submissions.statuses.keys() == {202}
        assert rows == len(ids) == len(set(ids)), "every accepted job is there, once"


BODY = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="clip.flac"\r\n\r\n%b\r\n--edge--\r\n'
HEADERS = {"Content-Type": "multipart/form-data; boundary=edge"}


def read(connection: http.client.HTTPConnection) -> tuple[int, bytes]:
    answer = connection.getresponse()
    return answer.status, answer.read()
