"""For `make soak`: the service on one SQLite file, with processes that are killed while they write to it."""

from __future__ import annotations

import random
import time
from functools import partial
from pathlib import Path

import pytest

from tests.chaos.databases import SqliteDatabase
from tests.chaos.ledger import Ledger
from tests.chaos.runs import calls_during, conclude, polls, running, statuses, times
from tests.chaos.sqlite_stack import SqliteStack
from tests.chaos.stack import Stack

pytestmark = [pytest.mark.e2e, pytest.mark.soak, pytest.mark.timeout(3600)]

FOUR_PROCESSES = partial(SqliteStack, workers=2, schedulers=1)


def kill_one(stack: Stack, chance: random.Random) -> None:
    victim = chance.choice([*stack.workers, stack.web, *stack.schedulers])
    if victim in stack.workers:
        stack.kill_worker(victim)
    else:
        victim.kill()
        victim.start()


def is_sound(ledger: Ledger) -> bool:
    sql = ledger.stack.sql
    return sql("PRAGMA integrity_check") == [("ok",)] and sql("PRAGMA foreign_key_check") == []


def test_processes_that_write_to_a_file_are_killed(tmp_path: Path, clips: list[bytes]) -> None:
    jobs, kills, chance = times(200), times(60), random.Random(2)
    with running(tmp_path, clips, FOUR_PROCESSES, MT3_TEST_SEGMENT_SECONDS="0.05") as ledger:
        began = time.monotonic()
        with calls_during(ledger) as calls, polls(ledger):
            submitting = ledger.submit_many(jobs)
            for _ in range(kills):
                time.sleep(chance.uniform(0.2, 2))
                kill_one(ledger.stack, chance)
            submitting.join()
            ledger.wait_for_all()
        report = conclude(ledger, f"{kills} kills on SQLite, answers {statuses(calls)}", began)
        assert report.killed_attempts > 0, "no kill hit a job: the run proved nothing"
        assert {call.status for call in calls} <= {200, 202, None}, "a client saw a lock error"
        assert any(call.status is None for call in calls), "no kill hit a request: the run proved nothing"
        assert is_sound(ledger)


def test_without_the_lock_timeout_clients_see_lock_errors(tmp_path: Path, clips: list[bytes]) -> None:
    """Negative control."""
    with running(tmp_path, clips, FOUR_PROCESSES, MT3_TEST_IMPATIENT="1") as ledger:
        began = time.monotonic()
        database = ledger.stack.database
        assert isinstance(database, SqliteDatabase)
        with calls_during(ledger) as calls:
            with database.written_to():
                assert ledger.stack.client.submit(clips[0], key="while locked").status == 503
            ledger.submit_many(times(100)).join()
            ledger.wait_for_all()
        conclude(ledger, f"SQLite without patience for locks, answers {statuses(calls)}", began)
        assert is_sound(ledger)
