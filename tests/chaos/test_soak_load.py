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

from shared.config import Settings
from shared.db import make_engine, make_sessions
from shared.keys import PUBLIC, create_key
from tests import servers
from tests.chaos.runs import SCALE
from tests.chaos.stack import Stack

pytestmark = [pytest.mark.e2e, pytest.mark.soak, pytest.mark.timeout(3600)]

SECONDS = max(20.0, 300 * min(1.0, SCALE))
POLLS, SUBMISSIONS = 400, 50  # a second
CONNECTIONS = 24  # of clients, for each kind of request
TURNS = 10  # in which two servers are compared


@dataclass
class Stream:
    """Requests of one kind at a fixed rate; `ask` makes one and returns its status."""

    rate: float
    ask: Callable[[http.client.HTTPConnection], int]
    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    _next: int = 0
    _taking: threading.Lock = field(default_factory=threading.Lock)

    def run(self, address: str, began: float, seconds: float) -> None:
        """Run one of many clients, each with its own connection."""
        connection = http.client.HTTPConnection(address, timeout=60)
        while True:
            with self._taking:
                due, self._next = began + self._next / self.rate, self._next + 1
            if due > began + seconds:
                break
            time.sleep(max(0.0, due - time.monotonic()))
            status = self.ask(connection)
            took = time.monotonic() - due
            with self._taking:
                self.seconds.append(took)
                self.statuses[status] += 1
        connection.close()

    def rewind(self) -> None:
        """Begin the next period; what was measured is kept."""
        self._next = 0

    @property
    def percentiles(self) -> tuple[float, float, float]:
        """Return p50, p99 and the longest time in milliseconds."""
        half, most, worst = np.percentile(self.seconds, [50, 99, 100]) * 1000
        return float(half), float(most), float(worst)

    def __str__(self) -> str:
        half, most, worst = self.percentiles
        counted = ", ".join(f"{status}: {count}" for status, count in sorted(self.statuses.items()))
        times = f"p50 {half:.1f} ms, p99 {most:.1f}, worst {worst:.1f}"
        return f"{self.rate:g} a second for {len(self.seconds) / self.rate:.0f} s: {times}; {counted}"


class Load:
    """Polls and submissions of a service, by any number of clients."""

    def __init__(self, url: str, clip: bytes, ids: list[str], headers: dict[str, str] | None = None) -> None:
        self.address, self.clip, self.ids, self.headers = urlsplit(url).netloc, clip, ids, headers or {}
        self.polls, self.submissions = Stream(POLLS, self.poll), Stream(SUBMISSIONS, self.submit)

    def poll(self, connection: http.client.HTTPConnection) -> int:
        connection.request("GET", f"/v1/transcriptions/{random.choice(self.ids)}", headers=self.headers)
        return read(connection)[0]

    def submit(self, connection: http.client.HTTPConnection) -> int:
        connection.request("POST", "/v1/transcriptions", BODY % self.clip, {**FORM, **self.headers})
        status, body = read(connection)
        if status == 202:
            self.ids.append(json.loads(body)["id"])
        return status

    def run(self, seconds: float) -> None:
        """Send both for so long."""
        began = time.monotonic() + 0.5
        for stream in (self.polls, self.submissions):
            stream.rewind()
        clients = [
            threading.Thread(target=partial(stream.run, self.address, began, seconds), daemon=True)
            for stream in (self.polls, self.submissions)
            for _ in range(CONNECTIONS)
        ]
        for client in clients:
            client.start()
        for client in clients:
            client.join()

    def check(self) -> None:
        """Assert that all requests were answered."""
        assert self.polls.statuses.keys() == {200}
        assert self.submissions.statuses.keys() == {202}


def test_many_clients_poll_and_submit(tmp_path: Path, clips: list[bytes]) -> None:
    usual = {"WEB_CONCURRENCY": "2", "MT3_SCHEDULER_SECONDS": "1"}
    with Stack(tmp_path, workers=0, schedulers=1, environment=usual) as stack:
        ids = [stack.submit(clips[0], f"first{number}") for number in range(50)]
        load = Load(stack.client.url, clips[0], ids)
        load.run(SECONDS)
        ((rows,),) = stack.sql("SELECT count(*) FROM jobs")
        print(f"\npolls {load.polls}\nsubmissions {load.submissions}; {rows} jobs in the database")
        load.check()
        assert rows == len(ids) == len(set(ids)), "every accepted job is there, once"


def test_keys_cost_clients_no_time(tmp_path: Path, clips: list[bytes]) -> None:
    """Two web servers on one database, one of which needs keys, get the same load by turns."""
    (tmp_path / "keys").mkdir()
    usual = {"WEB_CONCURRENCY": "2", "MT3_SCHEDULER_SECONDS": "1"}
    with (
        Stack(tmp_path, workers=0, schedulers=1, environment=usual) as stack,
        servers.web_process(
            tmp_path / "keys", workers=2, **{**stack.environment, "MT3_AUTH": "keys"}
        ) as with_keys,
    ):
        ids = [stack.submit(clips[0], f"first{number}") for number in range(50)]
        engine = make_engine(Settings(database_url=stack.environment["MT3_DATABASE_URL"]))
        with make_sessions(engine).begin() as session:
            _, key = create_key(session, "load", owner=PUBLIC)
        engine.dispose()
        open_to_all = Load(stack.client.url, clips[0], ids)
        keyed = Load(with_keys, clips[0], ids, {"Authorization": f"Bearer {key}"})
        for turn in range(TURNS):
            for load in (open_to_all, keyed) if turn % 2 else (keyed, open_to_all):
                load.run(SECONDS / TURNS)
        print()
        ratios = []
        for name in ("polls", "submissions"):
            without, having = getattr(open_to_all, name), getattr(keyed, name)
            print(f"{name} without keys {without}\n{name} with keys {having}")
            pairs = zip(having.percentiles[:2], without.percentiles[:2], strict=True)
            ratios += [f"{name} {mine / other:.2f}" for mine, other in pairs]
        print(f"with keys to without, p50 and p99: {', '.join(ratios)}")
        open_to_all.check()
        keyed.check()
        assert max(float(ratio.split()[1]) for ratio in ratios) <= 1.2


BODY = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="clip.flac"\r\n\r\n%b\r\n--edge--\r\n'
FORM = {"Content-Type": "multipart/form-data; boundary=edge"}


def read(connection: http.client.HTTPConnection) -> tuple[int, bytes]:
    answer = connection.getresponse()
    return answer.status, answer.read()
