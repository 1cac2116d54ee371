"""Jobs that are canceled at any time of their lives: each is canceled or succeeded, and stays so."""

from __future__ import annotations

import random
import statistics
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from tests.chaos.ledger import CLIPS, Ledger
from tests.chaos.stack import Stack

CLIENTS = 5  # more than there are workers: some jobs are canceled while they wait


def race(ledger: Ledger, jobs: int) -> Counter[int]:
    """Submit so many and cancel each one some time later; which answers came, and how often."""
    longest = 1.5 * median_life(ledger, 3 * CLIENTS)

    def submit_and_cancel(number: int) -> int:
        job_id = ledger.submit(number % CLIPS)
        time.sleep(random.uniform(0, longest))
        return cancel(ledger, job_id)

    with ThreadPoolExecutor(CLIENTS) as clients:
        answers = Counter(clients.map(submit_and_cancel, range(jobs)))
    ledger.wait_for_all()
    assert answers.keys() <= {202, 409}, answers
    return answers


def median_life(ledger: Ledger, jobs: int) -> float:
    """Seconds that a job lives which nobody cancels, with as many clients."""

    def submit_and_wait(number: int) -> float:
        job = ledger.stack.client.wait(ledger.submit(number % CLIPS))
        created, finished = (datetime.fromisoformat(job[name]) for name in ("created_at", "finished_at"))
        return (finished - created).total_seconds()

    with ThreadPoolExecutor(CLIENTS) as clients:
        return statistics.median(clients.map(submit_and_wait, range(jobs)))


def cancel(ledger: Ledger, job_id: str) -> int:
    """Cancel, and hold the service to its answer."""
    status = ledger.stack.client.call("POST", f"/v1/transcriptions/{job_id}/cancel").status
    if status == 202:
        ledger.canceled.add(job_id)
    return status


def cancel_before_the_finish(ledger: Ledger) -> None:
    """Cancel a job whose worker was about to finish it, and let that one go on."""
    stack = ledger.stack
    stack.arm("before_finish", "stop")
    job_id = ledger.submit(0)
    late = stack.stopped_worker()
    assert (status := cancel(ledger, job_id)) == 202, status
    stack.let_go_on(late)


def wait_for_idle_workers(stack: Stack) -> None:
    """Until nobody is at a job any more, canceled ones included. No worker was killed."""
    stack.wait(lambda: stack.logged("attempt_started") == stack.logged("attempt_ended"), "idle workers")


def leftovers(ledger: Ledger) -> set[str]:
    """Canceled jobs of which results or shards lie in storage."""
    stack = ledger.stack
    return ledger.canceled & {
        entry.key.split("/")[1] for top in ("results/", "shards/") for entry in stack.storage.list_objects(top)
    }


def artifacts_of_canceled(ledger: Ledger) -> int:
    """How many results the service claims to have of canceled jobs."""
    return sum(len(ledger.stack.client.job(job_id)["artifacts"]) for job_id in ledger.canceled)
