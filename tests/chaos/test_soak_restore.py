"""A backup taken under load and restored elsewhere, over today's storage or a copy: every job keeps its files.

Files and the record of the scheduler are made older than they are, so that the search for orphans is not idle.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import insert

from shared.config import Settings
from shared.db import make_engine, make_sessions
from shared.tables import Watch
from tests import backups
from tests.chaos.ledger import CLIPS, Ledger
from tests.chaos.runs import conclude, running, submissions, times
from tests.chaos.sqlite_stack import SqliteStack
from tests.chaos.stack import Stack

pytestmark = [pytest.mark.e2e, pytest.mark.soak, pytest.mark.timeout(1800)]

HOUR = 3600.0
SEARCH_SECONDS = 300  # the lock of the sweeper that worked at the time of the backup has to run out
ON_SQLITE = partial(SqliteStack, workers=2, schedulers=1)


@pytest.mark.parametrize("make", [Stack, ON_SQLITE], ids=["PostgreSQL and S3", "SQLite and a folder"])
def test_an_older_database_over_todays_storage(
    tmp_path: Path, clips: list[bytes], make: Callable[..., Stack]
) -> None:
    (tmp_path / "run").mkdir()
    with running(tmp_path / "run", clips, make, MT3_ORPHAN_HOURS="0.0001") as ledger:
        stack, began = ledger.stack, time.monotonic()
        orphan = make_old(stack)
        with submissions(ledger, pause=0.1):
            wait_for_more(ledger)
            backups.dump(stack.database.url, tmp_path / "backup")
            wait_for_more(ledger)
        newer, present, before = dict(ledger.accepted), files(stack), searches(stack)
        with stack.restored(tmp_path / "backup"):
            keep_known(ledger)
            assert len(ledger.accepted) < len(newer), "the backup is older than the storage"
            wait_for_search(stack, before)
            with submissions(ledger, pause=0.1):
                wait_for_more(ledger)
            ledger.wait_for_all()
            conclude(ledger, "an older database over today's storage", began)
            assert ledger.mismatches() == []
            assert present - files(stack) == {orphan}, "all that no job needs, and nothing else"
            both, before = files(stack), searches(stack)
        wait_for_search(stack, before)
        ledger.accepted = newer
        ledger.wait_for_all()
        conclude(ledger, "the newer database again", began)
        assert ledger.mismatches() == []
        assert both <= files(stack), "what was made meanwhile is kept, too"


def test_a_backup_of_both_restored_elsewhere(tmp_path: Path, clips: list[bytes]) -> None:
    (tmp_path / "run").mkdir()
    with running(tmp_path / "run", clips, MT3_ORPHAN_HOURS="0.0001") as ledger:
        stack, began = ledger.stack, time.monotonic()
        with submissions(ledger, pause=0.1):
            wait_for_more(ledger)
            backups.dump(stack.database.url, tmp_path / "backup")
            wait_for_more(ledger)
            copy_under_load(stack.stored, tmp_path / "copy")
            wait_for_more(ledger)
        before = searches(stack)
        with stack.restored(tmp_path / "backup"):
            stack.s3.terminate()
            shutil.rmtree(stack.stored)
            (tmp_path / "copy").rename(stack.stored)
            stack.s3.start()
            keep_known(ledger)
            ledger.wait_for_all()
            wait_for_search(stack, before)
            conclude(ledger, "a backup of database and storage, restored elsewhere", began)
            assert ledger.mismatches() == []


def make_old(stack: Stack) -> Path:
    """Date all files back, let the scheduler have watched at that time, and return an orphan of that time."""
    orphan = stack.stored / "uploads" / str(uuid4()) / "audio"
    orphan.parent.mkdir()
    orphan.write_bytes(b"x")
    before = time.time() - 2 * HOUR
    for file in files(stack):
        os.utime(file, (before, before))
    now = datetime.now(UTC)
    engine = make_engine(Settings(database_url=stack.database.url))
    with make_sessions(engine).begin() as session:
        session.execute(insert(Watch).values(id=uuid4(), since=now - timedelta(hours=3), until=now))
    engine.dispose()
    return orphan


def files(stack: Stack) -> set[Path]:
    return {file for file in stack.stored.rglob("*") if file.is_file()}


def wait_for_more(ledger: Ledger) -> None:
    count = len(ledger.accepted) + CLIPS + times(100)
    ledger.stack.wait(lambda: len(ledger.accepted) >= count, "more jobs")


def keep_known(ledger: Ledger) -> None:
    """Expect only the jobs that the database knows."""
    known = {str(job_id) for (job_id,) in ledger.stack.sql("SELECT id FROM jobs")}
    ledger.accepted = {job_id: clip for job_id, clip in ledger.accepted.items() if job_id in known}


def searches(stack: Stack) -> int:
    """Count the searches for orphans that found files which they had to keep."""
    return sum(scheduler.log.read_text().count("unknown_files_kept") for scheduler in stack.schedulers)


def wait_for_search(stack: Stack, before: int) -> None:
    stack.wait(lambda: searches(stack) > before, "a search for orphans", seconds=SEARCH_SECONDS)


def copy_under_load(source: Path, target: Path) -> None:
    """Copy a folder in which files come and go."""

    def copy(file: str, to: str) -> None:
        with suppress(FileNotFoundError):
            shutil.copy2(file, to)

    shutil.copytree(source, target, copy_function=copy)
