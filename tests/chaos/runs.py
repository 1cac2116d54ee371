"""Building blocks of the long runs of `make soak`: a stack and its ledger, outages, and the final figures.

MT3_TEST_SOAK scales the runs: 1 is the whole, 0.1 a tenth of the jobs and faults.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from tests import servers
from tests.chaos.ledger import CLIPS, Ledger, Report, longest_silence
from tests.chaos.stack import NO_ANSWER, Call, Stack

# Read at import: a fixture clears MT3_ settings of the shell before each test.
SCALE = float(os.environ.get("MT3_TEST_SOAK", "1"))
ACCEPT_SECONDS = 5  # during an outage of Redis
HEAL_SECONDS = 30 + 2  # from a component's return, plus a lease


def times(whole: int) -> int:
    return max(1, round(whole * SCALE))


@contextmanager
def running(
    folder: Path, clips: list[bytes], make: Callable[..., Stack] = Stack, **environment: str
) -> Iterator[Ledger]:
    with make(folder, environment=environment) as stack:
        ledger = Ledger(stack, clips)
        ledger.learn()
        yield ledger


def conclude(ledger: Ledger, title: str, began: float) -> Report:
    stack = ledger.stack
    stack.wait(lambda: servers.answers(f"{stack.client.url}/livez"), "web, which may have been killed last")
    report = ledger.account()
    print(f"\n{title}: {report}  seconds {time.monotonic() - began:.0f}")
    report.check()
    return report


@contextmanager
def submissions(ledger: Ledger, pause: float) -> Iterator[None]:
    """Submit jobs continuously during the block."""
    ending = threading.Event()

    def keep_submitting() -> None:
        number = 0
        while not ending.is_set():
            ledger.submit(number % CLIPS)
            number += 1
            ending.wait(pause)

    submitting = threading.Thread(target=keep_submitting, daemon=True)
    submitting.start()
    try:
        yield
    finally:
        ending.set()
        submitting.join()


@contextmanager
def polls(ledger: Ledger, clients: int = 2, pause: float = 0.05) -> Iterator[None]:
    """Poll the list of jobs and single jobs continuously; accept any response."""
    ending = threading.Event()

    def keep_polling() -> None:
        while not ending.wait(pause):
            with suppress(*NO_ANSWER):
                one = random.choice(list(ledger.accepted))
                for path in ("?limit=5", f"/{one}"):
                    ledger.stack.client.get(f"/v1/transcriptions{path}")

    polling = [threading.Thread(target=keep_polling, daemon=True) for _ in range(clients)]
    for thread in polling:
        thread.start()
    try:
        yield
    finally:
        ending.set()
        for thread in polling:
            thread.join()


@contextmanager
def calls_during(ledger: Ledger) -> Iterator[list[Call]]:
    """Yield a list that is filled with the clients' calls at the end of the block."""
    client, made = ledger.stack.client, list[Call]()
    before = len(client.calls)
    yield made
    made += client.calls[before:]


def statuses(calls: list[Call]) -> str:
    """Return how many calls got which status."""
    counted = Counter("no answer" if call.status is None else str(call.status) for call in calls)
    return ", ".join(f"{status}: {count}" for status, count in sorted(counted.items()))


def submit_at_once(ledger: Ledger) -> str:
    """Submit a job, require that it is accepted quickly at the first try, and return its id."""
    began = time.monotonic()
    answer = ledger.stack.client.submit(ledger.clips[0])
    assert (answer.status, time.monotonic() - began <= ACCEPT_SECONDS) == (202, True), answer
    job_id: str = answer.json["id"]
    ledger.accepted[job_id] = 0
    return job_id


def outages(
    ledger: Ledger, title: str, count: int, away: Callable[[], None], *, heal_seconds: float = HEAL_SECONDS
) -> None:
    """Submit jobs continuously while a dependency fails and recovers repeatedly."""
    stack, began = ledger.stack, time.monotonic()
    silences = []
    with submissions(ledger, pause=0.2):
        for _ in range(count):
            time.sleep(2)
            away()
            back = datetime.now(UTC)
            stack.wait(partial(stack.sql, "SELECT 1 FROM finishes WHERE at > %s", back), "a job after it")
            silences.append(longest_silence(stack, back))
    ledger.wait_for_all()
    conclude(ledger, f"{title}, healed within {max(silences):.1f} s", began)
    assert max(silences) <= heal_seconds
